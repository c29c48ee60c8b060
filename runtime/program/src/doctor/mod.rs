//! `overmask doctor`: what machine this is, and whether packs will run well on it.
//!
//! A check is a function that gives findings, in a file for each subject. What the system tells is read below a root,
//! `/` but in tests; what cannot be read is unknown, never an error. Nothing is changed.

mod base;
mod board;
mod clocks;
mod engines;
mod finding;
mod heat;
#[cfg(feature = "native")]
mod kept;
#[cfg(feature = "native")]
mod kernels;
mod memory;
mod pack;
mod processor;
mod storage;
mod system;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "native")]
use overmask::derived::{DerivedError, Directory};
use overmask_cli::Output;

use self::finding::{Finding, Report};
use self::processor::Features;
use self::system::System;

/// Arguments of `overmask doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Check this base, too: its digests, what runs it, memory, derived files; give it again for more
    #[arg(long = "base", value_name = "DIR")]
    bases: Vec<PathBuf>,
    /// Check this pack, pack set, or pack of a set (SET#NAME), too: whole, fitting its base, derived files; give it
    /// again for more
    #[arg(long = "pack", value_name = "FILE")]
    packs: Vec<PathBuf>,
    /// Print one JSON object for each finding
    #[arg(long)]
    json: bool,
}

/// What checks of bases and packs know of the machine.
struct Device {
    /// Memory that can still be had, in bytes.
    available: Option<u64>,
    /// Where derived files are to be kept.
    #[cfg(feature = "native")]
    derived_path: Option<PathBuf>,
    /// That directory; none where it is not there.
    #[cfg(feature = "native")]
    derived: Result<Option<Directory>, DerivedError>,
}

impl Device {
    fn new(system: &System) -> Self {
        #[cfg(feature = "native")]
        let derived_path = overmask_cli::derived_path();
        // To open it would make it.
        #[cfg(feature = "native")]
        let is_there = derived_path.as_ref().filter(|path| path.symlink_metadata().is_ok());
        Device {
            available: memory::available(system),
            #[cfg(feature = "native")]
            derived: is_there.map(Directory::open).transpose(),
            #[cfg(feature = "native")]
            derived_path,
        }
    }

    #[cfg(feature = "native")]
    fn directory(&self) -> Option<&Directory> {
        self.derived.as_ref().ok()?.as_ref()
    }
}

pub(super) fn run(args: &DoctorArgs, out: &mut Output) -> anyhow::Result<()> {
    let system = System::new("/");
    let mut report = Report::new(out, args.json);
    let features = processor::features();
    let usable = std::thread::available_parallelism().ok().map(usize::from);
    report.add(machine(&system, &features, usable))?;
    #[cfg(feature = "native")]
    report.add([kernels::kernels(&features)])?;
    let device = Device::new(&system);
    #[cfg(feature = "native")]
    report.add([storage::derived(&system, device.derived_path.as_deref(), &device.derived)])?;
    report.add([storage::temporary(&system, &std::env::temp_dir())])?;
    report.add([engines::engines(), engines::keys(&overmask_cli::keyring_directory())])?;
    let mut bases = Vec::new();
    for dir in &args.bases {
        let (findings, base) = base::findings(dir, &device);
        report.add(findings)?;
        bases.extend(base);
    }
    for given in &args.packs {
        report.add(pack::findings(given, &bases, args.bases.len(), &device))?;
    }
    // Last, and after all else is out: a broken library can end the process that loads it.
    #[cfg(feature = "ort")]
    {
        report.flush()?;
        report.add([engines::onnxruntime(has_nvidia_gpu(&system))])?;
    }
    report.end()
}

/// What is found of the machine itself.
fn machine(system: &System, features: &Features, usable: Option<usize>) -> Vec<Finding> {
    let mut all = board::findings(system);
    all.push(processor::processor(system, features));
    all.push(clocks::cores(system, usable));
    all.extend(clocks::clocks(system));
    all.extend(heat::findings(system));
    all.extend(memory::findings(system));
    all
}

/// Whether the driver of an NVIDIA GPU is there; on a Jetson it is part of the system.
#[cfg(feature = "ort")]
fn has_nvidia_gpu(system: &System) -> bool {
    !system.names("proc/driver/nvidia/gpus").is_empty() || system.text("etc/nv_tegra_release").is_some()
}
