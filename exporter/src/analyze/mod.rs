//! What packs have in common and where they differ.

mod diff;

pub use diff::{AnalyzeError, Difference, Overlap, Side, diff};
