//! Runs of random kernels, from small to large, and a look at whether every op was among them.

use std::thread;

use rustc_hash::FxHashSet;
use tilewright_ir::kernel::{OP_TABLE, Scalar, THREAD_OPS, verify};

use super::random::{REGION, RESULTS, STORED, kernel};
use super::{Random, agree};
use crate::backend::Backend;
use crate::target::Target;
use crate::x86::X86;

const CHUNKS: i64 = 2;
const KERNELS: usize = 250;

/// Says how to see a failure again, wherever it comes from.
struct Blame(u64);

impl Drop for Blame {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("TILEWRIGHT_SEED={}", self.0);
        }
    }
}

/// Ops that few targets have.
fn is_special(name: &str) -> bool {
    THREAD_OPS.iter().any(|op| op.info().name == name) || name == "dot2_bf16" || name.starts_with("tile_")
}

#[test]
fn random_kernels() {
    random_kernels_of(KERNELS, false);
}

/// So many of them; every op is in some of them.
pub(crate) fn random_kernels_of(number: usize, aligned: bool) {
    let mut random = Random::new();
    let blame = Blame(random.seed);
    let mut seen = FxHashSet::default();
    for i in 0..number {
        let rare = i % 8 == 7;
        // From small to large: what fails first is short.
        let kernel = kernel(&mut random, 4 + i / 2, rare, aligned);
        assert_eq!(verify(&kernel), Ok(()), "{kernel}");
        seen.extend(kernel.to_string().split([' ', '\n']).map(str::to_string));
        if !rare {
            for target in Target::all().iter().filter(|t| t.arch() == "x86_64") {
                assert_eq!(X86.check(&kernel, target), Ok(()), "{kernel}");
            }
        }
        let n = random.next() as i64;
        let mut buffers: Vec<Vec<u8>> =
            (0..2).map(|k| random.fill(STORED[6 * k], (REGION * CHUNKS) as usize / [1, 4][k])).collect();
        buffers.push(vec![0; (RESULTS * CHUNKS) as usize]);
        agree(&kernel, &buffers, &[n], CHUNKS, Scalar::I8, blame.0);
    }
    let missing: Vec<&str> = OP_TABLE.iter().map(|o| o.name).filter(|&n| !seen.contains(n) && !is_special(n)).collect();
    assert!(missing.is_empty(), "never made: {missing:?}");
}
