//! What is said on stderr, and how much.

use std::io::Write;

use clap::{ArgAction, Args};
use log::{Level, LevelFilter};
use overmask::text::printable;

use crate::{CodedError, environment};

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Verbosity {
    /// Say more on stderr; twice for even more. OVERMASK_LOG=filter overrides it
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// What a program says when it was told nothing about that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// Warnings and errors: a device should be quiet.
    Warnings,
    /// Information, too, without the word before it: what was fetched, learnt and written.
    Information,
}

impl Verbosity {
    /// Starts the messages on stderr: those of a program's own crates as asked for, of libraries only
    /// warnings unless all is wanted. The environment variable `OVERMASK_LOG` overrides it. Colours only on
    /// a terminal, and never with `NO_COLOR`.
    ///
    /// # Errors
    /// When `OVERMASK_LOG` is not UTF-8; messages are started all the same.
    pub fn start(self, usual: Messages) -> Result<(), CodedError> {
        let more = self.verbose + u8::from(usual == Messages::Information);
        let level = match (self.quiet, more) {
            (true, _) => LevelFilter::Error,
            (false, 0) => LevelFilter::Warn,
            (false, 1) => LevelFilter::Info,
            (false, 2) => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        };
        let mut builder = env_logger::Builder::new();
        // What libraries log is of no use to who runs the program, and tract warns of what is no matter.
        if level < LevelFilter::Trace {
            builder.filter_level(level.min(LevelFilter::Warn));
            // Every crate of ours has a name that starts so. What ONNX Runtime says of itself is for debugging.
            builder.filter_module("overmask", level);
            builder.filter_module("onnxruntime", if level >= LevelFilter::Debug { level } else { LevelFilter::Warn });
        } else {
            builder.filter_level(level);
        }
        if level <= LevelFilter::Info {
            for library in ["tract_core", "tract_hir", "tract_onnx", "tract_linalg", "tokenizers"] {
                builder.filter_module(library, LevelFilter::Error);
            }
        }
        let plain = usual == Messages::Information;
        let asked = environment::text(environment::LOG);
        if let Ok(Some(filters)) = &asked {
            builder.parse_filters(filters);
        }
        let builder = builder.format(move |out, record| {
            // Messages quote files, which may hold anything.
            let message = printable(&record.args().to_string());
            if plain && record.level() == Level::Info {
                return writeln!(out, "{message}");
            }
            let style = out.default_level_style(record.level());
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            writeln!(out, "{style}{level}{style:#}: {message}")
        });
        // A second call (tests, embedders with a logger of their own) changes nothing.
        if builder.try_init().is_ok() {
            crate::panics::hook();
        }
        asked.map(drop)
    }
}
