//! Elements of a page. Whatever is put in is escaped and every tag is closed, so that no text of a model or of a record can
//! become markup.

use std::fmt::{self, Display, Write as _};

/// An element, or several without one around them.
#[derive(Clone, Default)]
pub struct El {
    /// Empty for several.
    tag: &'static str,
    attributes: String,
    body: String,
}

/// An element without content.
pub fn el(tag: &'static str) -> El {
    El { tag, ..El::default() }
}

/// Elements one after the other.
pub fn several(parts: impl IntoIterator<Item = El>) -> El {
    El::default().children(parts)
}

/// A `span` of a class.
pub fn span(class: &'static str, text: impl Display) -> El {
    el("span").class(class).text(text)
}

/// A paragraph.
pub fn p(class: &'static str, text: impl Display) -> El {
    el("p").class(class).text(text)
}

impl El {
    /// An attribute.
    pub fn attr(mut self, name: &'static str, value: impl Display) -> El {
        let _ = write!(self.attributes, " {name}=\"{}\"", escape(&value.to_string()));
        self
    }

    /// The classes. They are ours, and never of a model.
    pub fn class(self, class: &'static str) -> El {
        if class.is_empty() { self } else { self.attr("class", class) }
    }

    /// Coordinates and sizes.
    pub fn at<const N: usize>(self, numbers: [(&'static str, f64); N]) -> El {
        numbers.into_iter().fold(self, |e, (name, v)| e.attr(name, short(v)))
    }

    /// Text behind what is there.
    pub fn text(mut self, text: impl Display) -> El {
        self.body += &escape(&text.to_string());
        self
    }

    /// An element behind what is there.
    pub fn child(mut self, child: El) -> El {
        let _ = write!(self.body, "{child}");
        self
    }

    /// Elements behind what is there.
    pub fn children(self, children: impl IntoIterator<Item = El>) -> El {
        children.into_iter().fold(self, El::child)
    }

    /// What is shown where the pointer is over this.
    pub fn tip(self, text: impl Display) -> El {
        self.child(el("title").text(text))
    }

    /// Style or script that came with the program.
    pub fn own(mut self, source: &'static str) -> El {
        self.body += source;
        self
    }
}

/// Elements that are not closed by a tag of their own.
const VOID: &[&str] = &["meta", "br", "path", "line", "rect", "circle", "polygon", "polyline"];

impl Display for El {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let El { tag, attributes, body } = self;
        if tag.is_empty() {
            f.write_str(body)
        } else if body.is_empty() && VOID.contains(tag) {
            write!(f, "<{tag}{attributes}/>")
        } else {
            write!(f, "<{tag}{attributes}>{body}</{tag}>")
        }
    }
}

/// Text that is no markup, neither between tags nor between quotes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' => out.push(c),
            // Not allowed in a page, and some turn text around.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

/// A coordinate: a tenth of a pixel is enough.
pub fn short(v: f64) -> String {
    let text = format!("{:.1}", if v.is_finite() { v } else { 0.0 });
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".into() } else { text.into() }
}

/// Three digits that matter.
pub fn digits(v: f64) -> String {
    match v.abs() {
        a if a >= 99.95 => format!("{v:.0}"),
        a if a >= 9.995 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// Nanoseconds for people.
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 1e9 => format!("{} s", digits(ns / 1e9)),
        ns if ns >= 1e6 => format!("{} ms", digits(ns / 1e6)),
        ns if ns >= 100.0 => format!("{} µs", digits(ns / 1e3)),
        ns => format!("{ns:.0} ns"),
    }
}

/// The end of a text that is too long is left out.
pub fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_becomes_markup() {
        let evil = "</title><script>alert('1')</script>\" onload=\"x\0\u{202e}&amp;";
        let e = el("p").attr("title", evil).text(evil).tip(evil).to_string();
        assert_eq!(e.matches('<').count(), 4, "{e}");
        assert_eq!(e.matches('"').count(), 2, "{e}");
        assert!(!e.contains('\'') && !e.contains('\0') && !e.contains('\u{202e}'), "{e}");
        assert!(e.contains("&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)") && e.contains("&amp;amp;"), "{e}");
    }

    #[test]
    fn elements_are_closed() {
        let e = el("div").class("a").child(el("br")).children([el("b").text(1), el("div")]);
        assert_eq!(e.to_string(), "<div class=\"a\"><br/><b>1</b><div></div></div>");
        assert_eq!(
            several([el("i"), el("rect").at([("x", 1.25), ("y", -0.01)])]).to_string(),
            "<i></i><rect x=\"1.2\" y=\"0\"/>"
        );
        assert_eq!(el("circle").tip("a").to_string(), "<circle><title>a</title></circle>");
    }

    #[test]
    fn numbers_for_people() {
        let times = [4.2, 101.0, 20_410.0, 768_870.0, 1e6, 3.2e9].map(time);
        assert_eq!(times.join(", "), "4 ns, 0.10 µs, 20.4 µs, 769 µs, 1.00 ms, 3.20 s");
        assert_eq!((digits(99.96), digits(9.999), short(f64::NAN)), ("100".into(), "10.0".into(), "0".into()));
        assert_eq!((clip("abcdef", 4), clip("äöü", 3)), ("abc…".into(), "äöü".into()));
    }
}
