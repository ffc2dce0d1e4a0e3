//! Tiles: one step of the product that prefill makes of them, where the machine has them; elsewhere `x86/tile.rs` checks
//! what would run.

use tilewright_ir::kernel::{KernelBuilder, Scalar, interp};

use super::{Random, agree};

/// 32 rows times 32 columns, in two steps of 32.
#[test]
fn four_tiles() {
    let mut random = Random::new();
    let mut b = KernelBuilder::new("tiles");
    let (x, w, out) = (b.ptr_param("x"), b.ptr_param("w"), b.ptr_param("out"));
    let (rows, line) = (b.i64(128), b.i64(64));
    (0..4).for_each(|t| b.tile_zero(t));
    let (lo, hi) = (b.i64(0), b.i64(2));
    b.for_(lo, hi, 1, &[], |b, k, _| {
        let (x, w) = (b.index(x, k, 64), b.index(w, k, 2048));
        for i in 0..2 {
            let low = b.index_bytes(x, 16 * 128 * u64::from(i));
            b.tile_load(4 + i, low, rows);
            let low = b.index_bytes(w, 1024 * u64::from(i));
            b.tile_load(6 + i, low, line);
        }
        for t in 0..4 {
            b.tile_dot(t, 4 + t / 2, 6 + t % 2);
        }
        vec![]
    });
    for t in 0..4u8 {
        let p = b.index_bytes(out, u64::from(t / 2) * 16 * 128 + u64::from(t % 2) * 64);
        b.tile_store(t, p, rows);
    }
    let kernel = b.finish();
    let buffers = [random.fill(Scalar::BF16, 32 * 64), random.fill(Scalar::BF16, 64 * 32), vec![0; 32 * 32 * 4]];
    agree(&kernel, &buffers, &[], 1, Scalar::F32, random.seed);

    // Small integers have one right answer, whatever the order of sums.
    let number = |i: usize| half::bf16::from_f32((i * 7 % 11) as f32 - 5.0);
    let bytes = |n: usize| (0..n).flat_map(|i| number(i).to_le_bytes()).collect::<Vec<u8>>();
    let mut buffers = [bytes(32 * 64), bytes(64 * 32), vec![0; 32 * 32 * 4]];
    interp::run(&kernel, &mut buffers, &[], 0).unwrap();
    for m in 0..32 {
        for n in 0..32 {
            // Columns in tiles of 16, in a tile pairs of k after each other.
            let w = |k: usize| number(k / 32 * 1024 + n / 16 * 512 + k % 32 / 2 * 32 + n % 16 * 2 + k % 2).to_f32();
            let sum: f32 = (0..64).map(|k| number(m * 64 + k).to_f32() * w(k)).sum();
            let at = (m * 32 + n) * 4;
            assert_eq!(buffers[2][at..at + 4], sum.to_le_bytes(), "{m} {n}");
        }
    }
}
