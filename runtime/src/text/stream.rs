//! Ids to text as they come: no half characters, no half stop strings.

use super::Tokenizer;

/// Turns ids into text, holding back the bytes of a character until it is whole.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
    show_special: bool,
}

impl StreamDecoder {
    /// A decoder that leaves special tokens out.
    pub fn new() -> Self {
        Self::default()
    }

    /// Prints special tokens as well.
    pub fn show_special(mut self, yes: bool) -> Self {
        self.show_special = yes;
        self
    }

    /// The text that this token completes; may be empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let mut out = String::new();
        self.push_to(tokenizer, id, &mut out);
        out
    }

    pub(super) fn push_to(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        if tokenizer.is_special(id) && !self.show_special {
            return;
        }
        self.pending.extend_from_slice(tokenizer.piece(id));
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(s) => {
                    out.push_str(s);
                    rest = &[];
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    out.push_str(std::str::from_utf8(good).unwrap_or_default());
                    rest = bad;
                    if let Some(n) = e.error_len() {
                        out.push(char::REPLACEMENT_CHARACTER);
                        rest = &bad[n..];
                        continue;
                    }
                }
            }
            break;
        }
        let keep = rest.len();
        self.pending.drain(..self.pending.len() - keep);
    }

    /// What is left at the end: nothing, or one U+FFFD for a character that was cut off.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Watches streamed text for strings that end a generation, and holds back what may be the start of one.
///
/// ```
/// use tilewright_runtime::text::StopStrings;
/// let mut stop = StopStrings::new(vec!["\nUser:".into()]);
/// assert_eq!(stop.push("Hi.\nUs"), ("Hi.".to_owned(), false));
/// assert_eq!(stop.push("er: no"), (String::new(), true));
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty strings are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new() }
    }

    /// The text that may be printed, and whether a stop string was met (it and what follows are dropped).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let longest = self.stops.iter().map(String::len).max().unwrap_or(1) - 1;
        let from = self.held.len().saturating_sub(longest);
        let keep = (from..self.held.len())
            .find(|&i| self.held.get(i..).is_some_and(|tail| self.stops.iter().any(|s| s.starts_with(tail))))
            .unwrap_or(self.held.len());
        let tail = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, tail), false)
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
