//! How bases and packs come to a store that is elsewhere: one file each.

mod child;
pub mod ssh;
#[cfg(test)]
mod tests;
pub mod wire;

pub use wire::{Offer, Outcome};
