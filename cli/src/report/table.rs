//! The kernels of each program as a table; a click on a head sorts it.

use super::facts::{Facts, Kernel, Program};
use super::html::{El, digits, el, several, short, span, time};

/// Heads, what they mean, and whether they are of numbers.
const COLUMNS: &[(&str, &str, bool)] = &[
    ("kernel", "name in the object, and what it computes", false),
    ("weights", "formats and shapes of the weights it reads", false),
    ("calls", "calls in a step", true),
    ("choice", "back end and parameters", false),
    ("default", "median time of a call with the default parameters", true),
    ("best", "median time of a call as it is compiled, and its spread", true),
    ("gain", "default over best", true),
    ("roofline", "the floor of bytes and products over the time; above 100 % where data came from a cache", true),
    ("share", "share of the step", true),
    ("record", "layer of the record and its date", false),
];

/// The section's content.
pub fn section(facts: &Facts) -> El {
    several(facts.programs.iter().flat_map(|p| [el("h3").text(p.name()), table(p)]))
}

fn table(program: &Program) -> El {
    let total = program.sums().ns;
    let heads = COLUMNS.iter().map(|(name, tip, number)| {
        let button = el("button").attr("type", "button").text(name);
        el("th").class(if *number { "number" } else { "" }).attr("scope", "col").attr("title", tip).child(button)
    });
    let rows = program.kernels.iter().map(|k| row(k, total));
    let table = el("table")
        .class("kernels")
        .child(el("thead").child(el("tr").children(heads)))
        .child(el("tbody").children(rows));
    el("div").class("scroll").child(table)
}

/// A cell that is sorted by `key`.
fn cell(key: f64, number: bool) -> El {
    el("td").class(if number { "number" } else { "" }).attr("data-key", if key.is_finite() { key } else { 0.0 })
}

fn row(k: &Kernel, total: f64) -> El {
    let dot = span("dot", "");
    let name = el("th").attr("scope", "row").attr("data-key", &k.name).child(dot).child(span("mono", &k.name));
    let name = name.child(el("small").text(k.what.join(", ")));
    let types = el("td").attr("data-key", k.types.join(" ")).child(span("mono", k.types.join(", ")));
    let choice = el("td").attr("data-key", format!("{} {}", k.backend, k.params));
    let choice = choice.child(span("chip", &k.backend)).text(" ").child(span("mono", &k.params));
    let calls = cell(k.calls.into(), true).text(k.calls);
    let head = [name, types, calls, choice];
    let tail = match &k.timing {
        None => vec![
            el("td").attr("colspan", "5").attr("data-key", -1).class("absent").text(&k.reason),
            el("td").attr("data-key", ""),
        ],
        Some(t) => {
            let gain = if t.ns > 0.0 { t.default_ns / t.ns } else { 1.0 };
            let better = if gain >= 1.005 { "gain" } else { "faint" };
            let roofline = k.of_roofline();
            let tried = format!("{}: {} tried, {} rejected", t.search, t.tried, t.rejected);
            let day = t.date.split('T').next().unwrap_or_default();
            vec![
                cell(t.default_ns, true).text(time(t.default_ns)),
                cell(t.ns, true)
                    .child(el("b").text(time(t.ns)))
                    .child(el("small").text(format!("± {}", time(t.mad_ns)))),
                cell(gain, true).child(span(better, format!("{gain:.2} ×"))),
                cell(roofline.unwrap_or(0.0), true).child(roofline.map_or(span("faint", "–"), meter)),
                share(k, total),
                el("td").attr("data-key", &t.date).attr("title", tried).text(&t.layer).child(el("small").text(day)),
            ]
        }
    };
    el("tr").attr("class", super::class(&k.op)).children(head).children(tail)
}

/// A number with a small bar below it.
fn meter(share: f64) -> El {
    let width = format!("width:{}%", short((share * 100.0).clamp(0.0, 100.0)));
    let bar = el("span").class("meter").child(el("i").attr("style", width));
    several([el("span").text(format!("{:.0} %", share * 100.0)), bar])
}

fn share(k: &Kernel, total: f64) -> El {
    match k.step_ns().filter(|_| total > 0.0) {
        _ if k.counted == 0 => {
            cell(0.0, true).child(span("faint", "head")).attr("title", "only where logits are wanted")
        }
        None => cell(0.0, true).child(span("faint", "–")),
        Some(ns) => {
            let share = ns / total;
            let width = format!("width:{}%", short((share * 100.0).clamp(0.0, 100.0)));
            let bar = el("span").class("meter wide").child(el("i").attr("style", width));
            cell(share, true).child(el("span").text(format!("{} %", digits(share * 100.0)))).child(bar)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::facts;
    use super::*;

    #[test]
    fn a_row_a_kernel_with_as_many_cells_as_heads() {
        let text = section(&facts()).to_string();
        assert_eq!(text.matches("<tr class=").count(), 3);
        for row in text.split("<tr class=").skip(1) {
            let row = row.split("</tr>").next().unwrap_or_default();
            let cells = row.matches("<td").count() + row.matches("<th").count();
            let spanned = if row.contains("colspan=\"5\"") { 4 } else { 0 };
            assert_eq!(cells + spanned, COLUMNS.len(), "{row}");
            assert_eq!(row.matches("data-key=").count(), cells, "{row}");
        }
        assert!(text.contains("1.25 ×") && text.contains("nothing to choose") && text.contains("50 %"), "{text}");
    }
}
