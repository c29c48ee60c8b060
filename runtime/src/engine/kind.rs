//! The names of engines and devices.

use std::fmt;
use std::str::FromStr;

/// Where ONNX Runtime computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

/// An engine that can be asked for; written `native`, `ort` (the same as `ort:cpu`), `ort:cuda` or
/// `tract`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineKind {
    /// Our own kernels.
    Native,
    /// ONNX Runtime.
    Ort(Device),
    /// tract.
    Tract,
}

/// The name of an engine or a device that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not one of {known}")]
pub struct ParseEngineError {
    found: String,
    known: &'static str,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for Device {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(ParseEngineError { found: text.to_owned(), known: "`cpu`, `cuda`" }),
        }
    }
}

impl EngineKind {
    /// The cargo feature of the programs that builds it in.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ort(_) => "ort",
            Self::Tract => "tract",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Ort(device) => write!(f, "ort:{device}"),
            Self::Tract => f.write_str("tract"),
        }
    }
}

impl FromStr for EngineKind {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "native" => Ok(Self::Native),
            "ort" | "ort:cpu" => Ok(Self::Ort(Device::Cpu)),
            "ort:cuda" => Ok(Self::Ort(Device::Cuda)),
            "tract" => Ok(Self::Tract),
            _ => Err(ParseEngineError {
                found: text.to_owned(),
                known: "`native`, `ort`, `ort:cpu`, `ort:cuda`, `tract`",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["native", "ort:cpu", "ort:cuda", "tract"] {
            assert_eq!(name.parse::<EngineKind>().unwrap().to_string(), name);
        }
        assert_eq!("ort".parse::<EngineKind>().unwrap(), EngineKind::Ort(Device::Cpu));
        assert!("ort:".parse::<EngineKind>().unwrap_err().to_string().contains("`tract`"));
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda);
        assert!("gpu".parse::<Device>().is_err());
    }
}
