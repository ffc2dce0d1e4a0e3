//! What each generation of GPUs has, and from which version of PTX on it can be said.

use tilewright_ir::kernel::{HALF_OPS, Inst, Kernel, Opcode, Scalar};

use crate::target::{Gpu, Target};

/// Something that is not on every GPU: from which compute capability on, and which version of PTX has a word for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feature {
    sm: u32,
    version: u32,
}

const fn since(sm: u32, version: u32) -> Feature {
    Feature { sm, version }
}

/// `ldmatrix`.
pub(super) const LOAD_MATRIX: Feature = since(75, 65);
/// `mma` of 16 x 8 x 8 `f16`.
pub(super) const MMA_K8: Feature = since(75, 65);
/// `mma` of 16 x 8 x 16 `f16` and `bf16`.
pub(super) const MMA_K16: Feature = since(80, 70);
/// `cp.async`.
pub(super) const COPY_ASYNC: Feature = since(80, 70);
/// Two `f32` to a pair of `f16` or `bf16` in one instruction.
pub(super) const PAIR: Feature = since(80, 70);
/// `fma` of `bf16`.
pub(super) const FMA_BF16: Feature = since(80, 70);
/// `add`, `sub` and `mul` of `bf16`.
pub(super) const ADD_BF16: Feature = since(90, 78);
/// Loads that do not evict, and that fetch whole lines into the second cache.
pub(super) const STREAM: Feature = since(75, 74);
/// `griddepcontrol`.
pub(super) const DEPENDENT: Feature = since(90, 78);
/// `wgmma`, which only [`WARP_GROUPS`] has.
pub(super) const WGMMA: Feature = since(90, 80);
/// What a target that has `wgmma` has, and says in its declaration.
const WARP_GROUPS: &str = "sm_90a";
/// `fence.acq_rel`.
pub(super) const FENCE: Feature = since(75, 63);

/// The GPU, and the version of PTX that the module needs so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    sm: u32,
    pub(super) version: u32,
}

impl Caps {
    pub(super) fn new(gpu: &Gpu) -> Caps {
        Caps { sm: gpu.sm, version: gpu.ptx }
    }

    /// True if there is such a thing; then the module's version rises to what it needs.
    pub(super) fn take(&mut self, feature: Feature) -> bool {
        if self.sm < feature.sm {
            return false;
        }
        self.version = self.version.max(feature.version);
        true
    }
}

/// Why the GPUs of a target, whose compute capability is `sm`, cannot do this instruction.
pub(super) fn lacks(kernel: &Kernel, inst: &Inst, target: &Target, sm: u32) -> Option<String> {
    use Opcode::*;
    let bf16 = inst.args.first().is_some_and(|&a| kernel.ty(a).scalar == Scalar::BF16);
    let needed = match inst.op {
        Dot2 | TileZero | TileLoad | TileStore | TileDot => return Some("there is no such instruction here".into()),
        WgmmaF16 if !target.has(WARP_GROUPS) => return Some(format!("needs {WARP_GROUPS}")),
        MmaBf16 => MMA_K16.sm,
        op if HALF_OPS.contains(&op) && bf16 => FMA_BF16.sm,
        _ => 0,
    };
    (sm < needed).then(|| format!("needs sm_{needed}"))
}
