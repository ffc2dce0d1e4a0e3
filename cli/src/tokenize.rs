//! `tokenize`: text to ids, straight from the model file; nothing is compiled.

use crate::args::{ModelArgs, TextArgs};
use crate::open::{self, Text};
use serde_json::json;
use std::io::Write;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::{Artifact, HugePages, OpenOptions};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Leave out the beginning-of-text token
    #[arg(long)]
    no_bos: bool,
    /// Take the text of special tokens as plain text
    #[arg(long)]
    no_parse_special: bool,
    /// One object: {"ids": [..], "pieces": [..]}
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let path = args.model.path()?;
    let input = args.text.read()?;
    let text = if open::is_artifact(path) {
        let options = OpenOptions { verify_weights: false, threads: None, huge_pages: HugePages::Off };
        Text::of_artifact(&Artifact::open_with(path, options)?)?
    } else {
        Text::of_model(&open::tokenizer(&Model::open(path)?)?)?
    };
    let bos = text.facts.add_bos && !args.no_bos;
    let ids = match args.no_parse_special {
        true => text.tokenizer.encode_plain(&input, bos)?,
        false => text.tokenizer.encode(&input, bos)?,
    };
    let pieces: Vec<_> = ids.iter().map(|&id| String::from_utf8_lossy(text.tokenizer.piece(id))).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "ids": ids, "pieces": pieces }))?;
    } else {
        for (id, piece) in ids.iter().zip(&pieces) {
            writeln!(out, "{id:>7}  {piece:?}")?;
        }
    }
    Ok(())
}
