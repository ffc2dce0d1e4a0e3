//! Addresses, loads and stores, copies, and the memory of threads and blocks.

use smallvec::smallvec;
use tilewright_ir::kernel::{Imm, Inst, Kernel, Opcode, Type, Value, WGMMA_ALIGN, inst_line};

use super::demand::{Space, Spaces};
use super::func::{Class, Opnd, Reg};
use super::isa;
use super::lower::Lower;
use super::value::{Val, Words, class, count};

/// Name of the shared memory of all kernels of a module.
pub(super) const SHARED: &str = "shared_memory";

/// Alignment of where it begins.
pub(super) const ALIGN: u32 = WGMMA_ALIGN as u32;

/// Alignment of each `shared` of a kernel: what `wgmma_f16` reads wants more than others do.
pub(super) fn alignment(kernel: &Kernel) -> u32 {
    if super::has(kernel, Opcode::WgmmaF16) { ALIGN } else { 128 }
}

/// Bytes that a `shared` takes.
pub(super) fn shared_size(bytes: i64, align: u32) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX / 2).next_multiple_of(align)
}

/// Instructions on memory that they cannot work on.
pub(super) fn strange_places(kernel: &Kernel) -> Vec<(String, String)> {
    let spaces = Spaces::of(kernel);
    let mut found = vec![];
    super::each_inst(&kernel.body.insts, &mut |inst| {
        let local = |v: Value| spaces.get(v) == Space::Local || spaces.mixed();
        if inst.op == Opcode::AtomicAdd && local(inst.args[0]) {
            found.push((inst_line(kernel, inst), "there is no such operation on local memory".into()));
        }
    });
    found
}

/// How an instruction cuts a value: registers of one access, and what the access calls them.
fn pieces(ty: Type) -> (usize, &'static str) {
    let n = count(ty);
    match (class(ty.scalar), ty.bytes()) {
        (Class::Double, _) => (n.min(2), "b64"),
        (_, 1) => (1, "u8"),
        (_, 2) => (1, "u16"),
        _ => (n.min(4), "b32"),
    }
}

fn vector(n: usize) -> &'static str {
    match n {
        4 => ".v4",
        2 => ".v2",
        _ => "",
    }
}

fn list(registers: &[Reg]) -> String {
    let names: Vec<String> = registers.iter().map(Reg::to_string).collect();
    if names.len() == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) }
}

impl Lower<'_> {
    /// Where a pointer points.
    pub(super) fn space(&self, v: Value) -> &'static str {
        if self.ty(v) == Type::SHARED {
            return ".shared";
        }
        match self.spaces.get(v) {
            _ if self.spaces.mixed() => "",
            Space::Local => ".local",
            _ => ".global",
        }
    }

    /// The address of an access: base and constant, bytes behind `v` taken in.
    fn place(&mut self, v: Value, bytes: i64) -> (Option<Reg>, i64) {
        let (base, at, name) = match self.val(v) {
            Val::Shared(base, at) => (base, at.wrapping_add(bytes), "add.s32"),
            Val::Ptr(base, at) => (Some(base), at.wrapping_add(bytes), "add.s64"),
            _ => unreachable!("verified: a pointer"),
        };
        match base {
            // What does not fit the instruction; accesses near to each other share the sum.
            Some(base) if !(-(1 << 22)..1 << 22).contains(&at) => {
                let near = at.rem_euclid(1 << 16);
                (Some(self.plus(base, at - near, name)), near)
            }
            _ => (base, at),
        }
    }

    fn address((base, at): (Option<Reg>, i64)) -> String {
        let base = base.map_or(SHARED.to_string(), |r| r.to_string());
        if at == 0 { format!("[{base}]") } else { format!("[{base}+{at}]") }
    }

    pub(super) fn load(&mut self, inst: &Inst) {
        let (ty, from) = (self.ty(inst.results[0]), inst.args[0]);
        let space = self.space(from);
        let mut way = format!("ld{space}");
        if inst.op == Opcode::LoadStream && space == ".global" && self.caps.take(isa::STREAM) {
            way += ".nc.L1::no_allocate";
            if ty.bytes() >= 16 {
                way += ".L2::128B";
            }
        }
        let Imm::Int(bytes) = inst.imm else { unreachable!("verified") };
        let (base, mut at) = self.place(from, bytes);
        let (n, name) = pieces(ty);
        let mut words = Words::new();
        while words.len() < count(ty) {
            let to: Vec<Reg> = (0..n).map(|_| self.f.fresh(class(ty.scalar))).collect();
            self.f.line(format!("{way}{}.{name} {}, {};", vector(n), list(&to), Self::address((base, at))));
            words.extend(to.into_iter().map(Opnd::Reg));
            at += 16;
        }
        self.set(inst.results[0], words);
    }

    pub(super) fn store(&mut self, inst: &Inst) {
        let (ty, to) = (self.ty(inst.args[0]), inst.args[1]);
        let way = format!("st{}", self.space(to));
        let Imm::Int(bytes) = inst.imm else { unreachable!("verified") };
        let words = self.words(inst.args[0]);
        let (base, mut at) = self.place(to, bytes);
        let (n, name) = pieces(ty);
        for piece in words.chunks(n) {
            let from: Vec<Reg> = piece.iter().map(|&w| self.f.reg(w, class(ty.scalar))).collect();
            self.f.line(format!("{way}{}.{name} {}, {};", vector(n), Self::address((base, at)), list(&from)));
            at += 16;
        }
    }

    pub(super) fn prefetch(&mut self, inst: &Inst) {
        let Imm::Int(bytes) = inst.imm else { unreachable!("verified") };
        if self.space(inst.args[0]) == ".global" {
            let at = self.place(inst.args[0], bytes);
            self.f.line(format!("prefetch.global.L2 {};", Self::address(at)));
        }
    }

    pub(super) fn offset(&mut self, inst: &Inst) {
        let by = self.int(inst.args[1]);
        let val = match self.val(inst.args[0]) {
            Val::Ptr(base, at) => {
                let (base, more) = self.f.address(base, &by);
                Val::Ptr(base, at.wrapping_add(more))
            }
            Val::Shared(base, at) => match by.known() {
                Some(more) => Val::Shared(base, at.wrapping_add(more)),
                None => {
                    let base = base.unwrap_or_else(|| self.shared_base());
                    let (base, more) = self.f.shared_address(base, &by);
                    Val::Shared(Some(base), at.wrapping_add(more))
                }
            },
            _ => unreachable!("verified: a pointer"),
        };
        self.set_val(inst.results[0], val);
    }

    pub(super) fn local(&mut self, inst: &Inst) {
        let Imm::Int(bytes) = inst.imm else { unreachable!("verified") };
        let (name, r) = (format!("local_{}", self.locals.len()), self.f.fresh(Class::Double));
        self.locals.push(bytes);
        self.f.line(format!("mov.u64 {r}, {name};"));
        let r = match self.spaces.mixed() {
            true => {
                let generic = self.f.fresh(Class::Double);
                self.f.line(format!("cvta.local.u64 {generic}, {r};"));
                generic
            }
            false => r,
        };
        self.set_val(inst.results[0], Val::Ptr(r, 0));
    }

    pub(super) fn shared(&mut self, inst: &Inst) {
        let Imm::Int(bytes) = inst.imm else { unreachable!("verified") };
        self.set_val(inst.results[0], Val::Shared(None, self.shared.into()));
        self.shared += shared_size(bytes, alignment(self.kernel));
    }

    /// An asynchronous copy; where there is none, a load and a store.
    pub(super) fn copy_async(&mut self, inst: &Inst) {
        let Imm::Int(bytes) = inst.imm else { unreachable!("verified") };
        let space = self.space(inst.args[1]);
        let (to, from) = (self.place(inst.args[0], 0), self.place(inst.args[1], 0));
        let (to, from) = (Self::address(to), Self::address(from));
        if space == ".global" && self.caps.take(isa::COPY_ASYNC) {
            // Only copies of 16 bytes can go past the first cache.
            let way = if bytes == 16 { "cg" } else { "ca" };
            self.f.line(format!("cp.async.{way}.shared.global {to}, {from}, {bytes};"));
            return;
        }
        let n = bytes as usize / 4;
        let words: Vec<Reg> = (0..n).map(|_| self.f.fresh(Class::Word)).collect();
        self.f.line(format!("ld{space}{}.b32 {}, {from};", vector(n), list(&words)));
        self.f.line(format!("st.shared{}.b32 {to}, {};", vector(n), list(&words)));
    }

    pub(super) fn copy_group(&mut self, inst: &Inst) {
        if !self.caps.take(isa::COPY_ASYNC) {
            return;
        }
        match inst.imm {
            Imm::Int(left) if inst.op == Opcode::CopyWait => self.f.line(format!("cp.async.wait_group {left};")),
            _ => self.f.line("cp.async.commit_group;".into()),
        }
    }

    pub(super) fn atomic(&mut self, inst: &Inst) {
        let more = self.scalar(inst.args[1]);
        let more = self.f.reg(more, Class::Word);
        let at = self.place(inst.args[0], 0);
        let old = self.f.fresh(Class::Word);
        self.f.line(format!("atom.global.add.u32 {old}, {}, {more};", Self::address(at)));
        self.set(inst.results[0], smallvec![old.into()]);
    }

    /// An address in shared memory, as text.
    pub(super) fn shared_row(&mut self, v: Value) -> String {
        let at = self.place(v, 0);
        Self::address(at)
    }
}
