//! A dimension of a symbolic shape: a product of a number and named sizes.

use std::fmt;

/// The most named sizes of a product: more are in no graph but a hostile one.
const MOST_NAMES: usize = 16;

/// A dimension: `factor` times the named sizes, which are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dim {
    factor: i64,
    names: Vec<String>,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.factor {
            1 if !self.names.is_empty() => f.write_str(&self.names.join("·")),
            factor => f.write_str(&[&[factor.to_string()], self.names.as_slice()].concat().join("·")),
        }
    }
}

impl Dim {
    /// A known size.
    pub fn known(factor: i64) -> Self {
        Dim { factor, names: Vec::new() }
    }

    /// The size 1.
    pub fn one() -> Self {
        Self::known(1)
    }

    /// A size known only by its name.
    pub fn named(name: &str) -> Self {
        Dim { factor: 1, names: vec![name.to_owned()] }
    }

    /// The size, when it is known.
    pub fn value(&self) -> Option<i64> {
        self.names.is_empty().then_some(self.factor)
    }

    /// The product, or `None` when it is too large.
    pub fn times(&self, other: &Dim) -> Option<Dim> {
        if self.names.len() + other.names.len() > MOST_NAMES {
            return None;
        }
        let mut names = [self.names.clone(), other.names.clone()].concat();
        names.sort();
        Some(Dim { factor: self.factor.checked_mul(other.factor)?, names })
    }

    /// The quotient, or `None` when it is no such product.
    pub(super) fn divided_by(&self, other: &Dim) -> Option<Dim> {
        if self.factor.checked_rem(other.factor)? != 0 {
            return None;
        }
        let mut names = self.names.clone();
        for name in &other.names {
            names.remove(names.iter().position(|n| n == name)?);
        }
        Some(Dim { factor: self.factor / other.factor, names })
    }
}
