//! The commands `completions` and `man` of both programs.

use anyhow::Context;
use clap::Args;
use clap_complete::Shell;

use crate::{CodedError, ExitCode, Output};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The subcommand, and the one below it if it has any; without one, the program's own page
    #[arg(value_name = "COMMAND")]
    commands: Vec<String>,
}

/// Prints the completion script of a program.
///
/// # Errors
/// When it cannot be written.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command, out: &mut Output) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out.raw(&script)
}

/// Prints the manual page of a program or of its subcommand.
///
/// # Errors
/// When there is no such subcommand, or the page cannot be written.
pub fn man(args: &ManArgs, command: clap::Command, out: &mut Output) -> anyhow::Result<()> {
    out.raw(&page(command, &args.commands)?)
}

/// The manual page of a subcommand, which is found by its name, after those that it is below.
fn page(mut command: clap::Command, names: &[String]) -> anyhow::Result<Vec<u8>> {
    // Fills in the full names of subcommands and the global options.
    command.build();
    let source = format!("{} {}", command.get_name(), command.get_version().unwrap_or_default());
    let mut command = &command;
    for name in names {
        command = command.find_subcommand(name).ok_or_else(|| {
            let visible = command.get_subcommands().filter(|below| !below.is_hide_set());
            let known: Vec<&str> = visible.map(clap::Command::get_name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let above = command.get_bin_name().unwrap_or_else(|| command.get_name());
            let message = format!("`{above}` has no subcommand `{name}`; it has: {known}");
            CodedError { message, code: ExitCode::Usage }
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).source(source).render(&mut page).context("cannot write the manual page")?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn every_subcommand_has_a_page() {
        let hf = Command::new("hf").about("Import a checkpoint");
        let import = Command::new("import").subcommand(hf).subcommand(Command::new("onnx"));
        let program = Command::new("program").version("1.2").subcommand(import);
        let page = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            page(program.clone(), &names).map(|page| String::from_utf8(page).unwrap())
        };
        for (names, title) in
            [(&[][..], "program"), (&["import"], "program-import"), (&["import", "hf"], "program-import-hf")]
        {
            let page = page(names).unwrap();
            assert!(page.contains(&format!(".TH {title} 1  \"program 1.2\"")), "{page}");
        }
        assert!(page(&["import", "hf"]).unwrap().contains("program import hf"));
        for (names, said) in [
            (&["improt"][..], "`program` has no subcommand `improt`; it has: import, help"),
            (&["import", "hx"], "`program import` has no subcommand `hx`; it has: hf, onnx, help"),
            (&["import", "hf", "x"], "`program import hf` has no subcommand `x`; it has: none"),
        ] {
            let error = page(names).unwrap_err();
            assert_eq!((error.to_string().as_str(), ExitCode::of(&error)), (said, ExitCode::Usage));
        }
    }
}
