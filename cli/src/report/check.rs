//! For tests: whether a page is well formed and needs nothing else.

/// Fails unless every tag is closed by its own, attributes are quoted, and nothing is loaded.
pub fn check(page: &str) {
    let mut open: Vec<&str> = vec![];
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
    while let Some((text, tail)) = rest.split_once('<') {
        assert!(!text.contains('>') || matches!(open.last(), Some(&"style" | &"script")), "a bare > in {text:?}");
        let (tag, after) = tail.split_once('>').unwrap_or_else(|| panic!("no end: {:.60}", tail));
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed by {name}");
            continue;
        }
        let (body, empty) = tag.strip_suffix('/').map_or((tag, false), |t| (t, true));
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        assert!(!name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        assert_eq!(attributes.matches('"').count() % 2, 0, "<{tag}>");
        for attribute in attributes.split("\" ").filter(|a| !a.is_empty()) {
            let (key, value) = attribute.split_once("=\"").unwrap_or_else(|| panic!("<{tag}>"));
            assert!(key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'), "{key} in <{tag}>");
            assert!(!["src", "srcset"].contains(&key) && !key.starts_with("on"), "{key} in <{tag}>");
            assert!(key != "href" || value.starts_with('#'), "<{tag}>");
        }
        assert!(!["img", "link", "iframe", "object", "embed"].contains(&name), "<{tag}>");
        if !empty {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}");
}
