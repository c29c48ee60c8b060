//! The number formats in which a pack stores its head.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

/// How a float is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16: 11 significant bits, up to 65,504.
    #[default]
    F16,
    /// The upper half of an f32: 8 significant bits.
    Bf16,
}

impl FloatType {
    /// Its name: `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|t| t.dtype() == dtype)
    }

    /// The nearest value that this format can hold, ties to even; infinite when there is none.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    pub(super) fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }

    pub(super) fn read(self, bytes: &[u8]) -> Vec<f32> {
        let halves = || bytes.as_chunks::<2>().0.iter();
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::Bf16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FloatType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::F32, Self::F16, Self::Bf16].into_iter().find(|t| t.name() == name);
        known.ok_or_else(|| format!("`{name}` is no number format; there are `f16`, `bf16` and `f32`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_what_rounding_gives() {
        let values = [0.1, -2.5, 1e-7, 65504.0, -0.0, 3.140_625, 1.0 / 3.0];
        for format in [FloatType::F32, FloatType::F16, FloatType::Bf16] {
            let stored = format.read(&format.to_bytes(&values));
            assert_eq!(stored, values.map(|v| format.round(v)));
            assert_eq!(format.to_bytes(&stored), format.to_bytes(&values), "rounding again changes nothing");
            assert_eq!(format.name().parse::<FloatType>(), Ok(format));
            assert_eq!(FloatType::of(format.dtype()), Some(format));
        }
        assert_eq!(FloatType::F16.round(1e5), f32::INFINITY);
        assert_eq!(FloatType::of(Dtype::F64), None);
        assert!("f64".parse::<FloatType>().is_err());
    }
}
