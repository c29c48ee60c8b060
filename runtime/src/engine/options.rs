//! Settings of an engine.

use std::path::PathBuf;

#[cfg(feature = "native")]
use overmask_kernels::Isa;

/// Settings of an engine. Nothing is read from the environment: a program does that, and says it here.
///
/// ```
/// use overmask::engine::EngineOptions;
///
/// let options = EngineOptions::default().threads(2).derived("/var/cache/overmask");
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Threads to compute with; without it the engine decides. `tract` computes with one.
    pub threads: Option<usize>,
    /// The directory in which `native` keeps what it makes of bases and packs, to be mapped by all processes;
    /// without it every process makes it anew, in its own memory. Only its user may be able to write there:
    /// what lies in it is believed.
    pub derived: Option<PathBuf>,
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
    #[must_use]
    pub fn derived(self, directory: impl Into<PathBuf>) -> Self {
        EngineOptions { derived: Some(directory.into()), ..self }
    }

    /// Computes with an instruction set.
    #[cfg(feature = "native")]
    #[must_use]
    pub fn isa(self, isa: Isa) -> Self {
        EngineOptions { isa: Some(isa), ..self }
    }
}
