//! `completions`: a script that completes verbs and flags in a shell.

#[derive(clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: Args, command: &mut clap::Command) -> anyhow::Result<()> {
    clap_complete::generate(args.shell, command, "compile-model", &mut std::io::stdout());
    Ok(())
}
