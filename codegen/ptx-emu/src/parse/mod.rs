//! Text to modules: tokens ([`lex`]), declarations ([`module`]), instructions as written ([`inst`]). What an instruction
//! means is the table's business ([`crate::ops`]).

pub(crate) mod inst;
pub(crate) mod lex;
pub(crate) mod module;

use crate::ParseError;
use lex::{Kind, Token};

/// Walks over the tokens.
pub(crate) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Result<Self, ParseError> {
        Ok(Self { tokens: lex::lex(text)?, at: 0 })
    }

    pub fn peek(&self) -> Token<'a> {
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub fn next(&mut self) -> Token<'a> {
        let t = self.peek();
        self.at += 1;
        t
    }

    /// Takes the token if it reads like this.
    pub fn eat(&mut self, text: &str) -> bool {
        let yes = self.peek().text == text && self.peek().kind != Kind::End;
        self.at += usize::from(yes);
        yes
    }

    pub fn expect(&mut self, text: &str) -> Result<Token<'a>, ParseError> {
        let t = self.peek();
        if self.eat(text) { Ok(t) } else { Err(self.error(format!("expected `{text}`, found `{}`", t.text))) }
    }

    pub fn word(&mut self) -> Result<&'a str, ParseError> {
        let t = self.peek();
        if t.kind != Kind::Word {
            return Err(self.error(format!("expected a name, found `{}`", t.text)));
        }
        Ok(self.next().text)
    }

    /// An unsigned integer, in decimal or hexadecimal.
    pub fn number(&mut self) -> Result<u64, ParseError> {
        let t = self.peek();
        match (t.kind, inst::integer(t.text)) {
            (Kind::Number, Some(n)) => {
                self.at += 1;
                Ok(n)
            }
            _ => Err(self.error(format!("expected a number, found `{}`", t.text))),
        }
    }

    pub fn skip_line(&mut self) {
        let line = self.peek().line;
        while self.peek().line == line && self.peek().kind != Kind::End {
            self.at += 1;
        }
    }

    /// An error at the current token.
    pub fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.peek().line, message: message.into() }
    }
}
