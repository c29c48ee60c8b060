//! What a device does: engines, tasks, packs, the program `overmask`. One program of tests, as each is linked
//! with every engine, which takes longer than most tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
mod conformance;
mod derived;
mod doctor;
mod emulated;
mod examples;
mod fuzzing;
mod kinds;
mod packs;
mod plans;
mod program;
mod pytorch;
mod resident;
mod serve;
mod shipped;
mod ssh;
mod store;
mod tasks;
mod variants;
mod vocabulary;
