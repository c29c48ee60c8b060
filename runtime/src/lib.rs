//! The device side of Overmask: one frozen base encoder, and for every task a small pack that
//! says which of the base's weights are zero.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`mask`] | bit masks over weights, and the granularities that they come in |
//! | [`onnx`] | reading, writing, building and rewriting ONNX graphs |
//! | [`base`](mod@base) | the base bundle: manifest, memory-mapped weights, digests |
//! | [`codec`] | masks as few bytes, given the base |
//! | [`pack`] | the pack file: a task's masks, head, labels and golden vectors |
//! | [`kernels`] | products with masked weights, for each instruction set |
//! | [`engine`] | what runs the encoder: ONNX Runtime or tract, behind one trait |
//! | [`task`] | text to tokens to engine to labelled result |
//! | [`trust`] | signatures of packs, and the keys that are trusted |
//! | [`cli`] | the `overmask` program |
//!
//! The usual way in is a [`task::Runner`]:
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use overmask::{base::Base, engine, pack::Pack, task::Runner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = Arc::new(Base::open(Path::new("base/"))?);
//! let engine = engine::start("ort".parse()?, Arc::clone(&base), &engine::EngineOptions::default())?;
//! let mut runner = Runner::new(engine, base)?;
//! let trec = runner.add_pack(Pack::open(Path::new("trec.pack"), runner.base())?)?;
//! for result in runner.classify(trec, &["What is the capital of Peru?"])? {
//!     println!("{} {:.3}", result.label, result.score);
//! }
//! # Ok(()) }
//! ```

pub mod base;
pub mod cli;
pub mod codec;
pub mod engine;
pub mod error;
pub mod fs;
pub mod kernels;
pub mod mask;
mod mmap;
pub mod onnx;
pub mod pack;
pub mod task;
pub mod trust;
