//! A table of where the time of a session went, and the names under which calls of different layers are one.

use std::collections::BTreeMap;
use tilewright_driver::reach::Reach;
use tilewright_runtime::session::CallTime;

/// `matmul blk.3.attn_q` → `matmul blk.*.attn_q`: the same call of all layers.
pub fn kind(label: &str) -> String {
    label
        .split(' ')
        .map(|word| {
            let parts = word.split('.').map(|p| if p.bytes().all(|b| b.is_ascii_digit()) { "*" } else { p });
            parts.collect::<Vec<_>>().join(".")
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Prints, on stderr, microseconds a run by kind of call, for each program.
pub fn print(times: &[CallTime]) {
    let mut programs: BTreeMap<u32, BTreeMap<String, (usize, f64)>> = BTreeMap::new();
    for t in times {
        let entry = programs.entry(t.max_tokens).or_default().entry(kind(&t.label)).or_default();
        entry.0 += 1;
        entry.1 += t.nanos as f64 / t.runs.max(1) as f64 / 1e3;
    }
    for (tokens, kinds) in programs {
        let total: f64 = kinds.values().map(|k| k.1).sum();
        eprintln!("program for up to {tokens} token(s): {total:.1} us a run");
        let mut ops: BTreeMap<&str, f64> = BTreeMap::new();
        for (kind, (_, us)) in &kinds {
            *ops.entry(kind.split(' ').next().unwrap_or("")).or_default() += us;
        }
        let mut ops: Vec<_> = ops.into_iter().collect();
        ops.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (op, us) in ops {
            eprintln!("  {:>5.1} %  {us:>10.1} us  {op}", us / total * 100.0);
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        for (kind, (calls, us)) in kinds {
            eprintln!(
                "    {:>5.1} %  {us:>10.1} us  {calls:>4} x {:>8.1}  {kind}",
                us / total * 100.0,
                us / calls as f64
            );
        }
    }
}

/// Prints, on stderr, what the kernels of each program fetch from memory and which share of the bandwidth that is.
pub fn print_reach(kernels: &[Reach]) {
    let mut program = 0;
    for r in kernels {
        if program != r.max_tokens {
            program = r.max_tokens;
            eprintln!("kernels of the program for up to {program} token(s): bytes and share of the bandwidth");
        }
        let (bytes, share) = (crate::system::human(r.bytes), 100.0 * r.share);
        eprintln!("  {:>5} x {:>10.0} ns  {bytes:>9} {share:>5.1} %  {}", r.calls, r.ns, r.kernel);
    }
}
