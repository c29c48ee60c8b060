//! How an encoder's output becomes what a head reads.

use serde::{Deserialize, Serialize};

/// How the vectors of a text's tokens become those that the head sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, special tokens included.
    Mean,
    /// The first token's vector.
    Cls,
    /// For each word, the vector of its first token: what a tagger needs.
    First,
}

impl Pooling {
    /// Its name in packs and bases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::First => "first",
        }
    }
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Pooling {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Mean, Self::Cls, Self::First].into_iter().find(|pooling| pooling.name() == name);
        known.ok_or_else(|| format!("`{name}` is no pooling; there are `mean`, `cls` and `first`"))
    }
}
