//! Text in and out: tokenizer, streaming decoder, stop strings, chat template.
//!
//! The document comes from the artifact and is untrusted all the same: ids are checked, a chat template runs under
//! bounds of time and memory ([`chat`]), and special tokens are taken from the template only, never from what a user
//! wrote ([`Tokenizer::encode_chat`]).

pub mod chat;
mod guard;
mod load;
mod stream;
mod tokenizer;

pub use chat::{ChatInput, ChatTemplate, Rendered};
pub use stream::{StopStrings, StreamDecoder};
pub use tokenizer::Tokenizer;

/// What can go wrong with text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer document cannot be used.
    #[error("tokenizer.json: {0}; compile the model again, or fetch its tokenizer again")]
    Document(String),
    /// A text that the tokenizer could not take.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// An id outside the vocabulary.
    #[error("token id {id} is not in the vocabulary of {len}; the tokens belong to another model")]
    Id {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        len: usize,
    },
    /// A chat template that is not valid or asks for something that is not offered.
    #[error("chat template: {0}; give another with --chat-template FILE")]
    Template(String),
    /// A chat template that wanted more than its share of time or memory.
    #[error("chat template: stopped at its limit of {0}; give another with --chat-template FILE, or send less text")]
    Limit(&'static str),
    /// The template itself refused the conversation (`raise_exception`).
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
}
