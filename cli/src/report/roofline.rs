//! The roofline: what kernels reach against what memory and arithmetic allow, over how much they compute per byte.

use super::axis::{Log, label};
use super::facts::{Facts, Kernel, Program, Roofs, Timing};
use super::html::{El, clip, digits, el, p, several, short, time};
use super::legend;
use tilewright_codegen::schedules::Math;

/// Of the drawing, and what axes take of it: left, top, right, bottom.
const SIZE: (f64, f64) = (960.0, 470.0);
const MARGIN: (f64, f64, f64, f64) = (64.0, 18.0, 18.0, 48.0);
/// A multiply-add is two operations.
const OPS: f64 = 2.0;
/// Share of a step from which a mark gets its name.
const NAMED: f64 = 0.03;

/// A kernel in the plot.
struct Mark<'a> {
    program: &'a Program,
    kernel: &'a Kernel,
    timing: Option<&'a Timing>,
    /// Operations a byte.
    x: f64,
    share: f64,
}

impl Mark<'_> {
    /// Operations a nanosecond, which are 10^9 a second.
    fn rate(&self, ns: f64) -> f64 {
        self.kernel.work.macs * OPS / ns
    }
}

/// What the roofs allow at an intensity.
fn roof(roofs: &Roofs, x: f64, math: Math) -> f64 {
    let peak = roofs.peaks[math as usize] * OPS;
    let slope = roofs.bandwidth * x;
    (if peak > 0.0 { slope.min(peak) } else { slope }) / 1e9
}

fn marks(facts: &Facts) -> Vec<Mark<'_>> {
    let mut marks = vec![];
    for program in &facts.programs {
        let total = program.sums().ns;
        for kernel in program.kernels.iter().filter(|k| k.work.bytes > 0.0 && k.work.macs > 0.0) {
            let share = kernel.step_ns().filter(|_| total > 0.0).map_or(0.0, |ns| ns / total);
            let x = kernel.work.macs * OPS / kernel.work.bytes;
            marks.push(Mark { program, kernel, timing: kernel.timing.as_ref(), x, share });
        }
    }
    // Small ones lie on large ones.
    marks.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.kernel.name.cmp(&b.kernel.name)));
    marks
}

/// The section's content.
pub fn section(facts: &Facts) -> El {
    let marks = marks(facts);
    let known = marks.iter().any(|m| m.timing.is_some());
    if marks.is_empty() || !known && facts.roofs.is_none() {
        return p("note", "Nothing to draw: neither times of kernels nor roofs of this machine are known.");
    }
    let roofs = facts
        .roofs
        .map_or("The roofs of the machine are not known".to_string(), |r| format!("Roofs: {}", r.source.text()));
    let note = format!(
        "A multiply-add counts as two operations; bytes are weights and keys and values, which come from memory. The area of a \
         mark is its share of the step. {roofs}."
    );
    let mut out = vec![keys(facts, known), el("div").class("plot").child(plot(facts, &marks)), p("note", note)];
    let absent: Vec<String> = facts
        .kernels()
        .filter(|(_, k)| k.work.bytes <= 0.0 || k.work.macs <= 0.0)
        .map(|(_, k)| k.name.clone())
        .collect();
    if !absent.is_empty() {
        out.push(p(
            "note",
            format!("Without products, or with all operands in cache, and so not here: {}.", absent.join(", ")),
        ));
    }
    several(out)
}

fn keys(facts: &Facts, known: bool) -> El {
    let ops = facts.kernels().filter(|(_, k)| k.work.bytes > 0.0 && k.work.macs > 0.0).map(|(_, k)| k.op.as_str());
    let shape = |mark: El, text: &str| {
        let icon = el("svg").class("key").attr("viewBox", "0 0 14 14").child(mark);
        el("span").class("key-item").child(icon).text(text)
    };
    let circle = || el("circle").at([("cx", 7.0), ("cy", 7.0), ("r", 5.0)]);
    let square = el("rect").class("solid").at([("x", 2.0), ("y", 2.0), ("width", 10.0), ("height", 10.0), ("rx", 2.0)]);
    let mut shapes = vec![shape(circle().class("solid"), "decode"), shape(square, "prefill")];
    shapes.push(shape(circle().class("hollow"), if known { "default, before tuning" } else { "what the roof allows" }));
    el("div").class("legend").children(legend(ops)).children(shapes)
}

fn plot(facts: &Facts, marks: &[Mark<'_>]) -> El {
    let (w, h) = SIZE;
    let (left, top, right, bottom) = MARGIN;
    let roofs = facts.roofs;
    let peaks = roofs.iter().flat_map(|r| r.peaks).filter(|v| *v > 0.0).map(|v| v * OPS / 1e9);
    let rates = marks.iter().flat_map(|m| {
        let times = m.timing.map(|t| [m.rate(t.ns), m.rate(t.default_ns)]);
        times.into_iter().flatten().chain(roofs.map(|r| roof(&r, m.x, m.kernel.work.math)))
    });
    // To the right of where the roof bends, so that it is seen to.
    let bends = roofs.iter().map(|r| r.peaks.into_iter().fold(0.0, f64::max) * OPS / r.bandwidth.max(1.0));
    let x = Log::over(marks.iter().map(|m| m.x).chain(bends), 2.5, (left, w - right));
    let y = Log::over(rates.chain(peaks), 2.0, (h - bottom, top));
    let mut svg = el("svg")
        .attr("viewBox", format!("0 0 {w} {h}"))
        .attr("role", "img")
        .attr("aria-label", "roofline plot: achieved operations a second over operations per byte");
    svg = svg.child(grid(&x, &y));
    let mut taken: Vec<(f64, f64, f64, f64)> = vec![];
    if let Some(roofs) = roofs {
        svg = svg.child(lines(&roofs, &x, &y, &mut taken));
    }
    let (mut defaults, mut winners, mut names) = (vec![], vec![], vec![]);
    for m in marks {
        let (cx, r) = (x.place(m.x), 4.0 + 22.0 * m.share.sqrt());
        let Some(t) = m.timing else {
            let allowed = roofs.map(|r| roof(&r, m.x, m.kernel.work.math)).unwrap_or_default();
            defaults.push(
                mark(m, cx, y.place(allowed), 6.0)
                    .attr("class", format!("hollow {}", super::class(&m.kernel.op)))
                    .tip(tip(m)),
            );
            continue;
        };
        let (cy, before) = (y.place(m.rate(t.ns)), y.place(m.rate(t.default_ns)));
        if (before - cy).abs() > 1.0 {
            let line = el("line").at([("x1", cx), ("y1", before), ("x2", cx), ("y2", cy)]);
            let class = super::class(&m.kernel.op);
            defaults.push(line.attr("class", format!("joint {class}")));
            // Where a mark would hide it, it still is to be seen: smaller than the mark and drawn above.
            let hollow = mark(m, cx, before, (r * 0.6).max(3.5)).attr("class", format!("hollow {class}")).tip(tip(m));
            winners.push((1, hollow));
        }
        winners.push((0, mark(m, cx, cy, r).attr("class", format!("mark {}", super::class(&m.kernel.op))).tip(tip(m))));
        taken.push((cx - r, cy - r, cx + r, cy + r));
        if m.share >= NAMED {
            names.push((clip(&m.kernel.label(), 26), cx, cy, r));
        }
    }
    winners.sort_by_key(|w| w.0);
    svg = svg.children(defaults).children(winners.into_iter().map(|w| w.1));
    for (name, cx, cy, r) in names {
        svg = svg.children(named(&name, (cx, cy), r, &mut taken));
    }
    svg
}

fn mark(m: &Mark<'_>, x: f64, y: f64, r: f64) -> El {
    if m.program.max_tokens == 1 {
        return el("circle").at([("cx", x), ("cy", y), ("r", r)]);
    }
    // As large as the circle.
    let a = r * 0.886;
    el("rect").at([("x", x - a), ("y", y - a), ("width", 2.0 * a), ("height", 2.0 * a), ("rx", 0.3 * a)])
}

/// A name beside its mark where there is room, or none.
fn named(name: &str, (x, y): (f64, f64), r: f64, taken: &mut Vec<(f64, f64, f64, f64)>) -> Option<El> {
    let width = name.chars().count() as f64 * 6.3;
    let places = [
        (x + r + 5.0, y + 4.0, "start"),
        (x - r - 5.0, y + 4.0, "end"),
        (x, y - r - 6.0, "middle"),
        (x, y + r + 14.0, "middle"),
        (x + r * 0.7 + 4.0, y + r * 0.7 + 12.0, "start"),
        (x + r * 0.7 + 4.0, y - r * 0.7 - 5.0, "start"),
        (x - r * 0.7 - 4.0, y + r * 0.7 + 12.0, "end"),
        (x - r * 0.7 - 4.0, y - r * 0.7 - 5.0, "end"),
    ];
    let area = |&(x, y, anchor): &(f64, f64, &str)| {
        let from = x - width
            * if anchor == "start" {
                0.0
            } else if anchor == "end" {
                1.0
            } else {
                0.5
            };
        (from, y - 10.0, from + width, y + 3.0)
    };
    let free = |a: &(f64, f64, f64, f64)| {
        let inside = a.0 > MARGIN.0 && a.2 < SIZE.0 - MARGIN.2 && a.1 > MARGIN.1 && a.3 < SIZE.1 - MARGIN.3;
        inside && taken.iter().all(|t| a.2 < t.0 || t.2 < a.0 || a.3 < t.1 || t.3 < a.1)
    };
    let place = places.into_iter().find(|p| free(&area(p)))?;
    taken.push(area(&place));
    Some(el("text").class("name").at([("x", place.0), ("y", place.1)]).attr("text-anchor", place.2).text(name))
}

fn tip(m: &Mark<'_>) -> String {
    let k = m.kernel;
    let head = format!("{} · {}\n{} {}\n{}", k.name, m.program.name(), k.op, k.what.join(", "), k.types.join(", "));
    let Some(t) = m.timing else { return format!("{head}\n{} ops per byte; {}", digits(m.x), k.reason) };
    let roofline = k.of_roofline().map_or(String::new(), |s| format!(", {:.0} % of the roofline", s * 100.0));
    format!(
        "{head}\n{} {}\n{} × {} = {:.1} % of the step\ndefault {} → {} ({:.2} ×)\n{} ops per byte, {} GOP/s{roofline}",
        k.backend,
        k.params,
        k.calls,
        time(t.ns),
        m.share * 100.0,
        time(t.default_ns),
        time(t.ns),
        t.default_ns / t.ns,
        digits(m.x),
        digits(m.rate(t.ns)),
    )
}

fn grid(x: &Log, y: &Log) -> El {
    let mut parts = vec![];
    let (left, right, bottom, top) = (x.span.0, x.span.1, y.span.0, y.span.1);
    for (v, written) in x.ticks() {
        let at = x.place(v);
        let class = if written { "grid" } else { "grid faint" };
        parts.push(el("line").class(class).at([("x1", at), ("y1", top), ("x2", at), ("y2", bottom)]));
        if written {
            let text = el("text").class("tick").at([("x", at), ("y", bottom + 17.0)]).attr("text-anchor", "middle");
            parts.push(text.text(label(v)));
        }
    }
    for (v, written) in y.ticks() {
        let at = y.place(v);
        let class = if written { "grid" } else { "grid faint" };
        parts.push(el("line").class(class).at([("x1", left), ("y1", at), ("x2", right), ("y2", at)]));
        if written {
            let text = el("text").class("tick").at([("x", left - 8.0), ("y", at + 4.0)]).attr("text-anchor", "end");
            parts.push(text.text(label(v)));
        }
    }
    let title = |text: &str| el("text").class("axis").attr("text-anchor", "middle").text(text);
    let middle = (top + bottom) / 2.0;
    parts.push(title("operations per byte of memory").at([("x", (left + right) / 2.0), ("y", bottom + 38.0)]));
    parts.push(title("GOP/s").attr("transform", format!("translate(16 {}) rotate(-90)", short(middle))));
    el("g").children(parts)
}

fn lines(roofs: &Roofs, x: &Log, y: &Log, taken: &mut Vec<(f64, f64, f64, f64)>) -> El {
    let (from, to) = x.range;
    let at = |v: f64, rate: f64| (x.place(v), y.place(rate));
    let mut parts = vec![];
    let peaks = Math::ALL.map(|m| (m.name(), roofs.peaks[m as usize] * OPS / 1e9));
    let most = peaks.iter().map(|p| p.1).fold(0.0, f64::max);
    let slope = roofs.bandwidth / 1e9;
    // Up to the highest peak; without one, to the upper edge.
    let bend = if most > 0.0 { (most / slope).min(to) } else { (y.range.1 / slope).min(to) };
    let start = (y.range.0 / slope).max(from);
    let ((x1, y1), (x2, y2)) = (at(start, slope * start), at(bend, slope * bend));
    parts.push(el("line").class("roof").at([("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)]));
    let angle = (y2 - y1).atan2(x2 - x1).to_degrees();
    // Away from the line, to its upper left.
    let along = (y2 - y1).hypot(x2 - x1).max(1.0);
    let middle = (x1 + (x2 - x1) * 0.5, y1 + (y2 - y1) * 0.5);
    let (mx, my) = (middle.0 + (y2 - y1) / along * 8.0, middle.1 - (x2 - x1) / along * 8.0);
    let place = format!("translate({} {}) rotate({})", short(mx), short(my), short(angle));
    // A slanted text as a few squares.
    let unit = ((x2 - x1) / along, (y2 - y1) / along);
    for step in [-50.0, -30.0, -10.0, 10.0, 30.0, 50.0] {
        let (x, y) = (mx + unit.0 * step, my + unit.1 * step);
        taken.push((x - 10.0, y - 12.0, x + 10.0, y + 6.0));
    }
    parts.push(
        el("text")
            .class("roof-name")
            .attr("transform", place)
            .attr("text-anchor", "middle")
            .text(format!("memory {} GB/s", digits(slope))),
    );
    for (name, peak) in peaks.into_iter().filter(|p| p.1 > 0.0) {
        let class = if peak == most { "roof" } else { "roof second" };
        let ((x1, y1), (x2, _)) = (at((peak / slope).max(from), peak), at(to, peak));
        parts.push(el("line").class(class).at([("x1", x1), ("y1", y1), ("x2", x2), ("y2", y1)]));
        let text = el("text").class("roof-name").at([("x", x2 - 4.0), ("y", y1 - 6.0)]).attr("text-anchor", "end");
        let text = text.text(format!("{name} {} GOP/s", digits(peak)));
        parts.push(text);
        taken.push((x2 - 120.0, y1 - 18.0, x2, y1 - 3.0));
    }
    el("g").children(parts)
}

#[cfg(test)]
mod tests {
    use super::super::example::{facts, kernel};
    use super::*;

    #[test]
    fn marks_lie_below_the_roof_they_are_under() {
        let f = facts();
        let roofs = f.roofs.expect("roofs");
        for m in marks(&f) {
            let t = m.timing.filter(|t| t.floor_ns > 0.0);
            assert!(t.is_none_or(|t| m.rate(t.ns) < roof(&roofs, m.x, Math::Int8)), "{}", m.kernel.name);
        }
        assert_eq!(roof(&roofs, 1.0, Math::Int8), 40.0);
        assert_eq!(roof(&roofs, 1e6, Math::Int8), 800.0);
        assert_eq!(roof(&roofs, 1e6, Math::F32), 200.0);
    }

    #[test]
    fn one_mark_a_kernel_and_its_default() {
        let svg = section(&facts()).to_string();
        assert_eq!(svg.matches("class=\"mark ").count(), 2, "{svg}");
        // Two defaults and the kernel without a record, which is shown where the roof would let it be.
        assert_eq!(svg.matches("class=\"hollow k-").count(), 3, "{svg}");
        assert!(svg.contains("memory 40.0 GB/s") && svg.contains("int8 800 GOP/s"), "{svg}");
    }

    #[test]
    fn without_roofs_or_times() {
        let mut f = facts();
        f.roofs = None;
        assert!(!section(&f).to_string().contains("class=\"roof"));
        f.programs.iter_mut().flat_map(|p| &mut p.kernels).for_each(|k| k.timing = None);
        assert!(section(&f).to_string().contains("Nothing to draw"));
    }

    #[test]
    fn names_never_overlap() {
        let mut f = facts();
        let work = f.programs[0].kernels[0].work;
        f.programs[0].kernels =
            (0..12).map(|i| kernel(&format!("k{i}_matmul"), "matmul", 2e4 + f64::from(i), work)).collect();
        let mut taken = vec![];
        let texts: Vec<El> = (0..12).filter_map(|_| named("a long name", (400.0, 200.0), 8.0, &mut taken)).collect();
        assert!(!texts.is_empty() && texts.len() == taken.len() && texts.len() < 12);
        for (i, a) in taken.iter().enumerate() {
            assert!(taken.iter().skip(i + 1).all(|t| a.2 < t.0 || t.2 < a.0 || a.3 < t.1 || t.3 < a.1));
        }
        assert_eq!(section(&f).to_string().matches("class=\"mark ").count(), 13);
    }
}
