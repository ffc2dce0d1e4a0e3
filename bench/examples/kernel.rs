//! One product kernel: its machine code, and its time on this machine from the nearest cache and from memory.
//!
//! ```text
//! cargo run --release -p tilewright-bench --example kernel -- q4_1 1536 576 8 tokens=8 target=x86-64-v3 [--asm]
//! ```
//!
//! Format, rows, columns, tokens, then parameters of the schedule and the target (this machine's). The least of many short runs: what the code can do
//! when nobody disturbs it.

use std::time::Instant;
use tilewright_bench::Product;
use tilewright_codegen::target::Target;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [format, rows, cols, tokens, rest @ ..] = &args[..] else {
        return Err("usage: kernel FORMAT ROWS COLS TOKENS [PARAM=VALUE]... [target=NAME] [--asm]".into());
    };
    let (rows, cols, tokens): (u64, u64, u32) = (rows.parse()?, cols.parse()?, tokens.parse()?);
    let mut set = vec![];
    let mut target = Target::detect()?;
    for (name, value) in rest.iter().filter_map(|a| a.split_once('=')) {
        match name {
            "target" => target = Target::get(value)?,
            _ => set.push((name.to_string(), value.parse()?)),
        }
    }
    for cold in [false, true] {
        let mut p = Product::new(&target, format, (rows, cols), tokens, &set, cold)?;
        if !cold && rest.iter().any(|a| a == "--asm") {
            println!("{}", p.text);
        }
        let mut best = f64::INFINITY;
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 0.4 {
            let one = Instant::now();
            p.run();
            best = best.min(one.elapsed().as_secs_f64());
        }
        let macs = (rows * cols * u64::from(tokens)) as f64;
        let (what, rate) = (if cold { "memory" } else { "cache" }, p.bytes() as f64 / best / 1e9);
        println!("from {what:6} {:10.2} us {rate:7.1} GB/s {:8.1} GMAC/s", best * 1e6, macs / best / 1e9);
    }
    Ok(())
}
