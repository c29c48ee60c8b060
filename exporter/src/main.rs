//! The `overmask-export` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    overmask_exporter::cli::main()
}
