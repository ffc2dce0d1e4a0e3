//! Colours of operations: a class each, in all plots and in both themes the same.

use super::html::{El, el};

/// Operations with a colour of their own. All others share one, since more could not be told apart.
const OPS: &[(&str, &str)] = &[
    ("matmul", "k-matmul"),
    ("glu", "k-glu"),
    ("attention", "k-attention"),
    ("attention_combine", "k-combine"),
    ("quantize", "k-quantize"),
    ("kv_write", "k-kv"),
    ("embed", "k-embed"),
];
const OTHER: &str = "k-other";

/// The class of an operation.
pub fn class(op: &str) -> &'static str {
    OPS.iter().find(|o| o.0 == op).map_or(OTHER, |o| o.1)
}

/// The colours of those that occur.
pub fn legend<'a>(ops: impl Iterator<Item = &'a str>) -> impl Iterator<Item = El> {
    let there: Vec<&str> = ops.collect();
    let known = OPS.iter().filter(|o| there.contains(&o.0)).copied();
    let other = there.iter().any(|op| class(op) == OTHER).then_some(("other", OTHER));
    let items: Vec<(&str, &str)> = known.chain(other).collect();
    items.into_iter().map(|(name, class)| {
        let swatch = el("span").attr("class", format!("swatch {class}"));
        el("span").class("key-item").child(swatch).text(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_colour() {
        let css = include_str!("style.css");
        for class in OPS.iter().map(|o| o.1).chain([OTHER]) {
            assert!(css.contains(&format!(".{class} ")), "{class}");
        }
    }

    #[test]
    fn a_legend_has_what_occurs_once() {
        let text: Vec<String> = legend(["add", "glu", "mul", "glu"].into_iter()).map(|e| e.to_string()).collect();
        assert_eq!(text.len(), 2);
        assert!(text[0].contains("glu") && text[1].contains("other"), "{text:?}");
    }
}
