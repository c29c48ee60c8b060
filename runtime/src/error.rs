//! What every error of the library can be asked: of which kind it is.

/// What sort of thing went wrong, whichever part of the library says so: a program makes its exit status
/// of it, a server its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything that has no kind of its own.
    Other,
    /// What was asked for cannot be.
    Usage,
    /// The input (texts, labels, files to read) is wrong or missing.
    InputData,
    /// A file is damaged, or of a version that is not known.
    CorruptFile,
    /// A signature is missing or wrong.
    Signature,
    /// A pack was made for another base.
    BaseMismatch,
    /// The engine that was asked for cannot start.
    EngineUnavailable,
    /// The device or the store refuses: space, permission, lock.
    DeviceOrStore,
}

impl ErrorKind {
    /// All kinds with the names that they have where programs talk to each other.
    const NAMES: [(ErrorKind, &str); 8] = [
        (Self::Other, "other"),
        (Self::Usage, "usage"),
        (Self::InputData, "input_data"),
        (Self::CorruptFile, "corrupt_file"),
        (Self::Signature, "signature"),
        (Self::BaseMismatch, "base_mismatch"),
        (Self::EngineUnavailable, "engine_unavailable"),
        (Self::DeviceOrStore, "device_or_store"),
    ];

    /// Its name where programs talk to each other.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("other", |(_, name)| name)
    }

    /// The kind of a name; [`ErrorKind::Other`] for one that is not known.
    pub fn from_name(name: &str) -> Self {
        Self::NAMES.iter().find(|(_, known)| *known == name).map_or(Self::Other, |(kind, _)| *kind)
    }
}
