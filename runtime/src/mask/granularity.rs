//! The unit that is kept or zeroed together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The unit that a mask keeps or zeroes as a whole.
///
/// Written as `weight`, `block:RxC` (R outputs times C inputs) or `2:4`. Tensors are spoken of as
/// [outputs, inputs], so a block is R rows high and C columns wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Granularity {
    /// Every weight on its own.
    Weight,
    /// Blocks of weights; those at the lower and right edge may be smaller.
    Block {
        /// Outputs in a block, at least 1.
        rows: u32,
        /// Inputs in a block, at least 1.
        cols: u32,
    },
    /// Every weight on its own, and of each four neighbouring inputs of an output at most two are
    /// kept: the structured sparsity of NVIDIA's tensor cores (Mishra et al. 2021).
    TwoOfFour,
}

/// A granularity that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no granularity; write `weight`, `2:4`, or `block:RxC` for R outputs by C inputs, for example `block:32x1`"
)]
pub struct ParseGranularityError(String);

impl Granularity {
    /// Rows and columns of a unit.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Weight | Self::TwoOfFour => (1, 1),
            Self::Block { rows, cols } => (rows as usize, cols as usize),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight => f.write_str("weight"),
            Self::TwoOfFour => f.write_str("2:4"),
            Self::Block { rows, cols } => write!(f, "block:{rows}x{cols}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = ParseGranularityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "weight" => return Ok(Self::Weight),
            "2:4" => return Ok(Self::TwoOfFour),
            _ => {}
        }
        let number = |digits: &str| {
            // One granularity has one spelling: no sign, no leading zero.
            let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
            plain.then(|| digits.parse::<u32>().ok()).flatten()
        };
        text.strip_prefix("block:")
            .and_then(|size| size.split_once('x'))
            .and_then(|(rows, cols)| Some(Self::Block { rows: number(rows)?, cols: number(cols)? }))
            .filter(|g| *g != Self::Block { rows: 1, cols: 1 })
            .ok_or_else(|| ParseGranularityError(text.to_owned()))
    }
}

impl TryFrom<String> for Granularity {
    type Error = ParseGranularityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Granularity> for String {
    fn from(granularity: Granularity) -> String {
        granularity.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_granularity_has_one_spelling() {
        for text in ["weight", "2:4", "block:32x1", "block:1x32", "block:4294967295x7"] {
            assert_eq!(text.parse::<Granularity>().unwrap().to_string(), text);
        }
        for text in ["", "Weight", "block", "block:", "block:0x1", "block:1x0", "block:1x1", "block:+3x1", "block:03x1"]
        {
            assert!(text.parse::<Granularity>().is_err(), "{text}");
        }
        for text in ["block:32", "block:32x", "block:x1", "block:32x1x1", "block:4294967296x1", "1:4", "block:32X1"] {
            assert!(text.parse::<Granularity>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_holds_the_spelling() {
        let block: Granularity = serde_json::from_str("\"block:32x1\"").unwrap();
        assert_eq!(block, Granularity::Block { rows: 32, cols: 1 });
        assert_eq!(serde_json::to_string(&block).unwrap(), "\"block:32x1\"");
        assert!(serde_json::from_str::<Granularity>("\"block:-1x1\"").is_err());
    }
}
