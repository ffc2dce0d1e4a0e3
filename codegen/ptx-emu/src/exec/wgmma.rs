//! `wgmma`: products of four warps, with matrices in shared memory, that go on after the instruction.
//!
//! `mma_async` runs once all four warps of a warp group have come to it, and its sums are in their registers at once; but until
//! the `wait_group` that covers it nobody may read or write them, write the registers of A, or write the shared memory that it
//! reads. One step of 16 k is `c + Σ a·b` in f64, whose products are exact, rounded to f32 once. Tensor cores keep fewer bits:
//! compare with a tolerance.

use super::divergence::Block;
use super::{Cx, Flow, lanes};
use crate::check::Bad;
use crate::check::bounds;
use crate::check::proxy::CHUNK;
use crate::check::race::SEVERAL;
use crate::ops::{Left, RegId, Src, Wgmma};
use crate::ty::Ty;
use crate::{Fault, FaultKind};
use std::cell::Cell;
use std::sync::Arc;

/// Warps of a warp group.
const GROUP: usize = 4;
/// Elements of a step, and rows of A that a warp has.
const K: usize = 16;
const ROWS: usize = 16;

/// What a product under way does with a register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Factor,
    /// The register of a sum of so many columns that has this index.
    Sum {
        n: usize,
        index: usize,
    },
}

/// A product that its warp has not waited for.
struct Pending {
    group: u32,
    line: u32,
    n: usize,
    d: Vec<RegId>,
    a: Vec<RegId>,
    /// Chunks of shared memory that it reads.
    chunks: Arc<[u32]>,
}

/// The registers of a warp as `wgmma` sees them.
pub(crate) struct Tensor {
    /// One more than the fences so far.
    epoch: u32,
    /// For each register, the epoch of the last ordinary write and read.
    writes: Vec<u32>,
    reads: Vec<Cell<u32>>,
    /// What products under way do with a register, and the line of the newest.
    busy: Vec<Option<(Use, u32)>>,
    pending: Vec<Pending>,
    /// Groups committed.
    groups: u32,
    /// A register that was written although it is busy, and the line of the product: told when the instruction is over.
    pub clobbered: Option<(RegId, u32)>,
}

impl Tensor {
    pub fn new(regs: usize) -> Self {
        Self {
            epoch: 1,
            writes: vec![0; regs],
            reads: vec![Cell::new(0); regs],
            busy: vec![None; regs],
            pending: Vec::new(),
            groups: 0,
            clobbered: None,
        }
    }

    /// An instruction writes a register.
    pub fn wrote(&mut self, r: RegId) {
        self.writes[r as usize] = self.epoch;
        if let Some((_, line)) = self.busy[r as usize] {
            self.clobbered = Some((r, line));
        }
    }

    /// An instruction reads a register; the line of the product that has yet to write it.
    pub fn read(&self, r: RegId) -> Option<u32> {
        self.reads[r as usize].set(self.epoch);
        self.busy[r as usize].filter(|(u, _)| *u != Use::Factor).map(|(_, line)| line)
    }

    fn mark(&mut self, p: &Pending) {
        for r in &p.a {
            self.busy[*r as usize] = Some((Use::Factor, p.line));
        }
        for (index, r) in p.d.iter().enumerate() {
            self.busy[*r as usize] = Some((Use::Sum { n: p.n, index }, p.line));
        }
    }

    /// Takes the products of all groups but the `left` newest.
    fn done(&mut self, left: u32) -> Vec<Pending> {
        let due = self.groups.saturating_sub(left);
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(|p| p.group < due);
        for r in done.iter().flat_map(|p| p.a.iter().chain(&p.d)) {
            self.busy[*r as usize] = None;
        }
        rest.iter().for_each(|p| self.mark(p));
        self.pending = rest;
        done
    }
}

/// A matrix in shared memory: rows of 16 k, as a descriptor describes them.
struct Matrix {
    start: u64,
    leading: u64,
    stride: u64,
    /// Bytes of a row of the swizzled pattern; 0 without one.
    row: u64,
}

impl Matrix {
    /// Reads a descriptor. `align`: to what the kernel aligns its shared memory.
    fn new(bits: u64, align: u64) -> Result<Matrix, String> {
        const FIELDS: u64 = 0x3fff | 0x3fff << 16 | 0x3fff << 32 | 7 << 49 | 3 << 62;
        if bits & !FIELDS != 0 {
            return Err(format!("descriptor {bits:#018x} has bits outside of its fields: {:#x}", bits & !FIELDS));
        }
        if bits >> 49 & 7 != 0 {
            return Err(format!("base offset {}: only 0 is known to the emulator", bits >> 49 & 7));
        }
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let row = [0, 128, 64, 32][(bits >> 62) as usize];
        let m = Matrix { start: field(0), leading: field(16), stride: field(32), row };
        if row == 0 {
            return Ok(m);
        }
        let (pattern, inside) = (8 * row, m.start % row);
        if !(m.start - inside).is_multiple_of(pattern) {
            return Err(format!(
                "starts at {:#x}: with base offset 0, a pattern begins at multiples of {pattern}",
                m.start
            ));
        }
        if inside + 32 > row {
            return Err(format!("16 k that begin at byte {inside} of a row of {row} bytes leave it"));
        }
        if align < pattern {
            return Err(format!(
                "the pattern repeats every {pattern} bytes, but the kernel aligns its shared memory to {align} only"
            ));
        }
        Ok(m)
    }

    /// Address of eight k of a row.
    fn at(&self, r: usize, half: usize) -> u64 {
        let (block, r, half) = (r as u64 / 8 * self.stride, r as u64 % 8, half as u64);
        if self.row == 0 {
            return self.start + block + r * 16 + half * self.leading;
        }
        let a = self.start + block + r * self.row + half * 16;
        a ^ (a >> 3 & (self.row - 16))
    }
}

impl Cx<'_, '_> {
    pub(super) fn in_flight<T>(&self, r: RegId, line: u32, verb: &str) -> Result<T, Fault> {
        let name = &self.info.kernel.reg_names[r as usize];
        let m = format!("{verb} register {name}, which the wgmma of line {line} uses until its wgmma.wait_group");
        self.err(Some(self.mask.trailing_zeros() as usize), FaultKind::MissingWait, m)
    }

    /// Threads do not leave with products under way.
    pub(super) fn nothing_in_flight(&mut self) -> Result<(), Fault> {
        let pending = self.warp().tensor.as_ref().and_then(|t| t.pending.first());
        match pending.map(|p| p.line) {
            None => Ok(()),
            Some(line) => {
                let m = format!("exits, and there is no wgmma.wait_group for the wgmma of line {line}");
                self.err(None, FaultKind::MissingWait, m)
            }
        }
    }

    /// All of `wgmma` is for whole warp groups that have not diverged. The first warp of ours.
    fn warp_group(&self) -> Result<usize, Fault> {
        let first = self.w / GROUP * GROUP;
        let threads: u32 = self.info.block.iter().product();
        if threads as usize / 32 < first + GROUP {
            let m =
                format!("is for 128 threads, and the warp group of warp {} has fewer: the CTA has {threads}", self.w);
            return self.err(None, FaultKind::Collective, m);
        }
        if self.mask != u32::MAX {
            let lane = (!self.mask).trailing_zeros();
            return self.err(None, FaultKind::Collective, format!("lane {lane} of the warp does not take part"));
        }
        Ok(first)
    }

    /// A value that is the same in all lanes.
    fn uniform(&self, s: Src, what: &str) -> Result<u64, Fault> {
        let v = self.src(s)?;
        match lanes(u32::MAX).find(|&l| v[l] != v[0]) {
            None => Ok(v[0]),
            Some(l) => {
                let m = format!("{what} is {:#x}, and {:#x} in lane 0", v[l], v[0]);
                self.err(Some(l), FaultKind::Collective, m)
            }
        }
    }

    /// What the four warps must agree on: whether D is added to, and the descriptors.
    fn operands(&self, m: &Wgmma) -> Result<[u64; 3], Fault> {
        let a = if let Left::Shared(s) = m.a { self.uniform(s, "the descriptor of A")? } else { 0 };
        let add = self.uniform(m.add.0, "the predicate")? & 1 ^ u64::from(m.add.1);
        Ok([add, a, self.uniform(m.b, "the descriptor of B")?])
    }

    /// The rules for registers of this warp.
    fn registers(&self, m: &Wgmma, add: bool) -> Result<(), Fault> {
        let warp = &self.cta.warps[self.w];
        let Some(t) = &warp.tensor else { return Ok(()) };
        let name = |r: &RegId| &self.info.kernel.reg_names[*r as usize];
        if t.epoch == 1 {
            return self.err(None, FaultKind::MissingFence, "there is no wgmma.fence before the first wgmma");
        }
        let fresh = |r: &&RegId| t.writes[**r as usize] == t.epoch;
        let left: &[RegId] = if let Left::Regs(r) = &m.a { r } else { &[] };
        if let Some(r) = left.iter().chain(&m.d).find(fresh) {
            let m = format!("register {} was written, with no wgmma.fence since", name(r));
            return self.err(None, FaultKind::MissingFence, m);
        }
        if let Some(r) = m.d.iter().find(|r| t.reads[**r as usize].get() == t.epoch) {
            let m = format!("register {} of the sum was read, with no wgmma.fence since", name(r));
            return self.err(None, FaultKind::MissingFence, m);
        }
        for (index, r) in m.d.iter().enumerate() {
            let missing = !warp.defined[*r as usize];
            if add && missing != 0 {
                let lane = missing.trailing_zeros() as usize;
                return self.err(
                    Some(lane),
                    FaultKind::Uninitialised,
                    format!("register {} was never written", name(r)),
                );
            }
            // Sums of the same shape follow each other with no wait.
            match t.busy[*r as usize] {
                Some((u, line)) if u != (Use::Sum { n: m.n, index }) => return self.in_flight(*r, line, "writes"),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn wgmma(&mut self, m: &Wgmma) -> Result<Flow, Fault> {
        let first = self.warp_group()?;
        let [add, a, b] = self.operands(m)?;
        self.registers(m, add == 1)?;
        let (w, g, pc) = (self.w, self.g, self.pc);
        self.warp().lanes.groups[g].block = Block::WarpGroup;
        let mut all = true;
        for other in (first..first + GROUP).filter(|o| *o != w) {
            let lanes = &self.cta.warps[other].lanes;
            if lanes.live != u32::MAX {
                let m = format!("warp {other} of the warp group has exited, or lanes of it");
                return self.err(None, FaultKind::Collective, m);
            }
            match lanes.groups.iter().find(|g| g.block == Block::WarpGroup) {
                Some(group) if group.pc != pc => {
                    let line = self.info.kernel.code[group.pc].line;
                    let m = format!("warp {other} of the warp group is at the wgmma of line {line}");
                    return self.err(None, FaultKind::Collective, m);
                }
                here => all &= here.is_some(),
            }
        }
        if all {
            self.product(m, first, [add, a, b])?;
            for w in first..first + GROUP {
                let lanes = &mut self.cta.warps[w].lanes;
                let here = |g: &super::divergence::Group| g.block == Block::WarpGroup;
                while let Some(g) = lanes.groups.iter().position(here) {
                    lanes.advance(g, pc + 1);
                }
            }
        }
        Ok(Flow::Moved)
    }

    /// Rows of a matrix in shared memory, and the chunks that they are in.
    fn matrix(
        &mut self,
        (what, bits): (&str, u64),
        rows: usize,
        ty: Ty,
        known: &[u32],
        chunks: &mut Vec<u32>,
    ) -> Result<Vec<f64>, Fault> {
        let here = |bad| self.fault(None, bad);
        let align = self.info.kernel.shared_align;
        let matrix = Matrix::new(bits, align)
            .map_err(|m| here(Bad::new(FaultKind::Descriptor, format!("the descriptor of {what}: {m}"))))?;
        let shared = &self.cta.shared;
        let mut out = Vec::with_capacity(rows * K);
        for (r, half) in (0..rows).flat_map(|r| [(r, 0), (r, 1)]) {
            let place = |bad| match bad {
                Bad::Here(kind, m) => here(Bad::new(kind, format!("{what}, row {r}: {m}"))),
                there => here(there),
            };
            let at = bounds::within("shared", matrix.at(r, half), CHUNK, shared.data.len()).map_err(place)?;
            shared.read_async(at, known).map_err(place)?;
            chunks.push((at / CHUNK) as u32);
            let element = |b: &[u8]| f64::from(super::matrix::factor(ty, u32::from(b[0]) | u32::from(b[1]) << 8));
            out.extend(shared.data[at..at + CHUNK].chunks_exact(2).map(element));
        }
        self.stats.shared_read += (2 * rows * CHUNK) as u64;
        Ok(out)
    }

    /// All four warps are here.
    fn product(&mut self, m: &Wgmma, first: usize, [add, a, b]: [u64; 3]) -> Result<(), Fault> {
        let (last, line) = (self.w, self.line);
        // Any of the warps may be the first whose part of the product begins to read.
        let mut known = self.cta.clocks[last].clone();
        for w in first..first + GROUP {
            known.iter_mut().zip(&self.cta.clocks[w]).for_each(|(k, c)| *k = (*k).min(*c));
            self.w = w;
            let here = self.operands(m)?;
            if here != [add, a, b] {
                let m = format!("warps {w} and {last} of a warp group differ in a descriptor or the predicate");
                return self.err(None, FaultKind::Collective, m);
            }
        }
        self.w = last;
        let mut chunks = Vec::new();
        let right = self.matrix(("B", b), m.n, m.ty, &known, &mut chunks)?;
        let left = match &m.a {
            Left::Shared(_) => self.matrix(("A", a), GROUP * ROWS, m.ty, &known, &mut chunks)?,
            Left::Regs(regs) => {
                let mut left = Vec::with_capacity(GROUP * ROWS * K);
                for w in first..first + GROUP {
                    self.w = w;
                    left.extend(self.gather(regs, m.ty, true, K)?.into_iter().map(f64::from));
                }
                left
            }
        };
        self.w = last;
        let chunks: Arc<[u32]> = chunks.into();
        for w in first..first + GROUP {
            chunks.iter().for_each(|c| self.cta.shared.begin_async(*c, line));
            let rows = &left[(w - first) * ROWS * K..][..ROWS * K];
            let warp = &mut self.cta.warps[w];
            for (i, r) in m.d.iter().enumerate() {
                let d = &mut warp.regs[*r as usize];
                for (l, d) in d.iter_mut().enumerate() {
                    let (row, col) = (l / 4 + i / 2 % 2 * 8, i / 4 * 8 + l % 4 * 2 + i % 2);
                    let pairs = rows[row * K..][..K].iter().zip(&right[col * K..][..K]);
                    let sum: f64 = pairs.map(|(a, b)| a * b).sum();
                    let c = if add == 1 { f64::from(f32::from_bits(*d as u32)) } else { 0.0 };
                    *d = u64::from(((if m.minus { c - sum } else { c + sum }) as f32).to_bits());
                }
                warp.defined[*r as usize] = u32::MAX;
            }
            if let Some(t) = &mut warp.tensor {
                let a = if let Left::Regs(r) = &m.a { r.clone() } else { Vec::new() };
                let p = Pending { group: t.groups, line, n: m.n, d: m.d.clone(), a, chunks: chunks.clone() };
                t.mark(&p);
                t.pending.push(p);
            }
        }
        Ok(())
    }

    pub(super) fn wgmma_fence(&mut self) -> Result<Flow, Fault> {
        self.warp_group()?;
        if let Some(t) = &mut self.warp().tensor {
            t.epoch += 1;
        }
        Ok(Flow::Next)
    }

    pub(super) fn wgmma_commit(&mut self) -> Result<Flow, Fault> {
        self.warp_group()?;
        if let Some(t) = &mut self.warp().tensor {
            t.groups += 1;
        }
        Ok(Flow::Next)
    }

    pub(super) fn wgmma_wait(&mut self, left: u32) -> Result<Flow, Fault> {
        self.warp_group()?;
        let done = self.warp().tensor.as_mut().map(|t| t.done(left)).unwrap_or_default();
        let time = self.cta.clocks[self.w][self.w];
        for p in done {
            let who = crate::check::race::Who { line: p.line, ..self.who(usize::from(SEVERAL), false) };
            p.chunks.iter().for_each(|c| self.cta.shared.end_async(who, *c, time));
        }
        // All lanes have waited: the reads are over for each of them.
        self.tick();
        Ok(Flow::Next)
    }
}
