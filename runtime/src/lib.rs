//! The device side of Overmask: one frozen base encoder, and for every task a small pack that says which
//! of the base's weights are zero.
//!
//! ```no_run
//! use overmask::task::Runner;
//!
//! # fn main() -> Result<(), overmask::task::TaskError> {
//! let runner = Runner::open("base/")?;
//! let trec = runner.add("trec.pack")?;
//! let movie = runner.add("movie.pack")?;
//! let answers = runner.run(&[("Where is Lima?", &[trec, movie])])?;
//! println!("{}", answers[0][0]);
//! # Ok(()) }
//! ```
//!
//! [`Runner::open`](task::Runner::open) runs the engine `native`, our own kernels on the CPU, which knows
//! encoders of the BERT kind; [`Runner::new`](task::Runner::new) takes any [`engine::Engine`], those of the
//! crates `overmask-ort` (ONNX Runtime) and `overmask-tract` (pure Rust) among them, which run any encoder.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`task`] | text to tokens to plan to answer |
//! | [`engine`] | what runs the encoder: one trait, and the native engine |
//! | [`pack`] | the pack file: a task's masks, head, labels and golden vectors |
//! | [`store`] | a device's directory of bases and packs, and which of them are active |
//! | [`trust`] | signatures of packs, and the keys that are trusted |
//! | [`codec`] | masks as few bytes, given the base |
//! | [`mask`] | bit masks over weights, and the granularities that they come in |
//! | [`base`](mod@base) | the base bundle: manifest, memory-mapped weights, digests |
//! | [`derived`] | what is made of bases and packs once and mapped by all processes |
//! | [`fs`] | the ground floor: files that appear whole, bounded reads of regular files, maps, digests |
//! | [`fence`] | panics of other libraries as errors |

#[cfg(unix)]
#[cfg(test)]
mod again;
pub mod base;
pub mod codec;
pub mod derived;
pub mod engine;
pub mod error;
pub mod fence;
pub mod fs;
pub mod mask;
pub mod pack;
mod parallel;
pub mod store;
pub mod task;
pub mod text;
pub mod trust;
