//! How good predictions are.
//!
//! | predictions | functions |
//! | --- | --- |
//! | one label a text | [`accuracy`], [`macro_f1`], [`micro_f1`], [`binary_f1`], [`matthews_correlation`], [`confusion`], [`class_table`] |
//! | any number of labels a text | [`multilabel`] |
//! | a number a text | [`pearson`], [`spearman`], [`mean_squared_error`], [`mean_absolute_error`] |
//! | spans of words | [`span_counts`], [`span_table`] |
//! | any of these, and how sure it is | [`Bootstrap`] |
//!
//! Values are those of scikit-learn, SciPy and seqeval. All functions take what is true and what
//! was predicted of the same texts in the same order; where the slices differ in length, the longer
//! one's rest is ignored. A share of nothing is 0: the precision where nothing was predicted, the
//! accuracy of no texts.

mod bootstrap;
mod classes;
mod counts;
pub mod multilabel;
mod spans;
mod values;

pub use bootstrap::{Bootstrap, Interval, pick};
pub use classes::{
    MAX_CONFUSION_LABELS, accuracy, binary_f1, class_table, confusion, macro_f1, matthews_correlation, micro_f1,
};
pub use counts::{Counts, Scores};
pub use spans::{span_counts, span_table};
pub use values::{mean_absolute_error, mean_squared_error, pearson, spearman};
