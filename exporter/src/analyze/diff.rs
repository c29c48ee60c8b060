//! Two packs side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use overmask::base::{Base, BaseError};
use overmask::error::ErrorKind;
use overmask::mask::{Granularity, Mask, MaskError};
use overmask::pack::{Pack, PackDocument, PackError, PackFile, Sizes};
use serde::Serialize;
use serde_json::Value;

use crate::evaluate::EvaluateError;

/// What can go wrong when packs are compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalyzeError {
    /// The base cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A pack cannot be decoded.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A document cannot become JSON.
    #[error("a document cannot be compared: {0}")]
    Document(#[from] serde_json::Error),
    /// Two masks of a tensor have different shapes.
    #[error("masks of `{tensor}`: {source}")]
    Mask {
        /// The base's tensor.
        tensor: String,
        /// What does not fit.
        source: MaskError,
    },
    /// A pack cannot be measured.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// There is nothing to analyse.
    #[error("there is no pack; name those of a task")]
    NoPacks,
    /// Packs of one task are wanted, and one is of another.
    #[error(
        "{}: field `{field}`: is {found}, but {} has {expected}; name packs of one task", pack.display(), first.display()
    )]
    OtherTask {
        /// The pack's file.
        pack: PathBuf,
        /// The field of its document.
        field: &'static str,
        /// What it has there.
        found: String,
        /// The file of the first pack.
        first: PathBuf,
        /// What that has there.
        expected: String,
    },
}

impl AnalyzeError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Base(error) => error.kind(),
            Self::Pack(error) => error.kind(),
            Self::Document(_) => ErrorKind::Other,
            Self::Mask { source, .. } => source.kind(),
            Self::Evaluate(error) => error.kind(),
            Self::NoPacks | Self::OtherTask { .. } => ErrorKind::InputData,
        }
    }
}

/// How two packs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The first pack.
    pub a: Side,
    /// The second pack.
    pub b: Side,
    /// How their masks overlap, over all tensors that one of them masks; none when they are for
    /// different bases.
    pub overlap: Option<Overlap>,
    /// The same for each tensor.
    pub tensors: BTreeMap<String, Overlap>,
    /// Labels of both.
    pub shared_labels: Vec<String>,
    /// What else is not the same, by path in the document: the value of the first and of the
    /// second, null where there is none.
    pub fields: BTreeMap<String, [Value; 2]>,
}

/// One of the two packs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The task's name.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Its size.
    pub bytes: usize,
    /// What the bytes are spent on.
    pub sizes: Sizes,
}

/// Counts of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Overlap {
    /// Weights of the tensors.
    pub weights: u64,
    /// Zeros of the first.
    pub zeros_a: u64,
    /// Zeros of the second.
    pub zeros_b: u64,
    /// Zeros of both.
    pub zeros_both: u64,
    /// How many both would have if each had as many zeros in each tensor, but anywhere.
    pub zeros_both_by_chance: f64,
}

impl Overlap {
    /// The share of the zeros of either that both have (Jaccard index); 1 without zeros.
    pub fn jaccard(&self) -> f64 {
        let either = self.zeros_a + self.zeros_b - self.zeros_both;
        if either == 0 { 1.0 } else { self.zeros_both as f64 / either as f64 }
    }

    fn new(a: &Mask, b: &Mask) -> Result<Self, MaskError> {
        let weights = (a.outputs() * a.inputs()) as u64;
        let (zeros_a, zeros_b, zeros_both) = (a.zero_weights(), b.zero_weights(), zeros_in_both(a, b)?);
        let zeros_both_by_chance = zeros_a as f64 * zeros_b as f64 / weights.max(1) as f64;
        Ok(Overlap { weights, zeros_a, zeros_b, zeros_both, zeros_both_by_chance })
    }

    fn add(&mut self, other: &Overlap) {
        self.weights += other.weights;
        self.zeros_a += other.zeros_a;
        self.zeros_b += other.zeros_b;
        self.zeros_both += other.zeros_both;
        self.zeros_both_by_chance += other.zeros_both_by_chance;
    }
}

/// The weights that both masks of a tensor zero. Masks of different units are compared weight by weight.
pub(super) fn zeros_in_both(a: &Mask, b: &Mask) -> Result<u64, MaskError> {
    if a.granularity() == b.granularity() { a.zero_in_both(b) } else { by_weight(a)?.zero_in_both(&by_weight(b)?) }
}

fn by_weight(mask: &Mask) -> Result<Mask, MaskError> {
    Mask::from_units(Granularity::Weight, mask.outputs(), mask.inputs(), mask.expand().into_iter())
}

/// Compares two packs. The base may be left out when both code their masks plainly and in the
/// same units.
///
/// # Errors
/// When a pack was made for another base than the one given, a mask is damaged, or a base is
/// needed.
pub fn diff(a: &PackFile, b: &PackFile, base: Option<&Base>) -> Result<Difference, AnalyzeError> {
    let (mut overlap, mut tensors) = (None, BTreeMap::new());
    if a.document().base_id == b.document().base_id {
        // Masks of different units are compared weight by weight: only the base says how many
        // weights a tensor really has.
        if a.document().granularity != b.document().granularity && base.is_none() {
            return Err(PackError::NeedsBase { pack: b.document().name.clone() }.into());
        }
        tensors = overlaps(&a.clone().decode(base)?, &b.clone().decode(base)?)?;
        let mut all = Overlap::default();
        tensors.values().for_each(|one| all.add(one));
        overlap = Some(all);
    }
    let labels: BTreeSet<&String> = b.document().labels.iter().collect();
    let shared_labels = a.document().labels.iter().filter(|label| labels.contains(label)).cloned().collect();
    Ok(Difference { a: side(a), b: side(b), overlap, tensors, shared_labels, fields: fields(a, b)? })
}

fn side(pack: &PackFile) -> Side {
    let sizes = *pack.sizes();
    Side { name: pack.document().name.clone(), sha256: pack.digest().to_owned(), bytes: sizes.total(), sizes }
}

fn overlaps(a: &Pack, b: &Pack) -> Result<BTreeMap<String, Overlap>, AnalyzeError> {
    let masks = |pack: &Pack| -> BTreeMap<String, Mask> {
        pack.masks.iter().map(|named| (named.tensor.clone(), named.mask.clone())).collect()
    };
    let (a, b) = (masks(a), masks(b));
    let mut overlaps = BTreeMap::new();
    for (tensor, mask) in a.iter().chain(&b) {
        let wrong = |source| AnalyzeError::Mask { tensor: tensor.clone(), source };
        // A tensor that a pack does not name keeps all its weights.
        let none = Mask::keep_all(mask.granularity(), mask.outputs(), mask.inputs()).map_err(wrong)?;
        let [a, b] = [&a, &b].map(|masks| masks.get(tensor).unwrap_or(&none));
        overlaps.insert(tensor.clone(), Overlap::new(a, b).map_err(wrong)?);
    }
    Ok(overlaps)
}

/// What differs in the documents; objects are compared field by field.
fn fields(a: &PackFile, b: &PackFile) -> Result<BTreeMap<String, [Value; 2]>, serde_json::Error> {
    let document = |pack: &PackFile| {
        // The masks are compared as what they mean, not as what they take.
        let document = PackDocument { masks: Vec::new(), ..pack.document().clone() };
        serde_json::to_value(document)
    };
    let mut found = BTreeMap::new();
    compare("", document(a)?, document(b)?, &mut found);
    Ok(found)
}

fn compare(path: &str, a: Value, b: Value, found: &mut BTreeMap<String, [Value; 2]>) {
    match (a, b) {
        (Value::Object(mut a), Value::Object(mut b)) => {
            let names: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
            for name in names {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let [a, b] = [&mut a, &mut b].map(|fields| fields.remove(&name).unwrap_or_default());
                compare(&inner, a, b, found);
            }
        }
        (a, b) => {
            if a != b {
                found.insert(path.to_owned(), [a, b]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overlaps_are_counted_in_weights() {
        let mask =
            |granularity, keep: &[u8]| Mask::from_units(granularity, 4, 2, keep.iter().map(|k| *k == 1)).unwrap();
        let block = mask(Granularity::Block { rows: 2, cols: 1 }, &[0, 1, 1, 0]);
        let weight = mask(Granularity::Weight, &[0, 0, 1, 1, 1, 0, 1, 0]);
        let found = Overlap::new(&block, &weight).unwrap();
        assert_eq!((found.weights, found.zeros_a, found.zeros_b, found.zeros_both), (8, 4, 4, 3));
        assert_eq!((found.zeros_both_by_chance, found.jaccard()), (2.0, 0.6));
        let same = Overlap::new(&block, &block).unwrap();
        assert_eq!((same.zeros_both, same.jaccard()), (4, 1.0));
        assert_eq!(Overlap::default().jaccard(), 1.0);
    }

    #[test]
    fn fields_are_named_by_their_path() {
        let mut found = BTreeMap::new();
        let (a, b) = (json!({"x": {"y": 1, "z": 2}, "same": [1]}), json!({"x": {"y": 1, "z": 3, "w": 4}, "same": [1]}));
        compare("", a, b, &mut found);
        let expected = [("x/w".to_owned(), [Value::Null, json!(4)]), ("x/z".to_owned(), [json!(2), json!(3)])];
        assert_eq!(found, expected.into());
    }
}
