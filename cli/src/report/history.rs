//! How tuning went: for each kernel its trials, round by round, against its default.

use super::axis::{Log, label};
use super::facts::{Facts, Kernel, Program, Timing};
use super::html::{El, el, p, several, short, time};
use std::collections::BTreeMap;
use tilewright_autotune::record::Trial;

const SIZE: (f64, f64) = (320.0, 168.0);
/// Left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (44.0, 10.0, 8.0, 24.0);
/// Times of the default above which trials lie on the upper edge.
const MOST: f64 = 4.0;
/// Fewer trials than this are no history.
const FEW: usize = 4;

/// The section's content.
pub fn section(facts: &Facts) -> El {
    let classes = backends(facts);
    let told = |t: &Timing| t.history.len() >= FEW;
    let (mut plots, mut short_ones) = (vec![], vec![]);
    for (program, kernel) in facts.kernels() {
        match &kernel.timing {
            Some(t) if told(t) => plots.push(plot(program, kernel, t, &classes)),
            Some(t) if !t.history.is_empty() => short_ones.push(kernel.name.as_str()),
            _ => {}
        }
    }
    if plots.is_empty() && short_ones.is_empty() {
        return p("note", "No record with trials.");
    }
    let mut out = vec![keys(facts), el("div").class("multiples").children(plots)];
    if !short_ones.is_empty() {
        let text = format!("Fewer than {FEW} trials, and so no plot: {}.", short_ones.join(", "));
        out.push(p("note", text));
    }
    several(out)
}

/// Classes of back ends, in the order of their names.
fn backends(facts: &Facts) -> BTreeMap<&str, &'static str> {
    let all = facts.kernels().filter_map(|(_, k)| k.timing.as_ref()).flat_map(|t| &t.history);
    let mut classes: BTreeMap<&str, &'static str> = all.map(|t| (t.backend.as_str(), "b-0")).collect();
    for (i, class) in classes.values_mut().enumerate() {
        *class = ["b-0", "b-1", "b-2"][i.min(2)];
    }
    classes
}

fn keys(facts: &Facts) -> El {
    let item = |class: &'static str, text: &str| {
        let swatch = el("span").attr("class", format!("swatch {class}"));
        el("span").class("key-item").child(swatch).text(text)
    };
    let winner = el("svg").class("key").attr("viewBox", "0 0 14 14").child(el("circle").class("winner").at([
        ("cx", 7.0),
        ("cy", 7.0),
        ("r", 5.0),
    ]));
    let line = el("svg").class("key").attr("viewBox", "0 0 14 14").child(el("line").class("default").at([
        ("x1", 0.0),
        ("y1", 7.0),
        ("x2", 14.0),
        ("y2", 7.0),
    ]));
    el("div")
        .class("legend")
        .children(backends(facts).into_iter().map(|(name, class)| item(class, name)))
        .child(el("span").class("key-item").child(winner).text("winner"))
        .child(el("span").class("key-item").child(line).text("default"))
}

/// Trials by round, the fastest of a round first.
fn rounds(history: &[Trial]) -> BTreeMap<u32, Vec<&Trial>> {
    let mut rounds: BTreeMap<u32, Vec<&Trial>> = BTreeMap::new();
    for t in history {
        rounds.entry(t.round).or_default().push(t);
    }
    rounds.values_mut().for_each(|r| r.sort_by(|a, b| a.ns.total_cmp(&b.ns)));
    rounds
}

fn params(t: &Trial) -> String {
    t.params.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

fn plot(program: &Program, kernel: &Kernel, t: &Timing, classes: &BTreeMap<&str, &'static str>) -> El {
    let (w, h) = SIZE;
    let (left, top, right, bottom) = MARGIN;
    let most = t.default_ns.max(t.ns) * MOST;
    let times = t.history.iter().map(|t| t.ns.min(most)).chain([t.ns, t.default_ns]);
    let y = Log::over(times, 1.08, (h - bottom, top));
    let mut svg = el("svg").attr("viewBox", format!("0 0 {w} {h}")).attr("role", "img");
    svg = svg.attr("aria-label", format!("trials of {}", kernel.name));
    // Labels at most one a line of text.
    let mut last = f64::INFINITY;
    for (v, _) in y.ticks().into_iter().filter(|t| t.1) {
        let at = y.place(v);
        svg = svg.child(el("line").class("grid").at([("x1", left), ("y1", at), ("x2", w - right), ("y2", at)]));
        if last - at >= 13.0 {
            last = at;
            let text = el("text").class("tick").at([("x", left - 6.0), ("y", at + 3.5)]).attr("text-anchor", "end");
            svg = svg.child(text.text(label(v / 1e3)));
        }
    }
    let rounds = rounds(&t.history);
    let step = (w - left - right) / (t.history.len().max(1) as f64);
    let (mut x, mut points, mut named) = (left, vec![], f64::NEG_INFINITY);
    for (i, (round, trials)) in rounds.iter().enumerate() {
        let width = step * trials.len() as f64;
        if i % 2 == 1 {
            let band = [("x", x), ("y", top), ("width", width), ("height", h - top - bottom)];
            svg = svg.child(el("rect").class("band").at(band));
        }
        let middle = x + width / 2.0;
        if middle - named >= 18.0 {
            named = middle;
            let text = el("text").class("tick").at([("x", middle), ("y", h - 8.0)]).attr("text-anchor", "middle");
            svg = svg.child(text.text(round));
        }
        for (j, trial) in trials.iter().enumerate() {
            points.push((x + step * (j as f64 + 0.5), *trial));
        }
        x += width;
    }
    let at = y.place(t.default_ns);
    svg = svg.child(el("line").class("default").at([("x1", left), ("y1", at), ("x2", w - right), ("y2", at)]));
    let wins = |trial: &Trial| trial.params == t.winner.0 && trial.backend == t.winner.1;
    let last_win = points.iter().rposition(|(_, trial)| wins(trial));
    for (i, (x, trial)) in points.iter().enumerate() {
        let (low, high) = (y.place(trial.ns - trial.mad_ns), y.place(trial.ns + trial.mad_ns));
        let class = classes.get(trial.backend.as_str()).copied().unwrap_or("b-2");
        let over = if trial.ns > most { "\n(slower than the plot shows)" } else { "" };
        let tip = format!(
            "round {}: {} ± {}\n{} {}{over}",
            trial.round,
            time(trial.ns),
            time(trial.mad_ns),
            trial.backend,
            params(trial)
        );
        let mut group = el("g").attr("class", format!("trial {class}"));
        if low - high > 1.0 {
            group = group.child(el("line").at([("x1", *x), ("y1", low), ("x2", *x), ("y2", high)]));
        }
        let cy = y.place(trial.ns.min(most));
        if Some(i) == last_win {
            group = group.child(el("circle").class("winner").at([("cx", *x), ("cy", cy), ("r", 5.5)]));
        }
        svg = svg.child(group.child(el("circle").at([("cx", *x), ("cy", cy), ("r", 2.3)])).tip(tip));
    }
    let caption = el("figcaption").child(el("b").text(&kernel.name)).text(format!(" {}", kernel.label())).child(
        el("small").text(format!(
            "{} · {} → {} · {} {} tried",
            program.name(),
            time(t.default_ns),
            time(t.ns),
            t.search,
            t.tried
        )),
    );
    el("figure").child(caption).child(svg).attr("style", format!("--w:{}px", short(w)))
}

#[cfg(test)]
mod tests {
    use super::super::example::facts;
    use super::*;

    #[test]
    fn a_point_a_trial_and_one_winner() {
        let f = facts();
        let text = section(&f).to_string();
        assert_eq!(text.matches("<figure").count(), 2);
        assert_eq!(text.matches("class=\"trial b-0\"").count(), 8, "{text}");
        // One in each plot and one in the legend; as many lines for the default.
        assert_eq!((text.matches("class=\"winner\"").count(), text.matches("class=\"default\"").count()), (3, 3));
        assert_eq!(text.matches("slower than the plot shows").count(), 2);
    }

    #[test]
    fn rounds_are_in_order() {
        let f = facts();
        let t = f.programs[0].kernels[0].timing.as_ref().expect("a record");
        let rounds: Vec<(u32, usize)> = rounds(&t.history).into_iter().map(|(r, t)| (r, t.len())).collect();
        assert_eq!(rounds, [(0, 2), (1, 1), (2, 1)]);
    }

    #[test]
    fn few_trials_are_named_only() {
        let mut f = facts();
        f.programs[1].kernels[0].timing.as_mut().expect("a record").history.truncate(2);
        let text = section(&f).to_string();
        assert!(text.matches("<figure").count() == 1 && text.contains("no plot: k2_matmul"), "{text}");
    }
}
