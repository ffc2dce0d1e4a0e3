//! `chat`: a conversation through the model's template. What two turns have in common stays in the KV cache.

use crate::args::{CompileArgs, ModelArgs, OpenArgs, SampleArgs, SessionArgs};
use crate::exit::{Interrupted, Usage, usage};
use crate::generate::{Stop, generate};
use crate::open::{self, Text};
use anyhow::Context;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use tilewright_runtime::sampler::Sampler;
use tilewright_runtime::session::Session;
use tilewright_runtime::text::{ChatInput, ChatTemplate};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// First message of the user
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// What the model is told before the conversation
    #[arg(long, visible_alias = "sys", value_name = "TEXT", allow_hyphen_values = true)]
    system_prompt: Option<String>,
    /// Jinja template to use in place of the model's
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Most tokens of an answer; -1 goes on until the model or the context ends
    #[arg(short = 'n', long, visible_aliases = ["n-predict", "max-tokens"], default_value_t = -1, allow_hyphen_values = true)]
    predict: i64,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

struct Chat {
    session: Session,
    text: Text,
    template: ChatTemplate,
    sampler: Sampler,
    limit: Option<usize>,
    messages: Vec<Value>,
    /// Tokens in the KV cache.
    cached: Vec<u32>,
}

impl Chat {
    fn answer(&mut self, user: &str) -> anyhow::Result<Stop> {
        self.messages.push(json!({ "role": "user", "content": user }));
        let piece = |id: Option<u32>| {
            id.map_or(String::new(), |id| String::from_utf8_lossy(self.text.tokenizer.piece(id)).into_owned())
        };
        let input = ChatInput {
            messages: self.messages.clone().into(),
            add_generation_prompt: true,
            bos_token: piece(self.text.facts.bos),
            eos_token: piece(self.text.facts.eos.first().copied()),
            ..ChatInput::default()
        };
        let rendered = self.template.render(&input, Some(&self.text.tokenizer))?;
        let ids = self.text.tokenizer.encode_chat(&rendered)?;
        // The last token is always evaluated: its logits are what is wanted.
        let common = ids.iter().zip(&self.cached).take_while(|(a, b)| a == b).count().min(ids.len().saturating_sub(1));
        self.session.truncate(common as u32);
        self.cached.truncate(common);

        let Chat { session, text, sampler, limit, .. } = self;
        let mut stdout = std::io::stdout().lock();
        let got = generate(session, text, sampler, &ids[..common], &ids[common..], *limit, &mut |piece| {
            stdout.write_all(piece.as_bytes())?;
            Ok(stdout.flush()?)
        })?;
        writeln!(stdout)?;
        eprintln!("[{}; {common} reused]", got.speed(ids.len() - common));
        self.cached = [ids, got.ids].concat();
        self.cached.truncate(self.session.position() as usize);
        self.messages.push(json!({ "role": "assistant", "content": got.text }));
        Ok(got.stop)
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let sampler = Sampler::new(args.sample.params())?;
    let artifact = open::artifact(&args.model, &args.compile, args.open.options())?;
    let source = match &args.chat_template {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?,
        None => artifact
            .chat_template()
            .ok_or_else(|| usage("the model has no chat template; give one with --chat-template FILE, or use `run`"))?
            .to_string(),
    };
    let template = ChatTemplate::new(&source)?;
    let text = Text::of_artifact(&artifact)?;
    let session = open::session(&artifact, &args.session)?;
    let system = args.system_prompt.map(|s| json!({ "role": "system", "content": s }));
    let messages: Vec<Value> = system.into_iter().collect();
    let limit = usize::try_from(args.predict).ok();
    let mut chat = Chat { session, text, template, sampler, limit, messages: messages.clone(), cached: vec![] };

    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("end with Ctrl-D or /exit; /reset starts again");
    }
    if let Some(prompt) = args.prompt.as_deref() {
        finish(chat.answer(prompt)?, terminal)?;
    }
    let mut input = std::io::stdin().lock();
    loop {
        if terminal {
            eprint!("> ");
        }
        let mut line = String::new();
        if input.read_line(&mut line).context("stdin")? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => {}
            "/exit" => return Ok(()),
            "/reset" => chat.messages = messages.clone(),
            // A line that starts so was meant for us, not for the model.
            other if other.starts_with('/') && terminal => {
                eprintln!("{}", Usage(format!("there is no command {other}")))
            }
            user => finish(chat.answer(user)?, terminal)?,
        }
    }
}

/// Ctrl-C ends an answer; without a terminal there is nobody to go on with.
fn finish(stop: Stop, terminal: bool) -> anyhow::Result<()> {
    if stop == Stop::Interrupted && !terminal { Err(Interrupted.into()) } else { Ok(()) }
}
