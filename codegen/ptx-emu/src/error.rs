//! What can be wrong: a text that is no PTX we know, and a kernel that does what it must not.

use std::fmt;

/// The text is not PTX, or holds what the emulator does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

/// What kind of mistake a kernel made. All but [`FaultKind::Launch`] and [`FaultKind::StepLimit`] are bugs of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Bytes outside of every allocation, or behind the end of shared, local or parameter memory.
    OutOfBounds,
    /// An address that is no multiple of the size of the access.
    Misaligned,
    /// Bytes, or a register, that nothing wrote.
    Uninitialised,
    /// Two threads use the same byte, at least one writes, and nothing orders them.
    Race,
    /// An aligned barrier in divergent code, or one that not all of its warps reach.
    BarrierDivergence,
    /// Bytes that an asynchronous copy writes, used with no wait for that copy.
    MissingWait,
    /// What `wgmma` or a bulk copy uses was touched by ordinary instructions, with no `wgmma.fence` (registers) or
    /// `fence.proxy.async` (shared memory) between.
    MissingFence,
    /// A matrix descriptor of `wgmma` that says what the hardware cannot do.
    Descriptor,
    /// Data of a previous grid used before `griddepcontrol.wait`.
    DependencyWait,
    /// An mbarrier that was not initialised, overflows, or is used as plain memory.
    Mbarrier,
    /// An operation of a warp, or of a warp group, whose lanes do not all come, or that reads a lane that does not take part.
    Collective,
    /// No warp can go on.
    Deadlock,
    /// The limit of steps was reached: an endless loop, or a wait for a CTA that is not resident.
    StepLimit,
    /// The kernel executed `trap`.
    Trap,
    /// The launch itself is wrong: arguments, sizes, no such kernel.
    Launch,
}

impl FaultKind {
    fn words(self) -> &'static str {
        match self {
            FaultKind::OutOfBounds => "out of bounds",
            FaultKind::Misaligned => "misaligned",
            FaultKind::Uninitialised => "uninitialised read",
            FaultKind::Race => "race",
            FaultKind::BarrierDivergence => "barrier divergence",
            FaultKind::MissingWait => "missing wait",
            FaultKind::MissingFence => "missing fence",
            FaultKind::Descriptor => "matrix descriptor",
            FaultKind::DependencyWait => "before griddepcontrol.wait",
            FaultKind::Mbarrier => "mbarrier misuse",
            FaultKind::Collective => "warp-wide operation",
            FaultKind::Deadlock => "deadlock",
            FaultKind::StepLimit => "step limit",
            FaultKind::Trap => "trap",
            FaultKind::Launch => "launch",
        }
    }
}

/// A mistake of a kernel, and where it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of mistake.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// Line of the PTX text; 0 where no instruction is to blame.
    pub line: u32,
    /// `%ctaid`.
    pub cta: [u32; 3],
    /// Warp of the CTA.
    pub warp: u32,
    /// Lane of the warp, where it was one.
    pub lane: Option<u32>,
    /// What happened, in words.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        write!(f, "kernel {}, line {}, CTA ({x},{y},{z}), warp {}", self.kernel, self.line, self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        write!(f, ": {}: {}", self.kind.words(), self.message)
    }
}

impl std::error::Error for Fault {}
