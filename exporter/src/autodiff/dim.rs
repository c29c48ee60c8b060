//! A dimension of a symbolic shape: a product of a number and named sizes, and what was added to it.

use std::fmt;

/// The most named sizes of a product: more are in no graph but a hostile one.
const MOST_NAMES: usize = 16;

/// The longest name of a size that is a sum.
const LONGEST_NAME: usize = 256;

/// A dimension: `factor` times the named sizes, which are sorted, and `added` to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dim {
    factor: i64,
    names: Vec<String>,
    /// 0 without named sizes.
    added: i64,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.factor {
            1 if !self.names.is_empty() => f.write_str(&self.names.join("·"))?,
            factor => f.write_str(&[&[factor.to_string()], self.names.as_slice()].concat().join("·"))?,
        }
        if self.added == 0 { Ok(()) } else { write!(f, "{:+}", self.added) }
    }
}

impl Dim {
    /// A known size.
    pub fn known(factor: i64) -> Self {
        Dim { factor, names: Vec::new(), added: 0 }
    }

    /// The size 1.
    pub fn one() -> Self {
        Self::known(1)
    }

    /// A size known only by its name.
    pub fn named(name: &str) -> Self {
        Dim { factor: 1, names: vec![name.to_owned()], added: 0 }
    }

    /// The size, when it is known.
    pub fn value(&self) -> Option<i64> {
        self.names.is_empty().then_some(self.factor)
    }

    /// The product, or `None` when it is too large.
    pub fn times(&self, other: &Dim) -> Option<Dim> {
        let (a, b) = (self.product()?, other.product()?);
        if a.names.len() + b.names.len() > MOST_NAMES {
            return None;
        }
        let mut names = [a.names, b.names].concat();
        names.sort();
        Some(Dim { factor: a.factor.checked_mul(b.factor)?, names, added: 0 })
    }

    /// The quotient, or `None` when it is no such product.
    pub(super) fn divided_by(&self, other: &Dim) -> Option<Dim> {
        if self == other && self.value() != Some(0) {
            return Some(Self::one());
        }
        let (a, b) = (self.product()?, other.product()?);
        if a.factor.checked_rem(b.factor)? != 0 {
            return None;
        }
        let mut names = a.names;
        for name in &b.names {
            names.remove(names.iter().position(|n| n == name)?);
        }
        Some(Dim { factor: a.factor / b.factor, names, added: 0 })
    }

    /// The sum with a number.
    pub(super) fn plus(&self, number: i64) -> Option<Dim> {
        match self.value() {
            Some(size) => size.checked_add(number).map(Dim::known),
            None => Some(Dim { added: self.added.checked_add(number)?, ..self.clone() }),
        }
    }

    /// The sum with another size, one of which is a number.
    pub(super) fn sum(&self, other: &Dim) -> Option<Dim> {
        match self.value() {
            Some(number) => other.plus(number),
            None => self.plus(other.value()?),
        }
    }

    /// The difference to a number, or of two sizes of the same name.
    pub(super) fn minus(&self, other: &Dim) -> Option<Dim> {
        match other.value() {
            Some(number) => self.plus(number.checked_neg()?),
            None if (self.factor, &self.names) == (other.factor, &other.names) => {
                self.added.checked_sub(other.added).map(Dim::known)
            }
            None => None,
        }
    }

    /// Itself as a product: a sum becomes a size with a name of its own.
    fn product(&self) -> Option<Dim> {
        match self.added {
            0 => Some(self.clone()),
            _ => Some(Dim::named(&format!("({self})"))).filter(|dim| dim.names[0].len() <= LONGEST_NAME),
        }
    }
}
