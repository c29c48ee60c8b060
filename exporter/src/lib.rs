//! The workstation side of Overmask: a pre-trained encoder becomes a base bundle, labelled
//! texts become a pack.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`fetch`](mod@fetch) | bases and data sets by name, checked by digest |
//! | [`import`] | a pre-trained model becomes a base bundle |
//! | [`quantize`](mod@quantize) | a base in another precision |
//! | [`data`] | labelled texts: reading, splitting, batching |
//! | [`autodiff`] | a forward ONNX graph becomes a backward one |
//! | [`train`] | the training step as an ONNX graph, and the loop around it; bases prepared for masks |
//! | [`metrics`] | how good predictions are |
//! | [`score`] | all metrics of a task's kind, and where its mistakes are |
//! | [`evaluate`](mod@evaluate) | a pack measured through the code that devices run |
//! | [`baseline`] | what a task comes to without a mask |
//! | [`export`](mod@export) | base and pack become one plain ONNX model |
//! | [`analyze`] | packs compared: with each other, with their base, part by part |
//! | [`sweep`] | tasks x methods x seeds, trained by many processes |
//! | [`report`] | results and analyses as a page of figures and tables |
//! | [`cli`] | the `overmask-export` program |

#![forbid(unsafe_code)]

pub mod analyze;
pub mod autodiff;
pub mod baseline;
pub mod cli;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod fetch;
pub mod import;
pub mod metrics;
pub mod quantize;
pub mod report;
pub mod score;
pub mod sweep;
mod toml_text;
pub mod train;
