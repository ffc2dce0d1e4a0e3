//! Flags that verbs share, with the names llama.cpp users know.

use crate::exit::usage;
use anyhow::Context;
use clap::{Command, ValueEnum};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use tilewright_driver::{BuildOptions, Cache, TuneMode};
use tilewright_passes::Activations;
use tilewright_runtime::artifact::{self, OpenOptions};
use tilewright_runtime::sampler::SamplerParams;

/// Makes every flag readable from `COMPILE_MODEL_<FLAG>`.
pub fn with_environment(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_string()).collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |sub| {
            let sub = sub.mut_args(|arg| match arg.get_long() {
                None | Some("help" | "version") => arg,
                Some(long) => {
                    // Names live as long as the program; there are a few dozen.
                    let name = format!("COMPILE_MODEL_{}", long.to_uppercase().replace('-', "_"));
                    arg.env(&*Box::leak(name.into_boxed_str())).hide_env(true)
                }
            });
            // Verbs of verbs, as `cache` has them.
            with_environment(sub).after_help(crate::exit::help())
        })
    })
}

/// Which model.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// Model: a GGUF file, a Hugging Face folder, or an artifact
    #[arg(short, long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The same without -m
    #[arg(value_name = "MODEL")]
    path: Option<PathBuf>,
}

impl ModelArgs {
    pub fn path(&self) -> anyhow::Result<&Path> {
        // The place without a flag wins over -m, which may come from the environment.
        self.path.as_deref().or(self.model.as_deref()).ok_or_else(|| usage("no model given; say which with -m PATH"))
    }
}

/// Precision of activations.
#[derive(Clone, Copy, ValueEnum)]
pub enum Precision {
    /// int8 blocks in front of matmuls whose weights allow it
    Q8,
    /// The same for one token at a time; for many, bf16 with weights expanded on the way
    Bf16,
    /// f16 with a scale for each row, on GPUs
    F16,
    /// Single precision; on GPUs sums of two f16, about 22 bits
    F32,
}

/// How to compile.
#[derive(clap::Args)]
pub struct CompileArgs {
    /// Target to compile for; `list targets` shows them, `cuda` is the GPU of this machine [default: its CPU]
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Fusions to switch off, by pass name; `list passes` shows them
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    no_fuse: Vec<String>,
    /// Activations of matmuls [default: f16 on GPUs, bf16 on CPUs with tiles for it, else q8]
    #[arg(long, value_enum)]
    activations: Option<Precision>,
    /// Most tokens of a step of prefill [default: 128, on GPUs 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4096))]
    prefill_tokens: Option<u32>,
    /// Folder of built artifacts [default: compile-model in the platform's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
    /// Records of tuning: use none, use those there are, or make what is missing, which takes minutes
    #[arg(long, value_enum, default_value = "cached")]
    tune: Tune,
    /// Fail where an operation has no record
    #[arg(long)]
    frozen: bool,
}

/// What to do about records of tuning.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Tune {
    /// Defaults of the schedules
    Off,
    /// The records there are
    Cached,
    /// Make missing ones, a minute or two
    Quick,
    /// Make missing ones, thoroughly
    Full,
}

impl CompileArgs {
    pub fn options(&self) -> anyhow::Result<BuildOptions> {
        if self.frozen && self.tune == Tune::Off {
            return Err(usage("--frozen asks for records and --tune off for none"));
        }
        let mut options = match &self.target {
            Some(name) => BuildOptions::named(name)?,
            None => BuildOptions::for_host()?,
        };
        options.frozen = self.frozen;
        options.records = Some(self.cache()?.root().to_path_buf());
        options.tune = match self.tune {
            Tune::Off => TuneMode::Off,
            Tune::Cached => TuneMode::Cached,
            Tune::Quick => TuneMode::Quick,
            Tune::Full => TuneMode::Full,
        };
        if let Some(n) = self.prefill_tokens {
            options.prefill_tokens = n;
        }
        options.activations = match self.activations {
            None => options.activations,
            Some(Precision::Q8) => Activations::Q8,
            Some(Precision::Bf16) => Activations::Bf16,
            Some(Precision::F16) => Activations::F16,
            Some(Precision::F32) if options.target.gpu().is_some() => Activations::F16Pair,
            Some(Precision::F32) => Activations::F32,
        };
        options.off = self.no_fuse.iter().filter(|n| !n.is_empty()).cloned().collect();
        Ok(options)
    }

    pub fn cache(&self) -> anyhow::Result<Cache> {
        Ok(Cache::open(self.cache_dir.as_deref())?)
    }
}

/// How to execute.
#[derive(clap::Args)]
pub struct SessionArgs {
    /// Context size in tokens [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<u32>,
    /// Threads [default: as many as there are cores for this process]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// Whether weights lie on huge pages.
#[derive(Clone, Copy, ValueEnum)]
pub enum HugePages {
    /// If the system has them and twice the memory
    Auto,
    /// Copy the weights at the start
    On,
    /// Map the file
    Off,
}

/// How to open an artifact.
#[derive(clap::Args)]
pub struct OpenArgs {
    /// Copy the weights into memory of huge pages: decoding is faster, the memory cannot be shared
    #[arg(long, value_enum, default_value = "auto")]
    huge_pages: HugePages,
}

impl OpenArgs {
    pub fn options(&self) -> OpenOptions {
        let huge_pages = match self.huge_pages {
            HugePages::Auto => artifact::HugePages::Auto,
            HugePages::On => artifact::HugePages::On,
            HugePages::Off => artifact::HugePages::Off,
        };
        OpenOptions { huge_pages, ..OpenOptions::default() }
    }
}

/// The text to work on.
#[derive(clap::Args)]
pub struct TextArgs {
    /// Text; special tokens in it are parsed as such
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the text, - for stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl TextArgs {
    /// From `-p`, `-f`, or piped stdin.
    pub fn read(&self) -> anyhow::Result<String> {
        match (&self.prompt, &self.file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(file)) if file.as_os_str() == "-" => read_stdin(),
            (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("{}", file.display())),
            (None, None) if !std::io::stdin().is_terminal() => read_stdin(),
            (None, None) => Err(usage("no text given; use -p TEXT, -f FILE or a pipe")),
        }
    }
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("stdin")?;
    Ok(text)
}

/// How tokens are chosen.
#[derive(clap::Args)]
pub struct SampleArgs {
    /// Temperature; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.8)]
    temp: f32,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Keep the most likely tokens up to this total probability
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Drop tokens less likely than this times the most likely one
    #[arg(long, default_value_t = 0.05)]
    min_p: f32,
    /// Penalty on recent tokens; 1 is none
    #[arg(long, default_value_t = 1.0)]
    repeat_penalty: f32,
    /// How many recent tokens the penalty looks at
    #[arg(long, default_value_t = 64)]
    repeat_last_n: usize,
    /// Penalty for each recent occurrence
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    frequency_penalty: f32,
    /// Penalty for having occurred recently
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    presence_penalty: f32,
    /// Seed; -1 takes one from the clock and prints it
    #[arg(short, long, default_value_t = -1, allow_hyphen_values = true)]
    seed: i64,
}

impl SampleArgs {
    pub fn params(&self) -> SamplerParams {
        SamplerParams {
            temp: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: vec![],
            seed: u64::try_from(self.seed).unwrap_or_else(|_| crate::system::clock_seed()),
        }
    }
}
