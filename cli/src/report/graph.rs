//! The folded graph as drawings, one a part.

use super::facts::Facts;
use super::fold::{Node, Part};
use super::html::{El, clip, el, p, several, short, span};
use super::layout::layout;
use super::legend;

/// Characters of a line before it is cut, and the widths of one, in a name and in an op.
const MOST: usize = 30;
const CHARACTER: f64 = 6.75;
const WIDE: f64 = 8.0;
/// Around a drawing.
const PAD: f64 = 6.0;
/// More nodes than this are no picture: a graph that did not fold.
const MOST_NODES: usize = 120;

/// The section's content.
pub fn section(facts: &Facts) -> El {
    let picture = &facts.picture;
    if picture.parts.is_empty() {
        return p("note", "The graph is empty.");
    }
    let ops = picture.parts.iter().flat_map(|p| &p.nodes).filter(|n| !n.op.is_empty()).map(|n| n.op.as_str());
    let mut out = vec![
        el("div").class("legend").children(legend(ops)),
        el("div").class("parts").children(picture.parts.iter().map(|p| part(facts, p))),
    ];
    if picture.left_out > 0 {
        out.push(p("note", format!("{} more kinds of layers are not drawn.", picture.left_out)));
    }
    several(out)
}

/// Lines of a box: text and class.
fn lines(n: &Node) -> Vec<(String, &'static str)> {
    let cut = |text: &str| clip(text, MOST);
    if n.op.is_empty() {
        return vec![(cut(&n.name), "from"), (cut(&n.ty), "type")];
    }
    let mut lines = vec![(cut(&n.op), "op")];
    if !n.name.is_empty() && n.name != n.op {
        lines.push((cut(&n.name), "node-name"));
    }
    // Several weights of one type are one line.
    let mut weights: Vec<(&str, usize)> = vec![];
    for w in &n.weights {
        match weights.iter_mut().find(|k| k.0 == w) {
            Some(k) => k.1 += 1,
            None => weights.push((w, 1)),
        }
    }
    let times = |&(w, n): &(&str, usize)| if n > 1 { cut(&format!("{w} × {n}")) } else { cut(w) };
    lines.extend(weights.iter().take(3).map(|w| (times(w), "weight")));
    lines.push((cut(&format!("→ {}", n.ty)), "type"));
    lines
}

fn size(n: &Node) -> (f64, f64) {
    let lines = lines(n);
    let width = |l: &(String, &str)| l.0.chars().count() as f64 * if l.1 == "op" { WIDE } else { CHARACTER };
    let longest = lines.iter().map(width).fold(0.0, f64::max);
    (longest + 28.0, 14.0 + 15.0 * lines.len() as f64)
}

fn part(facts: &Facts, part: &Part) -> El {
    let class = if part.layer { "layer" } else { "beside" };
    let figure = el("figure").class(class).child(el("figcaption").child(el("b").text(&part.title)));
    if part.nodes.len() > MOST_NODES {
        return figure.child(p("note", format!("{} nodes, too many to draw.", part.nodes.len())));
    }
    let sizes: Vec<(f64, f64)> = part.nodes.iter().map(size).collect();
    let l = layout(&sizes, &part.edges);
    let (w, h) = (l.width + 2.0 * PAD, l.height + 2.0 * PAD);
    let mut svg = el("svg")
        .attr("viewBox", format!("{} {} {} {}", -PAD, -PAD, short(w), short(h)))
        .at([("width", w), ("height", h)])
        .attr("role", "img")
        .attr("aria-label", format!("graph: {}", part.title));
    svg = svg.children(l.edges.iter().map(|points| el("path").class("edge").attr("d", path(points))));
    let heads = l.edges.iter().filter_map(|points| points.last());
    svg = svg.children(heads.map(|&(x, y)| {
        let corners = [(x - 3.5, y - 6.5), (x + 3.5, y - 6.5), (x, y - 0.5)];
        let text: Vec<String> = corners.iter().map(|c| format!("{},{}", short(c.0), short(c.1))).collect();
        el("polygon").class("arrow").attr("points", text.join(" "))
    }));
    let boxes = part.nodes.iter().zip(&l.boxes).zip(&sizes);
    figure.child(el("div").class("scroll").child(svg.children(boxes.map(|((n, at), size)| node(facts, n, *at, *size)))))
}

/// Straight where it passes a row, bent between rows.
fn path(points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        match i.checked_sub(1).map(|j| points[j]) {
            None => d = format!("M{} {}", short(x), short(y)),
            Some((a, _)) if a == x => d += &format!("V{}", short(y)),
            Some((a, b)) => {
                let middle = (b + y) / 2.0;
                let [a, m, x, y] = [a, middle, x, y].map(short);
                d += &format!("C{a} {m} {x} {m} {x} {y}");
            }
        }
    }
    d
}

fn node(facts: &Facts, n: &Node, (x, y): (f64, f64), (w, h): (f64, f64)) -> El {
    let outside = n.op.is_empty();
    let class = if outside { "node outside".to_string() } else { format!("node {}", super::class(&n.op)) };
    let mut g = el("g").attr("class", class);
    let radius = if outside { 12.0 } else { 5.0 };
    g = g.child(el("rect").class("box").at([("x", x), ("y", y), ("width", w), ("height", h), ("rx", radius)]));
    if !outside {
        g = g.child(el("rect").class("band").at([
            ("x", x),
            ("y", y + 5.0),
            ("width", 4.0),
            ("height", h - 10.0),
            ("rx", 2.0),
        ]));
    }
    for (i, (text, class)) in lines(n).into_iter().enumerate() {
        let line = el("text").class(class).at([("x", x + 14.0), ("y", y + 19.0 + 15.0 * i as f64)]);
        g = g.child(line.text(text));
    }
    g.tip(tip(facts, n))
}

/// What runs for a node.
fn tip(facts: &Facts, n: &Node) -> String {
    if n.op.is_empty() {
        return format!("{}\n{}", n.name, n.ty);
    }
    let mut text = format!("{} {}\n{}", n.op, n.label, n.ty);
    for w in &n.weights {
        text += &format!("\nreads {w}");
    }
    if !n.attrs.is_empty() {
        text += &format!("\n{}", n.attrs.join(" "));
    }
    let part = format!("{}_", n.op);
    for (program, k) in facts.kernels() {
        if (k.op == n.op || k.op.starts_with(&part)) && k.what.contains(&n.name) {
            text += &format!("\n{}: {} {} {}", program.name(), k.name, k.backend, k.params);
        }
    }
    text
}

/// Weights by format: a bar of bytes, and what its parts are.
pub fn formats(facts: &Facts) -> El {
    let total = facts.formats.iter().map(|f| f.bytes).sum::<u64>().max(1) as f64;
    let width = |bytes: u64| format!("width:{}%", short(bytes as f64 / total * 100.0));
    let name = |bytes: u64, name: &str| if bytes as f64 / total > 0.1 { clip(name, 24) } else { String::new() };
    let parts = facts.formats.iter().enumerate().map(|(i, f)| {
        let tip = format!("{}: {} in {} weights", f.name, crate::system::human(f.bytes), f.weights);
        el("span")
            .attr("class", format!("part f-{}", i.min(5)))
            .attr("style", width(f.bytes))
            .attr("title", tip)
            .text(name(f.bytes, &f.name))
    });
    let items = facts.formats.iter().enumerate().map(|(i, f)| {
        let swatch = el("span").attr("class", format!("swatch f-{}", i.min(5)));
        let share = f.bytes as f64 / total * 100.0;
        let text = format!(" {} in {} weights, {share:.1} %", crate::system::human(f.bytes), f.weights);
        el("li").child(swatch).child(span("mono", &f.name)).text(text)
    });
    several([el("div").class("bar tall").children(parts), el("ul").class("plain").children(items)])
}

#[cfg(test)]
mod tests {
    use super::super::example::facts;
    use super::super::fold::fold;
    use super::*;
    use tilewright_ir::graph::parse;

    const TEXT: &str = "graph @g {
  weight @blk.0.w : @q4_1[1536, 576]
  %x = input : f32[T, 576]
  %blk.0.of = matmul %x, @blk.0.w : f32[T, 1536]
  return %blk.0.of
}";

    #[test]
    fn nodes_say_what_runs_for_them() {
        let mut f = facts();
        f.picture = fold(&parse(TEXT).expect("a graph"));
        f.programs[0].kernels[0].what = vec!["of".into()];
        let text = section(&f).to_string();
        assert_eq!((text.matches("class=\"node k-matmul\"").count(), text.matches("class=\"edge\"").count()), (1, 1));
        assert!(text.contains("layer 0") && text.contains("@q4_1[1536, 576]"), "{text}");
        assert!(text.contains("decode, 1 token: k0_matmul x86 panels=4"), "{text}");
    }

    #[test]
    fn texts_are_as_wide_as_their_box() {
        let node = |name: String| Node {
            op: "matmul".into(),
            name,
            ty: "f32[T, 1]".into(),
            weights: vec!["a".into(); 3],
            attrs: vec![],
            label: String::new(),
        };
        let (long, short) = (node("x".repeat(500)), node("x".into()));
        assert!(size(&long).0 < 250.0 && size(&short).0 < size(&long).0);
        assert_eq!(lines(&long).len(), 4);
    }

    #[test]
    fn paths_bend_between_rows() {
        assert_eq!(path(&[(0.0, 0.0), (0.0, 10.0), (5.0, 30.0)]), "M0 0V10C0 20 5 20 5 30");
    }

    #[test]
    fn formats_share_a_bar() {
        let text = formats(&facts()).to_string();
        assert!(text.contains("width:100%") && text.contains("210 weights"), "{text}");
    }
}
