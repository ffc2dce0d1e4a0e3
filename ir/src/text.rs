//! The lexer that both text forms share, and a cursor over its tokens.
//!
//! Tokens are `%name`, `@name`, words, numbers, strings and punctuation; `//` starts a comment that ends with the
//! line, and line ends mean nothing else. A minus is punctuation, so `T - 1` and `-1` both work: [`Cursor::int`] and
//! [`Cursor::float`] take the sign. An `@name` may hold dots and `{i}` placeholders: `@blk.{i}.attn_norm`.
//!
//! ```
//! use tilewright_ir::text::Cursor;
//! let mut c = Cursor::new("%x = scale @w.{i} {eps = 1e-5} // note").unwrap();
//! assert_eq!(c.percent("a value").unwrap(), "x");
//! c.expect("=").unwrap();
//! assert!(c.eat_word("scale"));
//! assert_eq!(c.symbol("a weight").unwrap(), "w.{i}");
//! c.expect("{").unwrap();
//! assert_eq!(c.word("an attribute").unwrap(), "eps");
//! assert_eq!(c.expect(":").unwrap_err().to_string(), "1:24: expected `:`, found `=`");
//! ```

use std::fmt;

/// A place in the text; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    /// Line.
    pub line: u32,
    /// Column.
    pub col: u32,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Where.
    pub pos: Pos,
    /// What, without the place.
    pub message: String,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.pos.line, self.pos.col, self.message)
    }
}

impl std::error::Error for TextError {}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `%name`, without the sign.
    Percent(String),
    /// `@name`, without the sign.
    Symbol(String),
    /// A letter or `_`, then letters, digits and `_`.
    Word(String),
    /// Decimal or `0x` integer, without a sign.
    Int(u64),
    /// Number with a point or an exponent, without a sign.
    Float(f64),
    /// `"…"` with the escapes `\"`, `\\`, `\n`, `\t`.
    Str(String),
    /// One of [`PUNCTUATION`].
    Punct(&'static str),
    /// The end of the text.
    End,
}

/// Punctuation, the longer ones first.
pub const PUNCTUATION: &[&str] = &[
    "->", "=>", "..", "(", ")", "[", "]", "{", "}", "<", ">", ",", ":", ";", "=", "+", "-", "*", "/", "|", "!", "?",
    ".", "&", "~", "^",
];

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Percent(s) => write!(f, "`%{s}`"),
            Token::Symbol(s) => write!(f, "`@{s}`"),
            Token::Word(s) => write!(f, "`{s}`"),
            Token::Int(v) => write!(f, "`{v}`"),
            Token::Float(v) => write!(f, "`{v:?}`"),
            Token::Str(s) => write!(f, "{s:?}"),
            Token::Punct(s) => write!(f, "`{s}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// A position in the tokens of a text, with the small steps a recursive descent parser takes.
pub struct Cursor {
    tokens: Vec<(Token, Pos)>,
    at: usize,
}

/// Where a parse may return to: [`Cursor::mark`], [`Cursor::rewind`].
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Cursor {
    /// Splits `text` into tokens.
    pub fn new(text: &str) -> Result<Cursor, TextError> {
        let mut lexer = Lexer { rest: text, pos: Pos { line: 1, col: 1 } };
        let mut tokens = vec![];
        loop {
            lexer.skip_blank();
            let pos = lexer.pos;
            let token = lexer.token()?;
            let end = token == Token::End;
            tokens.push((token, pos));
            if end {
                return Ok(Cursor { tokens, at: 0 });
            }
        }
    }

    /// The token ahead.
    pub fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    /// The token after the one ahead.
    pub fn peek2(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    /// Where the token ahead starts.
    pub fn pos(&self) -> Pos {
        self.tokens[self.at].1
    }

    /// Takes the token ahead; at the end it stays.
    pub fn bump(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// Remembers this place.
    pub fn mark(&self) -> Mark {
        Mark(self.at)
    }

    /// Goes back to a place.
    pub fn rewind(&mut self, mark: Mark) {
        self.at = mark.0;
    }

    /// "expected `what`, found …" at the token ahead.
    pub fn expected(&self, what: &str) -> TextError {
        TextError { pos: self.pos(), message: format!("expected {what}, found {}", self.peek()) }
    }

    /// True at the end of the text.
    pub fn at_end(&self) -> bool {
        *self.peek() == Token::End
    }

    /// True if this punctuation is ahead.
    pub fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Token::Punct(p) if *p == punct)
    }

    /// Takes this punctuation if it is ahead.
    pub fn eat(&mut self, punct: &str) -> bool {
        let is = self.is(punct);
        if is {
            self.bump();
        }
        is
    }

    /// Takes this punctuation or fails.
    pub fn expect(&mut self, punct: &str) -> Result<(), TextError> {
        if self.eat(punct) { Ok(()) } else { Err(self.expected(&format!("`{punct}`"))) }
    }

    /// True if this word is ahead.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w == word)
    }

    /// Takes this word if it is ahead.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let is = self.is_word(word);
        if is {
            self.bump();
        }
        is
    }

    /// Takes this word or fails.
    pub fn expect_word(&mut self, word: &str) -> Result<(), TextError> {
        if self.eat_word(word) { Ok(()) } else { Err(self.expected(&format!("`{word}`"))) }
    }

    /// Takes any word; `what` names it in the error.
    pub fn word(&mut self, what: &str) -> Result<String, TextError> {
        match self.peek().clone() {
            Token::Word(w) => {
                self.bump();
                Ok(w)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Takes a `%name`.
    pub fn percent(&mut self, what: &str) -> Result<String, TextError> {
        match self.peek().clone() {
            Token::Percent(w) => {
                self.bump();
                Ok(w)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Takes an `@name`.
    pub fn symbol(&mut self, what: &str) -> Result<String, TextError> {
        match self.peek().clone() {
            Token::Symbol(w) => {
                self.bump();
                Ok(w)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Takes a string.
    pub fn string(&mut self, what: &str) -> Result<String, TextError> {
        match self.peek().clone() {
            Token::Str(w) => {
                self.bump();
                Ok(w)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// True if a number is ahead, with or without a sign, `inf` and `nan` included.
    pub fn is_number(&self) -> bool {
        let number = |t: &Token| match t {
            Token::Int(_) | Token::Float(_) => true,
            Token::Word(w) => w == "inf" || w == "nan",
            _ => false,
        };
        number(self.peek()) || (self.is("-") && number(self.peek2()))
    }

    /// True if an integer is ahead, with or without a sign.
    pub fn is_int(&self) -> bool {
        let int = |t: &Token| matches!(t, Token::Int(_));
        int(self.peek()) || (self.is("-") && int(self.peek2()))
    }

    /// Takes an integer with an optional minus.
    pub fn int(&mut self, what: &str) -> Result<i64, TextError> {
        let mark = self.mark();
        let minus = self.eat("-");
        if let Token::Int(v) = *self.peek() {
            let wide = if minus { -i128::from(v) } else { i128::from(v) };
            if let Ok(v) = i64::try_from(wide) {
                self.bump();
                return Ok(v);
            }
            let message = format!("{wide} does not fit in 64 bits");
            return Err(TextError { pos: self.pos(), message });
        }
        let error = self.expected(what);
        self.rewind(mark);
        Err(error)
    }

    /// Takes a float with an optional minus; an integer counts, and so do `inf` and `nan`.
    pub fn float(&mut self, what: &str) -> Result<f64, TextError> {
        let mark = self.mark();
        let minus = self.eat("-");
        let v = match self.peek() {
            Token::Int(v) => *v as f64,
            Token::Float(v) => *v,
            Token::Word(w) if w == "inf" => f64::INFINITY,
            Token::Word(w) if w == "nan" => f64::NAN,
            _ => {
                let error = self.expected(what);
                self.rewind(mark);
                return Err(error);
            }
        };
        self.bump();
        Ok(if minus { -v } else { v })
    }
}

struct Lexer<'a> {
    rest: &'a str,
    pos: Pos,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'a> Lexer<'a> {
    fn first(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Takes `bytes` bytes, which end on a character.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (head, tail) = self.rest.split_at(bytes);
        for c in head.chars() {
            if c == '\n' {
                self.pos = Pos { line: self.pos.line + 1, col: 1 };
            } else {
                self.pos.col += 1;
            }
        }
        self.rest = tail;
        head
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn error<T>(&self, pos: Pos, message: impl Into<String>) -> Result<T, TextError> {
        Err(TextError { pos, message: message.into() })
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest.starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn token(&mut self) -> Result<Token, TextError> {
        let pos = self.pos;
        let Some(c) = self.first() else { return Ok(Token::End) };
        match c {
            '%' | '@' => {
                self.take(1);
                let name = self.name(c == '@');
                if name.is_empty() {
                    return self.error(pos, format!("expected a name after `{c}`"));
                }
                Ok(if c == '%' { Token::Percent(name) } else { Token::Symbol(name) })
            }
            '"' => self.string(),
            _ if c.is_ascii_digit() => self.number(),
            _ if is_word(c) => Ok(Token::Word(self.take_while(is_word).to_string())),
            _ => match PUNCTUATION.iter().find(|p| self.rest.starts_with(**p)) {
                Some(p) => {
                    self.take(p.len());
                    Ok(Token::Punct(p))
                }
                None => self.error(pos, format!("unexpected character {c:?}")),
            },
        }
    }

    /// Letters, digits, `_`, inner dots, and in symbols `{i}` placeholders and inner dashes.
    fn name(&mut self, symbol: bool) -> String {
        let mut name = String::new();
        loop {
            name.push_str(self.take_while(is_word));
            let after = |n: usize| self.rest[n..].chars().next();
            let hole = || self.rest[1..].find(|c| !is_word(c)).filter(|&n| n > 0 && after(n + 1) == Some('}'));
            let bytes = match self.first() {
                Some('.') if after(1).is_some_and(|c| is_word(c) || symbol && c == '{') => 1,
                Some('-') if symbol && after(1).is_some_and(is_word) => 1,
                Some('{') if symbol => match hole() {
                    Some(n) => n + 2,
                    None => return name,
                },
                _ => return name,
            };
            name.push_str(self.take(bytes));
        }
    }

    fn number(&mut self) -> Result<Token, TextError> {
        let (pos, start) = (self.pos, self.rest);
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let token = if start.starts_with("0x") || start.starts_with("0X") {
            self.take(2);
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().map(Token::Int)
        } else {
            self.take_while(|c| c.is_ascii_digit());
            let mut float = false;
            if self.first() == Some('.') && digit(self.rest[1..].chars().next()) {
                float = true;
                self.take(1);
                self.take_while(|c| c.is_ascii_digit());
            }
            if matches!(self.first(), Some('e' | 'E')) {
                let sign = usize::from(self.rest[1..].starts_with(['-', '+']));
                if digit(self.rest[1 + sign..].chars().next()) {
                    float = true;
                    self.take(1 + sign);
                    self.take_while(|c| c.is_ascii_digit());
                }
            }
            let text = &start[..start.len() - self.rest.len()];
            if float { text.parse().ok().map(Token::Float) } else { text.parse().ok().map(Token::Int) }
        };
        let tail = self.take_while(is_word);
        match token {
            Some(token) if tail.is_empty() => Ok(token),
            _ => self.error(pos, format!("bad number `{}`", &start[..start.len() - self.rest.len()])),
        }
    }

    fn string(&mut self) -> Result<Token, TextError> {
        let pos = self.pos;
        self.take(1);
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| !matches!(c, '"' | '\\' | '\n')));
            match self.first() {
                Some('"') => {
                    self.take(1);
                    return Ok(Token::Str(out));
                }
                Some('\\') => {
                    let at = self.pos;
                    self.take(1);
                    out.push(match self.first() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some(c @ ('"' | '\\')) => c,
                        _ => return self.error(at, "unknown escape; there are \\\" \\\\ \\n \\t"),
                    });
                    self.take(1);
                }
                _ => return self.error(pos, "this string does not end on its line"),
            }
        }
    }
}
