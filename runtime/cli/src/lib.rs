//! What the command lines of Overmask share: output, messages, help, exit codes, and the engines that a user
//! can ask for. No program's logic is here.

mod arguments;
mod engines;
mod environment;
mod exit;
pub mod help;
mod messages;
mod output;
mod panics;
pub mod together;

pub use arguments::parse;
pub use engines::{EngineArgs, default_engine, start, threads};
#[cfg(feature = "ort")]
pub use environment::find_onnxruntime;
pub use environment::{
    ENVIRONMENT, engine_options, engine_options_in, keyring_directory, onnxruntime_directory, registry_auth_files,
    store_directory,
};
#[cfg(feature = "native")]
pub use environment::{derived_path, named_isa};
pub use exit::{CodedError, ExitCode};
pub use messages::{Messages, Verbosity};
pub use output::{Output, describe, exit, json};
