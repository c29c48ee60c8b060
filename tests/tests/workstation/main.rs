//! What a workstation does: the program `overmask-export`, and the graphs that it writes. One program of tests, as
//! each is linked with every engine, which takes longer than most tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod analysis;
mod checker;
mod exporter;
mod imports;
mod models;
mod survival;
mod sweep;
