//! What packs have in common, where they differ, and how far they are from their base.

mod closeness;
mod diff;
mod overlap;
mod sensitivity;

pub use closeness::{Closeness, TensorDistance, Total, closeness};
pub use diff::{AnalyzeError, Difference, Overlap, Side, diff};
pub use overlap::{Overlaps, overlaps};
pub use sensitivity::{By, Group, Sensitivity, sensitivity};
