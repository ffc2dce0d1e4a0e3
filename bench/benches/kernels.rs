//! Products with packed matrices of each common format, one thread, for one token and for a prefill step.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tilewright_bench::Product;
use tilewright_codegen::target::Target;

const FORMATS: &[&str] = &["q4_0", "q4_1", "q5_0", "q8_0", "q4_k", "q6_k", "f16"];
const ROWS: u64 = 1536;
const COLS: u64 = 1536;

fn products(c: &mut Criterion) {
    let target = Target::detect().expect("a declared target fits this machine");
    for tokens in [1, 64] {
        let mut group = c.benchmark_group(format!("matmul {ROWS}x{COLS}, {tokens} token(s)"));
        group.sample_size(20);
        for format in FORMATS {
            let mut product = Product::new(&target, format, (ROWS, COLS), tokens, &[], true).expect("a kernel");
            group.throughput(match tokens {
                1 => Throughput::Bytes(product.bytes()),
                n => Throughput::Elements(ROWS * COLS * u64::from(n)),
            });
            group.bench_function(BenchmarkId::from_parameter(format), |b| b.iter(|| product.run()));
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
