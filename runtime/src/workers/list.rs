//! Lists of kernel calls, ready to run.

use crate::loader::KernelFn;

/// A kernel call with its arguments bound.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The function.
    pub kernel: KernelFn,
    /// Its pointers.
    pub args: *const *mut u8,
    /// Its scalars.
    pub scalars: *const i64,
    /// Called for each of `0..chunks`; 1 to [`crate::artifact::MAX_CHUNKS`].
    pub chunks: u32,
}

/// Calls in order; each sees all effects of those before it.
#[derive(Debug)]
pub struct CallList {
    pub(super) steps: Box<[Step]>,
    head_start: usize,
}

// SAFETY: a list is addresses; they are followed only inside `Pool::run`, whose caller vouches for them on any thread.
unsafe impl Send for CallList {}
// SAFETY: as above; nothing in a list changes.
unsafe impl Sync for CallList {}

impl CallList {
    /// Steps of which those from `head_start` on may be left out.
    pub fn new(steps: Vec<Step>, head_start: usize) -> CallList {
        debug_assert!(steps.iter().all(|s| (1..=crate::artifact::MAX_CHUNKS).contains(&s.chunks)));
        CallList { head_start: head_start.min(steps.len()), steps: steps.into() }
    }

    /// The steps of a run.
    pub(super) fn steps(&self, head: bool) -> &[Step] {
        if head { &self.steps } else { &self.steps[..self.head_start] }
    }

    /// The list as units, and how many of them come before the head.
    pub(super) fn units(&self, merge: bool) -> (Box<[Unit]>, usize) {
        let mut units: Vec<Unit> = Vec::new();
        let mut body = 0;
        for (i, step) in self.steps.iter().enumerate() {
            if i == self.head_start {
                body = units.len();
            }
            match units.last_mut() {
                Some(last) if merge && i != self.head_start && step.chunks == 1 => last.end += 1,
                _ => units.push(Unit { first: i as u32, end: i as u32 + 1, chunks: step.chunks }),
            }
        }
        if self.head_start == self.steps.len() {
            body = units.len();
        }
        (units.into(), body)
    }
}

/// What workers claim chunks of: one step, and those of one chunk each that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) first: u32,
    /// Steps from the second on have one chunk. Whoever finishes the last chunk of the first step runs them.
    pub(super) end: u32,
    /// Of the first step.
    pub(super) chunks: u32,
}
