//! Settings of an engine.

#[cfg(feature = "native")]
use overmask_kernels::Isa;

#[cfg(feature = "native")]
use crate::derived::Directory;

/// Settings of an engine. Nothing is read from the environment: a program does that, and says it here.
///
/// ```
/// use overmask::derived::Directory;
/// use overmask::engine::EngineOptions;
///
/// # fn main() -> Result<(), overmask::derived::DerivedError> {
/// # let dir = std::env::temp_dir().join("overmask-example");
/// let options = EngineOptions::default().threads(2).derived(Directory::open(dir)?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Threads to compute with; without it the engine decides. `tract` computes with one.
    pub threads: Option<usize>,
    /// The directory in which `native` keeps what it makes of bases and packs, to be mapped by all processes;
    /// without it every process makes it anew, in its own memory.
    #[cfg(feature = "native")]
    pub derived: Option<Directory>,
    /// The instruction set of our own kernels; without it the fastest that the processor has.
    #[cfg(feature = "native")]
    pub isa: Option<Isa>,
}

impl EngineOptions {
    /// Computes with so many threads.
    #[must_use]
    pub fn threads(self, threads: impl Into<Option<usize>>) -> Self {
        EngineOptions { threads: threads.into(), ..self }
    }

    /// Keeps derived files in a directory.
    #[cfg(feature = "native")]
    #[must_use]
    pub fn derived(self, directory: impl Into<Option<Directory>>) -> Self {
        EngineOptions { derived: directory.into(), ..self }
    }

    /// Computes with an instruction set.
    #[cfg(feature = "native")]
    #[must_use]
    pub fn isa(self, isa: impl Into<Option<Isa>>) -> Self {
        EngineOptions { isa: isa.into(), ..self }
    }
}
