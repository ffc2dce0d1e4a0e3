//! The page: a head with the numbers that matter, then the sections.

use super::facts::{Choice, Facts};
use super::html::{El, digits, el, p, several, span, time};
use super::{graph, history, roofline, steps, table};
use crate::system::human;
use tilewright_codegen::schedules::Math;

/// A section: anchor, title, what it is, content.
type Section = (&'static str, &'static str, &'static str, El);

/// The whole file.
pub fn page(facts: &Facts) -> String {
    let sections: Vec<Section> = vec![
        (
            "time",
            "Where the time goes",
            "Sums of the median times of all calls of a step, by kernel.",
            steps::section(facts),
        ),
        ("roofline", "Roofline", "What each kernel reaches, under what the machine allows.", roofline::section(facts)),
        ("kernels", "Kernels", "Everything that runs. A click on a head sorts.", table::section(facts)),
        (
            "tuning",
            "Tuning",
            "Trials that the records kept, by round; microseconds a call, bars are the spread. Points on the upper edge were slower.",
            history::section(facts),
        ),
        ("graph", "Graph", "The graph after all passes; equal layers are drawn once.", graph::section(facts)),
        ("passes", "Passes", "What each pass rewrote.", passes(&facts.passes)),
        ("weights", "Weights", "Bytes by format, as in the model file.", graph::formats(facts)),
        (
            "choices",
            "Choices",
            "What was decided for the whole model, and the machine it was decided on.",
            choices(facts),
        ),
    ];
    let links = sections.iter().map(|s| el("a").attr("href", format!("#{}", s.0)).text(s.1));
    let nav = el("nav").child(el("div").children(links));
    let main = el("main").children(sections.into_iter().map(section));
    let foot = el("footer").text(format!("{} {}", concat!("Tilewright ", env!("CARGO_PKG_VERSION"), " ·"), facts.date));
    let head = el("head")
        .child(el("meta").attr("charset", "utf-8"))
        .child(el("meta").attr("name", "viewport").attr("content", "width=device-width, initial-scale=1"))
        .child(el("meta").attr("name", "color-scheme").attr("content", "light dark"))
        .child(el("title").text(format!("{} · Tilewright", facts.model.name)))
        .child(el("style").own(include_str!("style.css")));
    let script = el("script").own(include_str!("script.js"));
    let body = el("body").children([header(facts), nav, main, foot, script]);
    format!("<!DOCTYPE html>\n{}\n", el("html").attr("lang", "en").children([head, body]))
}

fn section((id, title, lead, content): Section) -> El {
    el("section").attr("id", id).child(el("h2").text(title)).child(p("lead", lead)).child(content)
}

fn header(facts: &Facts) -> El {
    let m = &facts.model;
    let threads = |n: u32| if n == 1 { "1 thread".to_string() } else { format!("{n} threads") };
    let mut known =
        vec![m.arch.clone(), format!("{} M parameters", digits(m.parameters as f64 / 1e6)), facts.target.clone()];
    known.extend(facts.threads.map(threads));
    known.push(facts.date.replace('T', " ").replace('Z', " UTC"));
    let name = if m.name.is_empty() { "a model without a name" } else { &m.name };
    let processor = facts.device.lines().find_map(|l| l.strip_prefix("model ")).map_or("", str::trim);
    el("header").child(
        el("div")
            .child(p("eyebrow", "Tilewright report"))
            .child(el("h1").text(name))
            .child(el("p").class("facts").children(known.iter().map(|k| span("fact", k))))
            .child(p("processor", processor))
            .child(el("div").class("tiles").children(tiles(facts)))
            .children(missing(facts)),
    )
}

fn tile(name: &str, value: String, unit: &str, note: String) -> El {
    let value = el("div").class("value").text(value).child(span("unit", unit));
    el("div")
        .class("tile")
        .child(el("div").class("tile-name").text(name))
        .child(value)
        .child(el("div").class("tile-note").text(note))
}

/// The numbers that matter: floor, token, gain.
fn tiles(facts: &Facts) -> Vec<El> {
    let m = &facts.model;
    let split = |ns: f64| {
        let text = time(ns);
        text.split_once(' ').map_or((text.clone(), String::new()), |(v, u)| (v.to_string(), u.to_string()))
    };
    let none = || ("–".to_string(), String::new());
    let sums = facts.programs.first().map(|p| p.sums()).unwrap_or_default();
    let known = Some(sums).filter(|s| s.ns > 0.0);
    let floor = facts.floor_ns();
    let ((floor_value, floor_unit), floor_note) = match (floor, facts.roofs) {
        (Some(ns), Some(r)) => (split(ns), format!("{} tok/s at {} GB/s", digits(1e9 / ns), digits(r.bandwidth / 1e9))),
        _ => (none(), "bandwidth not measured".into()),
    };
    let part = if sums.unknown > 0 { format!(", without {} kernels", sums.unknown) } else { String::new() };
    let ((value, unit), note) = match known {
        Some(s) => (split(s.ns), format!("{} tok/s at best{part}", digits(1e9 / s.ns))),
        None => (none(), "no records".into()),
    };
    let mut tiles =
        vec![tile("a token's kernels", value, &unit, note), tile("floor", floor_value, &floor_unit, floor_note)];
    if let (Some(s), Some(floor)) = (known, floor) {
        let share = format!("{:.0}", floor / s.ns * 100.0);
        tiles.push(tile("of the floor's speed", share, "%", "the rest is products and overhead".into()));
    }
    if let Some(s) = known {
        tiles.push(tile(
            "tuning gained",
            format!("{:.2}", s.default_ns / s.ns),
            "×",
            format!("from {}", time(s.default_ns)),
        ));
    }
    let bytes = human(m.bytes_per_token);
    let (value, unit) = bytes.split_once(' ').unwrap_or((&bytes, ""));
    let macs = format!("{} M multiply-adds", digits(m.macs_per_token as f64 / 1e6));
    tiles.push(tile("weights a token", value.to_string(), unit, macs));
    tiles
}

/// A line on how to get what is not known.
fn missing(facts: &Facts) -> Option<El> {
    let open = |reason: &str| reason != "nothing to choose";
    let missing = facts.kernels().filter(|(_, k)| k.timing.is_none() && open(&k.reason)).count();
    let all = facts.kernels().count();
    (missing > 0).then(|| {
        let which =
            if missing == all { "No kernel has".to_string() } else { format!("{missing} of {all} kernels have no") };
        let which = if missing == all { format!("{which} a record") } else { format!("{which} record") };
        p("callout", format!("{which} on this machine. Make them, in about a minute: "))
            .child(el("code").text(&facts.tune))
    })
}

fn passes(passes: &[Choice]) -> El {
    let count = |c: &Choice| c.choice.parse::<f64>().unwrap_or(0.0);
    let most = passes.iter().map(count).fold(1.0, f64::max);
    let row = |c: &Choice| {
        let width = format!("width:{}%", super::html::short(count(c) / most * 100.0));
        let bar = el("span").class("meter wide").child(el("i").attr("style", width));
        el("tr")
            .class(if count(c) == 0.0 { "idle" } else { "" })
            .child(el("th").attr("scope", "row").child(span("mono", &c.what)))
            .child(el("td").class("number").child(el("span").text(&c.choice)).child(bar))
            .child(el("td").text(&c.why))
    };
    let heads = ["pass", "rewrites", "what it does"].map(|h| el("th").attr("scope", "col").text(h));
    let head = el("thead").child(el("tr").children(heads));
    let table = el("table").class("passes").child(head).child(el("tbody").children(passes.iter().map(row)));
    el("div").class("scroll").child(table)
}

fn choices(facts: &Facts) -> El {
    let mut rows: Vec<(&str, El)> = vec![];
    for c in &facts.choices {
        rows.push((&c.what, several([el("b").text(&c.choice), el("div").text(&c.why)])));
    }
    for line in facts.device.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        rows.push((name, el("span").text(value.trim())));
    }
    if let Some(r) = facts.roofs {
        let known = Math::ALL.into_iter().filter(|m| r.peaks[*m as usize] > 0.0);
        let rates: Vec<String> =
            known.map(|m| format!("{} {} G/s", m.name(), digits(r.peaks[m as usize] / 1e9))).collect();
        let rates = if rates.is_empty() { "unknown".into() } else { rates.join(", ") };
        let text = format!("memory {} GB/s, multiply-adds {rates}; {}", digits(r.bandwidth / 1e9), r.source.text());
        rows.push(("roofs", el("span").text(text)));
    }
    let items = rows.into_iter().flat_map(|(name, value)| [el("dt").text(name), el("dd").child(value)]);
    el("dl").children(items)
}

#[cfg(test)]
mod tests {
    use super::super::check::check;
    use super::super::example::facts;
    use super::*;

    #[test]
    fn a_page_is_well_formed_and_alone() {
        let text = page(&facts());
        check(&text);
        assert_eq!(text, page(&facts()), "not the same twice");
        for k in ["k0_matmul", "k1_add", "k2_matmul", "2026-02-01 10:00:00 UTC", "A processor"] {
            assert!(text.contains(k), "{k}");
        }
    }

    #[test]
    fn hostile_texts_stay_texts() {
        const EVIL: &str = "\"'><img src=x onerror=alert(1)><script>alert(2)</script></title></style>";
        let mut f = facts();
        let (tags, scripts) = (page(&f).matches('<').count(), page(&f).matches("<script").count());
        f.model.name = EVIL.into();
        f.model.arch = EVIL.into();
        f.target = EVIL.into();
        f.device = format!("model {EVIL}\n{EVIL}\n");
        f.tune = EVIL.into();
        for c in f.passes.iter_mut().chain(&mut f.choices) {
            (c.what, c.choice, c.why) = (EVIL.into(), EVIL.into(), EVIL.into());
        }
        f.formats[0].name = EVIL.into();
        for k in f.programs.iter_mut().flat_map(|p| &mut p.kernels) {
            for text in [&mut k.name, &mut k.op, &mut k.backend, &mut k.params, &mut k.reason] {
                *text = EVIL.into();
            }
            (k.what, k.types) = (vec![EVIL.into(); 2], vec![EVIL.into()]);
            let Some(t) = &mut k.timing else { continue };
            for text in [&mut t.search, &mut t.layer, &mut t.date] {
                *text = EVIL.into();
            }
            t.history[0].backend = EVIL.into();
            t.history[0].params.insert(EVIL.into(), 1);
        }
        let text = page(&f);
        check(&text);
        assert!(!text.contains("<img") && text.matches("<script").count() == scripts, "markup came through");
        assert!(text.matches("&lt;img").count() > 20, "{}", text.matches("&lt;img").count());
        // A back end of its own, more lines; no more than a few tags, none of them of the text.
        assert!(text.matches('<').count() < tags + 60);
    }

    #[test]
    fn without_records_it_says_how_to_get_them() {
        let mut f = facts();
        for k in f.programs.iter_mut().flat_map(|p| &mut p.kernels) {
            (k.timing, k.reason) = (None, "no tuning record".into());
        }
        f.roofs = None;
        let text = page(&f);
        check(&text);
        assert!(text.contains("No kernel has a record on this machine") && text.contains(&f.tune), "{text}");
    }
}
