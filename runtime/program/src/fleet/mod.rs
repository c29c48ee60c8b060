//! `overmask flash --fleet`: many devices over ssh, some of them first, and no more once too many have failed.

mod devices;
mod report;
mod state;
mod waves;

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use overmask::base::Base;
use overmask::pack::Packs;
use overmask::store::StoreError;
use overmask::store::transport::ssh::Remote;
use overmask::store::transport::{Offer, Outcome};
use overmask_cli::{CodedError, ExitCode, Output};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use devices::Device;
use report::{Progress, Report, Verdict};
use state::{Content, State};
use waves::{Event, Share, Stop, Wave};

const FLEET: &str = "Fleet";

/// Which devices are flashed, and how.
#[derive(Debug, Args)]
pub(super) struct FleetArgs {
    /// Flash the devices that this file names, over ssh; see docs/fleet.md
    #[arg(long, value_name = "FILE", help_heading = FLEET,
          conflicts_with_all = ["to", "store", "no_wait", "engine", "threads"])]
    fleet: Option<PathBuf>,
    /// Only devices of this group; give it again for more
    #[arg(long = "group", value_name = "NAME", requires = "fleet", help_heading = FLEET)]
    groups: Vec<String>,
    /// So many at once
    #[arg(long, value_name = "N", requires = "fleet", help_heading = FLEET, default_value = "8",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Flash these first, and the others once they are done: a number of devices, a share of them (5%), or a group
    #[arg(long, value_name = "N|N%|GROUP", requires = "fleet", help_heading = FLEET)]
    canary: Option<String>,
    /// Begin no more when more than so many, or than such a share, have failed; with --canary of those alone, at first
    #[arg(long, value_name = "N|N%", requires = "fleet", help_heading = FLEET, default_value = "10%")]
    max_failures: Share,
    /// File that keeps which device has what [default: FILE of --fleet with the ending .state.json]
    #[arg(long, value_name = "FILE", requires = "fleet", help_heading = FLEET)]
    state: Option<PathBuf>,
    /// Flash also the devices that have it already, as the state says
    #[arg(long, requires = "fleet", help_heading = FLEET)]
    no_resume: bool,
    /// The most seconds that one device may take
    #[arg(long, value_name = "SECONDS", requires = "fleet", help_heading = FLEET, default_value = "1800",
          value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl FleetArgs {
    /// The file that names the devices, if there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.fleet.as_deref()
    }
}

/// Flashes the devices of a fleet.
pub(super) fn run(args: &FleetArgs, file: &Path, offer: &Offer, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let devices = chosen(devices::read(file)?, &args.groups, file)?;
    let canaries = canaries(args.canary.as_deref(), &devices)?;
    let _lock = lock(file)?;
    let mut state = State::read(&args.state.clone().unwrap_or_else(|| file.with_extension("state.json")))?;
    let content = checked(offer)?;
    state.write()?;

    let begin = Instant::now();
    let mut report = Report::new(&devices, &canaries, json, out);
    let mut waves = [Wave::default(), Wave::default()];
    for (i, device) in devices.iter().enumerate() {
        let wave = &mut waves[usize::from(!canaries[i])];
        match state.generation(device, &content).filter(|_| !args.no_resume) {
            None => wave.devices.push(i),
            Some(generation) => {
                wave.had += 1;
                report.tell(i, Verdict::Skipped { generation });
            }
        }
    }
    let stop = stop_when_asked()?;
    let progress: Vec<Progress> = devices.iter().map(|_| Progress::default()).collect();
    let limit = Duration::from_secs(args.timeout.into());
    let flash = |i: usize| flash(&devices[i], offer, limit, &progress[i]);
    let (mut kept, mut was_asked) = (Ok(()), false);
    let stopped = waves::run(&waves, args.parallel.into(), args.max_failures, flash, |event| {
        match event {
            Event::Begun(i) => {
                report.begin(i);
                kept = std::mem::replace(&mut kept, Ok(())).and(state.forget(&devices[i]));
            }
            Event::Ended(i, result) => {
                if let Ok(Outcome { generation, .. }) = &result {
                    kept = std::mem::replace(&mut kept, Ok(())).and(state.keep(&devices[i], &content, *generation));
                }
                report.end(i, &progress[i], result);
            }
            Event::Waiting => {}
        }
        if stop.load(Ordering::Relaxed) && !was_asked {
            was_asked = true;
            report.say("stopping: no other device is begun; once more to leave those that are being flashed");
        }
        report.show(&progress);
        !was_asked && kept.is_ok()
    });
    let why = match stopped {
        None => None,
        Some(Stop::Asked) => Some("asked to stop".to_owned()),
        Some(Stop::Failures { failed, most, of }) => Some(format!("{failed} of {of} failed, {most} may")),
    };
    let failed = report.finish(why, begin.elapsed());
    kept?;
    failed
}

/// The devices of these groups; all, if none is named.
fn chosen(mut devices: Vec<Device>, groups: &[String], file: &Path) -> Result<Vec<Device>, CodedError> {
    for group in groups {
        if !devices.iter().any(|device| device.group.as_ref() == Some(group)) {
            return Err(CodedError::input(format!("{}: no device is of the group `{group}`", file.display())));
        }
    }
    devices.retain(|device| groups.is_empty() || device.group.as_ref().is_some_and(|group| groups.contains(group)));
    Ok(devices)
}

/// Which devices are flashed first.
fn canaries(canary: Option<&str>, devices: &[Device]) -> Result<Vec<bool>, CodedError> {
    let Some(canary) = canary else { return Ok(vec![false; devices.len()]) };
    if let Ok(share) = canary.parse::<Share>() {
        let count = share.at_least(devices.len());
        return Ok((0..devices.len()).map(|i| i < count).collect());
    }
    let first: Vec<bool> = devices.iter().map(|device| device.group.as_deref() == Some(canary)).collect();
    if !first.contains(&true) {
        let message = format!("--canary {canary}: neither a number, nor a share as in 5%, nor the group of a device");
        return Err(CodedError { message, code: ExitCode::Usage });
    }
    Ok(first)
}

/// One process at a time flashes a fleet: what it keeps of it would be lost otherwise.
fn lock(file: &Path) -> anyhow::Result<std::fs::File> {
    let opened = overmask::fs::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => {
            let message =
                format!("{}: another process is flashing these devices; wait until it is done", file.display());
            Err(CodedError { message, code: ExitCode::DeviceOrStore }.into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", file.display())),
    }
}

/// What is flashed; what no device would take is found before one is asked.
fn checked(offer: &Offer) -> anyhow::Result<Content> {
    for pack in &offer.packs {
        Packs::from_bytes(Path::new(&pack.name), &pack.bytes, None)?;
    }
    let mut manifests = Vec::new();
    for dir in &offer.bases {
        let base = Base::open(dir)?;
        base.verify()?;
        manifests.push(base.read_manifest()?);
    }
    Ok(Content::new(&offer.packs, &manifests))
}

/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// Flashes one device; where it cannot be reached or the connection breaks, once more.
fn flash(device: &Device, offer: &Offer, limit: Duration, progress: &Progress) -> Result<Outcome, StoreError> {
    let begin = Instant::now();
    loop {
        let Device { host, store, program, ssh, .. } = device.clone();
        let left = limit.saturating_sub(begin.elapsed());
        let remote = Remote { destination: host, store, program, ssh, unattended: true, limit: Some(left) };
        let is_first = progress.tries() == 0;
        progress.try_again();
        log::info!("{}: begun", device.name);
        let mut step = |name: &str, ms: f64, bytes: u64| {
            log::info!("{}: {name} {ms:.1} ms {bytes} bytes", device.name);
            progress.step(name);
        };
        match remote.flash(offer, &mut step, &mut |bytes| progress.sent(bytes)) {
            Err(error @ StoreError::Reach { .. }) if is_first && begin.elapsed() + PAUSE < limit => {
                log::info!("{}: {error}; once more", device.name);
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Becomes true with Ctrl-C or SIGTERM; the second ends the program at once.
fn stop_when_asked() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    // The codes that a shell gives to programs that these signals end.
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        // In this order: the first looks whether the second has seen one before.
        flag::register_conditional_shutdown(signal, code, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot catch Ctrl-C and SIGTERM")?;
    }
    Ok(stop)
}
