//! Registers: which ones the allocator has, and their names at each width.

use iced_x86::Register;
use regalloc2::{MachineEnv, PReg, PRegSet, RegClass};

use super::isa::Kind;

/// Hardware numbers of general registers in the assembler's order: rax rcx rdx rbx rsp rbp rsi rdi r8 ...
const CALLER_SAVED: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];
/// Free for use once saved. rsp and rbp hold the frame.
pub(super) const CALLEE_SAVED: [usize; 5] = [3, 12, 13, 14, 15];

pub(super) const RAX: PReg = PReg::new(0, RegClass::Int);
pub(super) const RCX: PReg = PReg::new(1, RegClass::Int);
pub(super) const RDX: PReg = PReg::new(2, RegClass::Int);

/// Where the System V ABI passes the kernel's three arguments: rdi, rsi, rdx.
pub(super) fn arguments() -> [PReg; 3] {
    [7, 6, 2].map(|n| PReg::new(n, RegClass::Int))
}

/// The registers to allocate from.
pub(super) fn environment(evex: bool) -> MachineEnv {
    let set = |class: RegClass, numbers: &mut dyn Iterator<Item = usize>| {
        let mut s = PRegSet::empty();
        numbers.for_each(|n| s.add(PReg::new(n, class)));
        s
    };
    let vectors = if evex { 32 } else { 16 };
    MachineEnv {
        preferred_regs_by_class: [
            set(RegClass::Int, &mut CALLER_SAVED.into_iter()),
            set(RegClass::Float, &mut (0..vectors)),
            PRegSet::empty(),
        ],
        non_preferred_regs_by_class: [
            set(RegClass::Int, &mut CALLEE_SAVED.into_iter()),
            PRegSet::empty(),
            PRegSet::empty(),
        ],
        scratch_by_class: [None, None, None],
        fixed_stack_slots: vec![],
    }
}

/// The assembler's name of an allocated register.
pub(super) fn name(reg: PReg, kind: Kind) -> Register {
    let n = reg.hw_enc() as u32;
    match kind {
        // With a REX prefix the numbers 4 to 7 are spl, bpl, sil and dil, which follow dl and bl in the assembler's list
        // only after ah to bh.
        Kind::R8 if n >= 4 => Register::SPL + (n - 4),
        Kind::R8 => Register::AL + n,
        Kind::R16 => Register::AX + n,
        Kind::R32 => Register::EAX + n,
        Kind::R64 => Register::RAX + n,
        Kind::Ymm => Register::YMM0 + n,
        Kind::Zmm => Register::ZMM0 + n,
        _ => Register::XMM0 + n,
    }
}
