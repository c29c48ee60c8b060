//! Which instructions the kernels use.

use std::fmt;
use std::str::FromStr;

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(super) Set);

/// The instruction sets with kernels of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    Portable,
    Avx2,
    Avx512,
}

/// An instruction set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instruction set `{name}`: {reason}; this processor runs {}", list(.there))]
pub struct IsaError {
    /// The name that was asked for.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
    /// What there is.
    pub there: Vec<Isa>,
}

fn list(there: &[Isa]) -> String {
    there.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ")
}

impl Isa {
    /// All that this processor has, the fastest last.
    pub fn available() -> Vec<Isa> {
        [Set::Portable, Set::Avx2, Set::Avx512].into_iter().filter(|set| set.is_there()).map(Isa).collect()
    }

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        Self::available().pop().unwrap_or(Isa(Set::Portable))
    }
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_there(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_there(self) -> bool {
        self == Self::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let wrong = |reason| IsaError { name: name.to_owned(), reason, there: Self::available() };
        let known = [Set::Portable, Set::Avx2, Set::Avx512].into_iter().find(|set| set.name() == name);
        match known {
            None => Err(wrong("is unknown")),
            Some(set) if !set.is_there() => Err(wrong("is not there")),
            Some(set) => Ok(Isa(set)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_has_a_name_and_what_is_not_is_an_error() {
        let there = Isa::available();
        assert_eq!(there[0].to_string(), "portable");
        for isa in there {
            assert_eq!(isa.to_string().parse::<Isa>(), Ok(isa));
        }
        let error = "neon9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("unknown") && error.contains("portable"), "{error}");
    }
}
