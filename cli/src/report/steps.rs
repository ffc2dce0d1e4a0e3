//! Where the time of a step goes: a bar of all kernels before and after tuning, and one of the floor.

use super::facts::{Facts, Kernel, Program};
use super::html::{El, clip, digits, el, p, several, short, span, time};
use super::legend;

/// Share of a bar from which a part has room for its name.
const NAMED: f64 = 0.09;

/// The section's content.
pub fn section(facts: &Facts) -> El {
    let timed: Vec<&Program> = facts.programs.iter().filter(|p| p.sums().ns > 0.0).collect();
    if timed.is_empty() {
        return p("note", "No kernel of this model has a record on this machine.");
    }
    let ops = timed.iter().flat_map(|p| &p.kernels).filter(|k| k.timing.is_some()).map(|k| k.op.as_str());
    several([el("div").class("legend").children(legend(ops))]).children(timed.into_iter().map(|p| program(facts, p)))
}

fn program(facts: &Facts, program: &Program) -> El {
    let sums = program.sums();
    let widest = sums.default_ns.max(sums.ns);
    let rate = |ns: f64| f64::from(program.max_tokens) / ns * 1e9;
    let row = |name: &str, ns: f64, parts: Vec<El>| {
        let text = format!("{} · {} tok/s", time(ns), digits(rate(ns)));
        el("div")
            .class("step")
            .child(span("step-name", name))
            .child(el("div").class("bar").children(parts))
            .child(span("step-value", text))
    };
    let parts = |of: &dyn Fn(&Kernel) -> Option<f64>| -> Vec<El> {
        let timed = program.kernels.iter().filter_map(|k| Some((k, of(k)?))).filter(|(_, ns)| *ns > 0.0);
        timed.map(|(k, ns)| part(k, ns * f64::from(k.counted), widest)).collect()
    };
    let mut rows = vec![
        row("default", sums.default_ns, parts(&|k| k.timing.as_ref().map(|t| t.default_ns))),
        row("tuned", sums.ns, parts(&|k| k.timing.as_ref().map(|t| t.ns))),
    ];
    if let (Some(floor), 1) = (facts.floor_ns(), program.max_tokens) {
        let width = format!("width:{}%", short((floor / widest * 100.0).min(100.0)));
        let tip =
            format!("{} MB of weights at the measured bandwidth", digits(facts.model.bytes_per_token as f64 / 1e6));
        let floor_part = el("span").class("part floor").attr("style", width).attr("title", tip);
        rows.push(row("floor", floor, vec![floor_part]));
    }
    let mut out = vec![el("h3").text(program.name()), el("div").class("steps").children(rows)];
    let mut notes = vec![];
    if sums.unknown > 0 {
        notes.push(format!("{} of {} kernels have no record and are not in it.", sums.unknown, program.kernels.len()));
    }
    let head: Vec<&str> = program.kernels.iter().filter(|k| k.counted == 0).map(|k| k.name.as_str()).collect();
    if !head.is_empty() {
        notes.push(format!("Left out, since only a prompt's last step needs logits: {}.", head.join(", ")));
    }
    if !notes.is_empty() {
        out.push(p("note", notes.join(" ")));
    }
    several(out)
}

fn part(k: &Kernel, ns: f64, widest: f64) -> El {
    let share = ns / widest;
    let tip = format!("{} {}\n{} calls, {} together", k.name, k.what.join(", "), k.counted, time(ns));
    let name = if share >= NAMED { clip(&k.label(), (share * 90.0) as usize) } else { String::new() };
    el("span")
        .attr("class", format!("part {}", super::class(&k.op)))
        .attr("style", format!("width:{}%", short(share * 100.0)))
        .attr("title", tip)
        .text(name)
}

#[cfg(test)]
mod tests {
    use super::super::example::facts;
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_times() {
        let text = section(&facts()).to_string();
        // Default fills the bar, the winner is 1.25 times as fast; the floor of 2 ms is longer than both.
        assert_eq!(text.matches("style=\"width:100%\"").count(), 3, "{text}");
        assert_eq!(text.matches("style=\"width:80%\"").count(), 2, "{text}");
        assert!(text.contains("1 of 2 kernels have no record"), "{text}");
    }

    #[test]
    fn no_times_no_bars() {
        let mut f = facts();
        f.programs.iter_mut().flat_map(|p| &mut p.kernels).for_each(|k| k.timing = None);
        assert!(section(&f).to_string().contains("No kernel of this model has a record"));
    }
}
