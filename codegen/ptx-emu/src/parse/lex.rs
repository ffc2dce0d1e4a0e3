//! Text to tokens. Names keep their dots: `ld.global.v4.b32` and `%tid.x` are one token each.

use crate::ParseError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    Number,
    Text,
    Punct,
    End,
}

/// A token and the line it stands on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub line: u32,
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'.' | b'%' | b'$')
}

fn goes_on(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'$')
}

/// End of the word that starts at `i`. `L1::no_allocate` is one word, a label and its colon are two.
fn word_end(b: &[u8], mut i: usize) -> usize {
    i += 1;
    loop {
        match b.get(i) {
            Some(&c) if goes_on(c) => i += 1,
            Some(b':') if b.get(i + 1) == Some(&b':') && b.get(i + 2).is_some_and(|&c| goes_on(c)) => i += 2,
            _ => return i,
        }
    }
}

fn number_end(b: &[u8], start: usize) -> usize {
    let hex = b.get(start + 1).is_some_and(|c| matches!(c, b'x' | b'X' | b'f' | b'F' | b'd' | b'D'));
    let mut i = start + 1;
    while let Some(&c) = b.get(i) {
        let exponent = !hex && matches!(c, b'+' | b'-') && matches!(b[i - 1], b'e' | b'E');
        if !(c.is_ascii_alphanumeric() || c == b'.' || exponent) {
            break;
        }
        i += 1;
    }
    i
}

/// All tokens of `text`, closed by one of kind [`Kind::End`].
pub(crate) fn lex(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let b = text.as_bytes();
    let (mut i, mut line, mut out) = (0, 1, Vec::new());
    while i < b.len() {
        let start = i;
        let kind = match b[i] {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            c if c.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            b'/' if b.get(i + 1) == Some(&b'/') => {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            b'/' if b.get(i + 1) == Some(&b'*') => {
                let Some(n) = text.get(i + 2..).and_then(|t| t.find("*/")) else {
                    return Err(ParseError { line, message: "this comment has no end".into() });
                };
                line += b[i..i + 2 + n].iter().filter(|&&c| c == b'\n').count() as u32;
                i += n + 4;
                continue;
            }
            b'"' => {
                i += 1;
                while i < b.len() && !matches!(b[i], b'"' | b'\n') {
                    i += 1;
                }
                if b.get(i) != Some(&b'"') {
                    return Err(ParseError { line, message: "this string has no end".into() });
                }
                i += 1;
                Kind::Text
            }
            c if starts_word(c) => {
                i = word_end(b, i);
                Kind::Word
            }
            c if c.is_ascii_digit() => {
                i = number_end(b, i);
                Kind::Number
            }
            c if c.is_ascii_graphic() => {
                i += 1;
                Kind::Punct
            }
            c => return Err(ParseError { line, message: format!("byte {c:#04x} is no part of PTX") }),
        };
        out.push(Token { kind, text: &text[start..i], line });
    }
    out.push(Token { kind: Kind::End, text: "end of text", line });
    Ok(out)
}
