//! What a session runs on.

use crate::cuda::DeviceFacts;
use crate::error::RunError;
use crate::sampler::OnDevice;

/// How a machine chooses tokens by itself.
#[derive(Clone, Copy)]
pub(crate) enum Decode<'a> {
    /// The likeliest.
    Likeliest,
    /// By chance, with a draw for each step.
    Sampled(OnDevice, &'a [f32]),
}

/// A CPU or a GPU with a plan bound to its memory. It knows programs and positions, a session what they mean.
pub(crate) trait Machine: Send {
    /// Runs a program on at most its `max_tokens` tokens, of which the first is at position `past`. It may still be at work
    /// when this returns.
    fn run(&mut self, program: usize, tokens: &[u32], past: u32, head: bool) -> Result<(), RunError>;

    /// Row `t` of the logits of the program that ran last, with its head.
    fn row(&mut self, program: usize, t: usize) -> Result<&[f32], RunError>;

    /// Runs `token` at position `past` and then, `steps` times in all, the next one as `how` says, appending the history's entry
    /// for each to `entries`. False, and nothing is done, if the machine cannot do that by itself.
    fn decode(
        &mut self,
        _token: u32,
        _past: u32,
        _steps: u32,
        _how: Decode<'_>,
        _entries: &mut Vec<u32>,
    ) -> Result<bool, RunError> {
        Ok(false)
    }

    /// Nanoseconds of each call of a program so far; `None` unless asked for.
    fn times(&self, program: usize) -> Option<&[u64]>;

    /// Threads that run kernels, the caller's included.
    fn threads(&self) -> usize;

    /// Bytes of the KV cache.
    fn kv_bytes(&self) -> u64;

    /// Bytes for activations.
    fn arena_bytes(&self) -> u64;

    /// What the user should know of how it started.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// The GPU, if it is one.
    fn device(&self) -> Option<&DeviceFacts>;
}
