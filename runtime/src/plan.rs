//! The plan: what a compiled model does for one run, as plain data.
//!
//! A [`Plan`] holds programs; a [`Program`] is an ordered list of kernel [`Call`]s on a memory map. The compiler writes
//! it, the runtime walks it. Nothing here depends on the compiler.
//!
//! Memory is four regions: the packed weights (mapped read-only), one arena for activations (offsets fixed by the
//! compiler, reused by liveness), the KV cache (its size follows the context chosen at load), and the step inputs that
//! the runtime fills before each run.

use serde::{Deserialize, Serialize};

/// Version of the plan and manifest format; an artifact of another version is refused.
pub const SCHEMA: u32 = 4;

/// Positions whose keys lie side by side in the K cache: what one vector of a kernel scores at once.
pub const KEY_BLOCK: u32 = 16;

/// In a history, where every logit was negative infinity.
pub const NO_TOKEN: u32 = 1 << 31;

/// Everything that runs, and the facts about the model that running needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Facts about the model.
    pub model: ModelFacts,
    /// Kernel symbol names; [`Call::kernel`] is an index into it.
    pub kernels: Vec<String>,
    /// One cache for each layer that has one, in layer order.
    pub kv: Vec<KvLayer>,
    /// Rotary tables that the runtime computes for each run.
    pub rope: Vec<RopeTable>,
    /// Programs by rising `max_tokens`; the first has `max_tokens == 1`.
    pub programs: Vec<Program>,
    /// Bytes of the packed weights file.
    pub weights_bytes: u64,
    /// For a GPU, how each of [`Plan::kernels`] is launched; empty for a CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<Launch>,
    /// Bytes of the counters by which the blocks of a GPU kernel find out which of them is the last: zero when a model is
    /// loaded, and left at zero by every kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub counters_bytes: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Plan {
    /// Whether it is for a GPU.
    pub fn is_gpu(&self) -> bool {
        !self.launches.is_empty()
    }

    /// Bytes of the arena: programs run one after another and share it.
    pub(crate) fn arena_bytes(&self) -> u64 {
        self.programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0)
    }
}

/// How a GPU kernel is launched. The chunks of a [`Call`] are its blocks.
///
/// Its parameters are 64-bit device addresses, first those of [`Call::args`], then those of [`Call::scalars`]: of memory for
/// a pointer, of an `i64` in device memory for a scalar, so that a captured step serves every token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Whether it waits for the kernel before it by itself (`griddepcontrol.wait`), so that its launch need not.
    pub waits: bool,
}

/// Facts about the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// Name as the model file gives it.
    pub name: String,
    /// Architecture.
    pub arch: String,
    /// Number of token ids; rows of the logits.
    pub vocab: u32,
    /// Context length the model was trained for.
    pub n_ctx: u32,
    /// Number of parameters.
    pub parameters: u64,
    /// Size of the model file(s) in bytes.
    pub file_bytes: u64,
    /// Weight bytes that one decoded token reads.
    pub bytes_per_token: u64,
    /// Multiply-adds of one decoded token, attention not counted.
    pub macs_per_token: u64,
}

/// The cache of one layer in f16: K `[kv_heads][capacity / 16][head_dim][16]`, V `[kv_heads][capacity][head_dim]`; on a GPU
/// both as V.
///
/// In K the same element of [`KEY_BLOCK`] positions makes a row, so that a lane of a vector is a position and scores need
/// no sum over lanes. The capacity is a multiple of [`KEY_BLOCK`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvLayer {
    /// Number of K/V heads.
    pub heads: u32,
    /// Elements a head.
    pub head_dim: u32,
}

/// `cos` and `sin` of `position * inv_freq[i] `, times `scale`: f32 `[T][2][inv_freq.len()]`, cosines first.
/// Angles are computed in f64 from the f32 frequencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeTable {
    /// Radians a position.
    pub inv_freq: Vec<f32>,
    /// Factor on both (attention scaling of long-context variants; 1 normally).
    pub scale: f32,
}

/// An ordered list of calls for at most `max_tokens` tokens at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Most tokens a run of this program may have.
    pub max_tokens: u32,
    /// Bytes of arena it needs.
    pub arena_bytes: u64,
    /// Calls in order; each sees all memory effects of those before it.
    pub calls: Vec<Call>,
    /// Calls from here on compute logits and are left out when nobody wants them.
    pub head_start: u32,
    /// Where in the arena the logits are: f32, `vocab` of them a token.
    pub logits: u64,
    /// Bytes from one token's logits to the next's.
    pub logits_stride: u64,
    /// On a GPU, the call after the head that takes the likeliest token, and prepares the next step with it: tokens,
    /// history, position and rotary rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Call>,
    /// The same with a token drawn by chance: see [`Arg::Sampling`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<Call>,
}

impl Program {
    /// The calls that prepare the next step, of which a step has one.
    pub(crate) fn following(&self) -> impl Iterator<Item = &Call> {
        self.next.iter().chain(&self.sampled)
    }

    /// Where in the arena the logits of token `t` are.
    pub(crate) fn logits_at(&self, t: usize) -> u64 {
        assert!(t < self.max_tokens as usize);
        self.logits + t as u64 * self.logits_stride
    }
}

/// One operation: the kernel is called for each chunk in `0..chunks`, in any order and on any worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Index into [`Plan::kernels`].
    pub kernel: u32,
    /// What it is, for people: `blk.3 norm+quantize attn_norm`.
    pub label: String,
    /// Pointer arguments in the kernel's order.
    pub args: Vec<Arg>,
    /// Scalar arguments in the kernel's order.
    pub scalars: Vec<ScalarArg>,
    /// Number of chunks; the same in every run.
    pub chunks: u32,
}

/// A pointer argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Packed weights at this byte offset; read only.
    Weights(u64),
    /// Arena at this byte offset.
    Arena(u64),
    /// K cache of this entry of [`Plan::kv`].
    K(u32),
    /// V cache of this entry of [`Plan::kv`].
    V(u32),
    /// Token ids of this run, `i32[T]`.
    Tokens,
    /// Rotary table of this index.
    Rope(u32),
    /// GPU only: the rotary table of this index for all positions of the context, f32 `[capacity][2][inv_freq.len()]`.
    RopeAll(u32),
    /// GPU only: `i64[3]`, the values of [`ScalarArg::Tokens`], [`ScalarArg::Past`] and [`ScalarArg::Capacity`].
    State,
    /// GPU only: `i32[capacity + 1]`, the token at each position, as far as a [`Program::next`] or [`Program::sampled`] chose
    /// it. Where it could not, all bits of the first token whose logit is not a finite number nor negative infinity are
    /// flipped, or there is [`NO_TOKEN`].
    History,
    /// GPU only: how a [`Program::sampled`] chooses, [`crate::sampler::OnDevice`].
    Sampling,
    /// GPU only: f32 `[capacity]`, the draw in [0, 1) for the token after each position.
    Draws,
    /// GPU only: the counters at this byte offset.
    Counters(u64),
}

/// A scalar argument, `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalarArg {
    /// A constant.
    Const(i64),
    /// Tokens in this run, 1 ..= `max_tokens`.
    Tokens,
    /// Positions already in the cache before this run: the first token of the run is at this position.
    Past,
    /// Capacity of the KV cache in positions, the context rounded up to a multiple of [`KEY_BLOCK`].
    Capacity,
}
