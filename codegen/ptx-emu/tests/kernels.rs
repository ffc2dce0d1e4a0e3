//! Whole kernels, each with 50 orders.

mod common;

use common::{Random, kernel, parse, seeded};
use half::bf16;
use tilewright_ptx_emu::{Arg, Class, Config, Device, Launch};

const SEEDS: u64 = 50;

#[test]
fn vector_add() {
    let module = parse(kernel("vector_add"));
    for seed in 0..SEEDS {
        let n = [1, 3, 4, 127, 513, 1030][seed as usize % 6];
        let mut random = Random(seed);
        let (a, b) = (random.smalls(n), random.smalls(n));
        let mut device = Device::new(Config::default());
        let [pa, pb, po] = ["a", "b", "out"].map(|name| device.alloc(name, 4 * n));
        device.write_f32(pa, &a).unwrap();
        device.write_f32(pb, &b).unwrap();
        let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(po), Arg::U32(n as u32)];
        let grid = [n.div_ceil(512) as u32, 1, 1];
        let stats = device.launch(&module, "vector_add", grid, [128, 1, 1], 0, &args, &seeded(seed)).unwrap();
        let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(device.read_f32(po, n).unwrap(), want);
        assert_eq!((stats.global_read, stats.global_written), (8 * n as u64, 4 * n as u64));
    }
}

#[test]
fn reduce() {
    let module = parse(kernel("reduce"));
    for seed in 0..SEEDS {
        let input = Random(seed).smalls(256 * 5);
        let mut device = Device::new(Config::default());
        let (pi, po) = (device.alloc("in", 4 * input.len()), device.alloc("out", 4 * 5));
        device.write_f32(pi, &input).unwrap();
        let args = [Arg::Ptr(pi), Arg::Ptr(po)];
        let stats = device.launch(&module, "reduce", [5, 1, 1], [256, 1, 1], 0, &args, &seeded(seed)).unwrap();
        let want: Vec<f32> = input.chunks(256).map(|c| c.iter().sum()).collect();
        assert_eq!(device.read_f32(po, 5).unwrap(), want);
        assert_eq!(stats.instructions[&Class::Warp], 5 * 8 * 5);
    }
}

#[test]
fn matmul_by_tensor_cores_in_a_pipeline() {
    let module = parse(kernel("matmul"));
    for seed in 0..SEEDS {
        let k = [32, 64, 160][seed as usize % 3];
        let mut random = Random(seed);
        let (a, bt) = (random.smalls(32 * k), random.smalls(16 * k));
        let bytes = |v: &[f32]| v.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect::<Vec<u8>>();
        let mut device = Device::new(Config::default());
        let (pa, pb, pc) = (device.alloc("a", 64 * k), device.alloc("bt", 32 * k), device.alloc("c", 4 * 512));
        device.write(pa, &bytes(&a)).unwrap();
        device.write(pb, &bytes(&bt)).unwrap();
        let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::U32(k as u32)];
        let stats = device.launch(&module, "matmul", [1, 1, 1], [64, 1, 1], 2 * 4096, &args, &seeded(seed)).unwrap();
        let c = device.read_f32(pc, 512).unwrap();
        for (i, c) in c.iter().enumerate() {
            let (row, col) = (i / 16, i % 16);
            let want: f32 = (0..k).map(|x| a[row * k + x] * bt[col * k + x]).sum();
            assert_eq!(*c, want, "seed {seed}, row {row}, column {col}");
        }
        assert_eq!(stats.instructions[&Class::Matrix], 2 * 8 * k as u64 / 32);
        // Two rows of 80 bytes overlap in four banks when they are copied; ldmatrix is free of conflicts.
        assert_eq!((stats.worst_conflict.0, stats.bank_conflicts), (2, 24 * k as u64 / 32), "{stats:?}");
    }
}

#[test]
fn matvec_by_bulk_copies() {
    let module = parse(kernel("matvec_bulk"));
    for seed in 0..SEEDS {
        let (rows, cols) = (24, 128);
        let mut random = Random(seed);
        let (w, x) = (random.smalls(rows * cols), random.smalls(cols));
        let mut device = Device::new(Config::default());
        let [pw, px, py] = [("w", rows * cols), ("x", cols), ("y", rows)].map(|(n, l)| device.alloc(n, 4 * l));
        device.write_f32(pw, &w).unwrap();
        device.write_f32(px, &x).unwrap();
        device.write_f32(py, &vec![0.0; rows]).unwrap();
        let args = [Arg::Ptr(pw), Arg::Ptr(px), Arg::Ptr(py)];
        device.launch(&module, "matvec_bulk", [3, 1, 1], [160, 1, 1], 0, &args, &seeded(seed)).unwrap();
        let y = device.read_f32(py, rows).unwrap();
        for (r, y) in y.iter().enumerate() {
            let want: f32 = (0..cols).map(|c| w[r * cols + c] * x[c]).sum();
            assert_eq!(*y, want, "seed {seed}, row {r}");
        }
    }
}

#[test]
fn split_k_with_a_counter() {
    let module = parse(kernel("split_k"));
    for seed in 0..SEEDS {
        let (ctas, len) = (7usize, 3usize);
        let input = Random(seed).smalls(ctas * len * 32);
        let mut device = Device::new(Config::default());
        let pi = device.alloc("in", 4 * input.len());
        let (pp, pc, po) = (device.alloc("partial", 128 * ctas), device.alloc("counter", 4), device.alloc("out", 128));
        device.write_f32(pi, &input).unwrap();
        device.write(pc, &[0; 4]).unwrap();
        let args = [Arg::Ptr(pi), Arg::Ptr(pp), Arg::Ptr(pc), Arg::Ptr(po), Arg::U32(len as u32)];
        device.launch(&module, "split_k", [ctas as u32, 1, 1], [32, 1, 1], 0, &args, &seeded(seed)).unwrap();
        let want: Vec<f32> = (0..32).map(|i| input.iter().skip(i).step_by(32).sum()).collect();
        assert_eq!(device.read_f32(po, 32).unwrap(), want);
        assert_eq!(device.read(pc, 4).unwrap(), [0; 4], "the counter is ready for the next launch");
    }
}

#[test]
fn a_chain_of_dependent_launches() {
    let module = parse(kernel("chain"));
    for seed in 0..SEEDS {
        let (x, w) = (Random(seed).smalls(128), Random(!seed).smalls(128));
        let mut device = Device::new(Config::default());
        let p = ["x", "w", "y", "z", "end"].map(|n| device.alloc(n, 512));
        device.write_f32(p[0], &x).unwrap();
        device.write_f32(p[1], &w).unwrap();
        let step = |from: usize, to: usize| Launch {
            module: &module,
            kernel: "chain",
            grid: [4, 1, 1],
            block: [32, 1, 1],
            dynamic_shared: 0,
            args: vec![Arg::Ptr(p[from]), Arg::Ptr(p[1]), Arg::Ptr(p[to])],
            dependent: from > 0,
        };
        device.stream(&[step(0, 2), step(2, 3), step(3, 4)], &seeded(seed)).unwrap();
        let want: Vec<f32> = x.iter().zip(&w).map(|(x, w)| x * w * w * w).collect();
        assert_eq!(device.read_f32(p[4], 128).unwrap(), want);
    }
}
