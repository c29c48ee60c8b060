//! The command line becomes a program's arguments, or an exit status.

use std::io::{self, Write};
use std::{env, process};

use clap::{Command, Parser};
use overmask::text::{is_unprintable, printable};

use crate::output::{exit, failed};
use crate::{ExitCode, Messages, Verbosity};

/// The process's arguments as a program takes them.
///
/// # Errors
/// The exit status where nothing is left to do: help was printed, or what is wrong with the command line.
pub fn parse<P: Parser>() -> Result<P, process::ExitCode> {
    let matches = with_negative_numbers(P::command()).try_get_matches();
    matches.and_then(|mut matches| P::from_arg_matches_mut(&mut matches)).map_err(|error| {
        let shown = show(&error);
        if error.use_stderr() {
            // Who cannot be told at all gets the status at least.
            return ExitCode::Usage.into();
        }
        // Help was asked for, and no messages.
        let _ = Verbosity::default().start(Messages::Warnings);
        exit(shown.map_err(failed), ExitCode::of)
    })
}

/// A command whose options take negative numbers, so that who gives one is told its range and not that there is
/// no option `-1`.
fn with_negative_numbers(command: Command) -> Command {
    let allow = |arg: clap::Arg| match arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
}

/// Prints clap's help on stdout, its errors on stderr.
fn show(error: &clap::Error) -> io::Result<()> {
    // Errors quote arguments as they are, and clap takes terminal sequences in them for its own colours.
    if !error.use_stderr() || !env::args_os().any(|arg| arg.to_string_lossy().contains(is_unprintable)) {
        return error.print();
    }
    error.render().to_string().lines().try_for_each(|line| writeln!(io::stderr(), "{}", printable(line)))
}

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Learn(Learn),
    }

    #[derive(Debug, Args)]
    struct Learn {
        #[arg(long, value_parser = crate::threads())]
        threads: Option<u16>,
        #[arg(long)]
        rate: Option<f64>,
        #[arg(long)]
        json: bool,
    }

    #[test]
    fn a_negative_number_is_a_value() {
        let parse = |line: &str| with_negative_numbers(Program::command()).try_get_matches_from(line.split(' '));
        let error = parse("program learn --threads -1").unwrap_err().to_string();
        assert!(error.contains("-1 is not in 1..=1024"), "{error}");
        let matches = parse("program learn --json --rate -0.5").unwrap();
        let learn = matches.subcommand_matches("learn").unwrap();
        assert_eq!(learn.get_one::<f64>("rate"), Some(&-0.5));
        assert!(parse("program learn -1").is_err() && parse("program learn --rate --json").is_err());
    }
}
