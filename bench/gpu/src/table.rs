//! The tables for `docs/performance.md` from a file of results.

use crate::floors::BANDWIDTHS;
use serde_json::Value;
use std::fmt::Write;

/// Tables of every part that has numbers, and what failed.
pub fn of(results: &Value) -> String {
    let mut out = String::new();
    let device = &results["device"];
    let _ = writeln!(
        out,
        "{}, driver {}, {} multiprocessors, {}; {}.\n",
        text(&device["name"]),
        device["driver"],
        device["multiprocessors"],
        text(&results["program"]),
        text(&results["date"]),
    );
    if results["emulated"] == true {
        out += "**Emulated: the times below are instruction counts and say nothing of any GPU.**\n\n";
    }
    let read = largest(results, "read");
    memory(results, &mut out);
    checks(results, &mut out);
    rows(results, "sweep", &mut out, SWEEP, |item| {
        let (default, best) = (&item["default"], &item["best"]);
        let share = |p: &Value| percent(number(&p["gb_s"]) / read);
        let name = text(&item["name"]);
        let times = [show(&default["us"]), share(default), show(&best["us"]), share(best)];
        let [default, default_share, us, best_share] = times;
        vec![vec![name, default, default_share, us, best_share, show(&best["tflop_s"]), text(&best["point"])]]
    });
    rows(results, "jit", &mut out, JIT, |item| {
        let kernel = |k: &Value| {
            let name = format!("{} {}", text(&item["name"]), text(&k["op"]));
            vec![name, show(&k["driver_us"]), show(&k["assembler_us"]), show(&k["registers"]), show(&k["spills"])]
        };
        list(&item["kernels"]).iter().map(kernel).collect()
    });
    rows(results, "decode", &mut out, DECODE, |item| {
        let at = |depth: &Value| {
            let (overlap, apart) = (&depth["overlap"], &depth["apart"]);
            let speed = number(&overlap["weights_gb_s"]);
            let name = format!("{} {}", text(&item["model"]), text(&item["format"]));
            let shares = [percent(speed / read), percent(speed / BANDWIDTHS[1])];
            let [of_read, of_copy] = shares;
            let tokens = [show(&overlap["tokens_per_s"]), show(&apart["tokens_per_s"])];
            let [with, without] = tokens;
            vec![name, show(&depth["depth"]), with, without, show(&overlap["weights_gb_s"]), of_read, of_copy]
        };
        list(&item["depths"]).iter().map(at).collect()
    });
    rows(results, "prefill", &mut out, PREFILL, |item| {
        let name = format!("{} {}", text(&item["model"]), text(&item["format"]));
        let of = |l: &Value| vec![name.clone(), show(&l["tokens"]), show(&l["tokens_per_s"]), show(&l["tflop_s"])];
        list(&item["lengths"]).iter().map(of).collect()
    });
    rows(results, "blas", &mut out, BLAS, |item| {
        vec![vec![text(&item["name"]), show(&item["us"]), show(&item["gb_s"]), show(&item["tflop_s"])]]
    });
    out
}

const SWEEP: &str = "product | default, µs | of reading | best, µs | of reading | TFLOP/s | best point";
const JIT: &str = "kernel | driver's code, µs | ptxas's code, µs | registers | bytes spilled";
const DECODE: &str = "model | depth | tok/s | without overlap | weights, GB/s | of reading | of 4.3 TB/s";
const PREFILL: &str = "model | tokens | tok/s | TFLOP/s";
const BLAS: &str = "cuBLASLt | µs | GB/s | TFLOP/s";

fn part<'a>(results: &'a Value, name: &str) -> &'a Value {
    list(&results["parts"]).iter().find(|p| p["name"] == name).unwrap_or(&Value::Null)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_string()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn show(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { "–".into() }
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0} %", share * 100.0) } else { "–".into() }
}

/// The speed at the largest size of an item of part `device`.
fn largest(results: &Value, item: &str) -> f64 {
    let items = list(&part(results, "device")["items"]);
    let sizes = items.iter().find(|i| i["name"] == item).map_or(&[][..], |i| list(&i["sizes"]));
    sizes.last().map_or(f64::NAN, |s| number(&s["gb_s"]))
}

fn memory(results: &Value, out: &mut String) {
    let items = list(&part(results, "device")["items"]);
    *out += "| memory | MB | GB/s |\n|---|---|---|\n";
    for item in items {
        for size in list(&item["sizes"]) {
            let _ = writeln!(
                out,
                "| {} | {:.0} | {} |",
                text(&item["name"]),
                number(&size["bytes"]) / 1e6,
                show(&size["gb_s"])
            );
        }
    }
    if let Some(launches) = items.iter().find(|i| i["name"] == "launches") {
        *out +=
            "\n| a kernel of next to nothing | one block, µs | a block on each multiprocessor, µs |\n|---|---|---|\n";
        for (name, field) in [
            ("in a graph", "graph_us"),
            ("overlapping", "graph_overlap_us"),
            ("on the stream", "stream_us"),
            ("alone", "alone_us"),
        ] {
            let _ =
                writeln!(out, "| {name} | {} | {} |", show(&launches[field]), show(&launches[format!("{field}_all")]));
        }
    }
    out.push('\n');
}

/// How many kernels were right, and what is wrong with the others; failures of all other parts too.
fn checks(results: &Value, out: &mut String) {
    for p in list(&results["parts"]) {
        let items = list(&p["items"]);
        let failed: Vec<&Value> = items.iter().filter(|i| i.get("error").is_some()).collect();
        let late = list(&p["late"]).len();
        let _ = write!(out, "- `{}`: {} of {} items", text(&p["name"]), items.len() - failed.len(), items.len());
        let _ = if late > 0 { writeln!(out, ", {late} more left out for time") } else { writeln!(out) };
        if let Some(error) = p["error"].as_str() {
            let _ = writeln!(out, "  - {error}");
        }
        for item in failed {
            let _ = writeln!(out, "  - {}: {}", text(&item["name"]), text(&item["error"]));
        }
    }
    out.push('\n');
}

/// A table of the items of a part that have numbers.
fn rows(results: &Value, name: &str, out: &mut String, head: &str, of: impl Fn(&Value) -> Vec<Vec<String>>) {
    let items = list(&part(results, name)["items"]);
    let has_numbers = |i: &&Value| i.get("error").is_none() && i["name"] != "absent";
    let lines: Vec<Vec<String>> = items.iter().filter(has_numbers).flat_map(of).collect();
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "| {head} |\n|{}", "---|".repeat(head.split('|').count()));
    lines.iter().for_each(|cells| *out += &format!("| {} |\n", cells.join(" | ")));
    out.push('\n');
}
