//! What packs have in common, where they differ, how far they are from their base, and how good many of
//! one task are.

mod closeness;
mod diff;
mod overlap;
mod sensitivity;
mod solutions;
#[cfg(test)]
mod tests;

pub use closeness::{Closeness, TensorDistance, Total, closeness};
pub use diff::{AnalyzeError, Difference, Overlap, Side, diff};
pub use overlap::{Overlaps, overlaps};
pub use sensitivity::{By, Group, Sensitivity, sensitivity};
pub use solutions::{SharedZeros, Solution, Solutions, SparsityGroup, common_form, solutions};
