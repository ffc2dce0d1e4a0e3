//! Every back end against the interpreter, on every declared target that this machine can run.

pub(crate) mod control;
pub(crate) mod kernels;
pub(crate) mod ops;
mod random;
mod tiles;

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tilewright_ir::kernel::{Kernel, Scalar, Type, interp, print};

use crate::backend::{self, Backend};
use crate::jit::Jit;
use crate::target::Target;

pub(crate) const INTS: [Type; 4] = [Type::I8, Type::I16, Type::I32, Type::I64];
pub(crate) const FLOATS: [Type; 2] = [Type::F32, Type::F64];
pub(crate) const LANES: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Targets this machine can run; the others are named once.
pub(crate) fn targets() -> &'static [Target] {
    static RUN: LazyLock<Vec<Target>> = LazyLock::new(|| {
        let (run, skip): (Vec<Target>, Vec<Target>) =
            Target::all().iter().cloned().partition(|t| t.features_missing_on_host().is_empty());
        for t in skip {
            eprintln!("skipped: {} (this machine lacks {})", t.name, t.features_missing_on_host().join(", "));
        }
        run
    });
    &RUN
}

/// Numbers from a seed; a fresh one unless `TILEWRIGHT_SEED` is set.
pub(crate) struct Random {
    pub(crate) seed: u64,
    state: u64,
}

impl Random {
    pub(crate) fn new() -> Random {
        let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var("TILEWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh);
        Random { seed, state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ a >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ b >> 31
    }

    /// `n` elements: any bits, and often the values at which things go wrong.
    pub(crate) fn fill(&mut self, s: Scalar, n: usize) -> Vec<u8> {
        let special =
            [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -1.0, 1e-7, 6e-5, 65504.0, 65520.0, 3e9, -3e9, 1e38, -2147483648.0_f64];
        let mut out = vec![];
        for _ in 0..n {
            let any = self.next();
            let small = (any >> 32) as i64 % 1000;
            let float = match self.next() % 8 {
                0 => f64::INFINITY,
                1 => f64::NAN,
                2 | 3 => special[any as usize % special.len()],
                _ => small as f64 / 8.0,
            };
            let bits = match (s, self.next() % 3) {
                (_, 0) => any,
                (Scalar::F32, _) => u64::from((float as f32).to_bits()),
                (Scalar::F64, _) => float.to_bits(),
                (Scalar::F16, _) => u64::from(half::f16::from_f64(float).to_bits()),
                (Scalar::BF16, _) => u64::from(half::bf16::from_f64(float).to_bits()),
                (_, 1) => [0, 1, u64::MAX, 1 << (8 * s.bytes() - 1), u64::MAX >> 1, 127, 128][any as usize % 7],
                _ => small as u64,
            };
            out.extend_from_slice(&bits.to_le_bytes()[..s.bytes() as usize]);
        }
        out
    }
}

/// Equal bits, or both not a number.
pub(crate) fn same(s: Scalar, a: &[u8], b: &[u8]) -> bool {
    let nan = |x: &[u8]| match (s, x) {
        (Scalar::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).is_nan(),
        (Scalar::F64, x) => x.try_into().is_ok_and(|x| f64::from_le_bytes(x).is_nan()),
        (Scalar::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).is_nan(),
        (Scalar::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).is_nan(),
        _ => false,
    };
    a == b || nan(a) && nan(b)
}

/// A kernel and what it is run on, for back ends whose code does not run here.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) kernel: Kernel,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) scalars: Vec<i64>,
    pub(crate) chunks: i64,
    /// Elements of the last buffer.
    pub(crate) result: Scalar,
    pub(crate) seed: u64,
}

thread_local! {
    static COLLECTED: RefCell<Option<Vec<Case>>> = const { RefCell::new(None) };
}

/// What `tests` would have run.
pub(crate) fn collect(tests: impl FnOnce()) -> Vec<Case> {
    COLLECTED.set(Some(vec![]));
    tests();
    COLLECTED.take().unwrap_or_default()
}

/// Runs `kernel` by the interpreter and on each target, for `chunks` chunks. The last buffer is the output and has
/// elements `s`.
pub(crate) fn agree(kernel: &Kernel, buffers: &[Vec<u8>], scalars: &[i64], chunks: i64, s: Scalar, seed: u64) {
    let collected = COLLECTED.with_borrow_mut(|cases| {
        let (kernel, buffers, scalars) = (kernel.clone(), buffers.to_vec(), scalars.to_vec());
        cases.as_mut().map(|cases| cases.push(Case { kernel, buffers, scalars, chunks, result: s, seed }))
    });
    if collected.is_some() {
        return;
    }
    let mut wanted = buffers.to_vec();
    for chunk in 0..chunks {
        let run = interp::run(kernel, &mut wanted, scalars, chunk);
        assert_eq!(run, Ok(()), "seed {seed}\n{}", print(kernel));
    }
    for target in targets() {
        for &backend in backend::all() {
            if let Err(found) = backend.check(kernel, target) {
                // A gap says so; nothing else is let through.
                let gap = |reason: &str| reason.contains("there is no such") || reason.contains("is for f32 only");
                assert!(found.iter().all(|u| gap(&u.reason)), "{}: {found:?}", backend.name());
                continue;
            }
            check(backend, target, kernel, (buffers, &wanted), scalars, chunks, (s, seed));
        }
    }
}

fn check(
    backend: &dyn Backend,
    target: &Target,
    kernel: &Kernel,
    (buffers, wanted): (&[Vec<u8>], &[Vec<u8>]),
    scalars: &[i64],
    chunks: i64,
    (s, seed): (Scalar, u64),
) {
    let by = format!("{} for {}", backend.name(), target.name);
    let jit = match Jit::compile(backend, std::slice::from_ref(kernel), target) {
        Ok(jit) => jit,
        Err(e) => panic!("{by}: {e}\n{}", print(kernel)),
    };
    // What lies behind the buffers must not change.
    let mut got: Vec<Vec<u8>> = buffers.iter().map(|b| [b.as_slice(), &[0xa5; 64]].concat()).collect();
    let pointers: Vec<*mut u8> = got.iter_mut().map(|b| b.as_mut_ptr()).collect();
    for chunk in 0..chunks {
        // SAFETY: the interpreter has run the same accesses inside of the same buffers.
        unsafe { jit.call(&kernel.name, &pointers, scalars, chunk) }.unwrap();
    }
    let size = s.bytes() as usize;
    for (k, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let (got, behind) = got.split_at(wanted.len());
        assert_eq!(behind, [0xa5; 64], "{by} wrote behind buffer {k}");
        let mut lanes = got.chunks(size).zip(wanted.chunks(size)).enumerate();
        if let Some((i, (g, w))) = lanes.find(|(_, (g, w))| !same(s, g, w)) {
            let inputs: Vec<&[u8]> = buffers.iter().map(|b| &b[..b.len().min(64)]).collect();
            panic!(
                "{by}, seed {seed}, buffer {k}, element {i}: {g:02x?} instead of {w:02x?}\n{}{inputs:02x?}",
                print(kernel)
            );
        }
    }
}
