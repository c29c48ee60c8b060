//! `overmask flash`: bases and packs onto a device, here or elsewhere.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use overmask::pack::{MAX_BYTES, read_file};
use overmask::store::transport::Offer;
use overmask::store::transport::ssh::Remote;
use overmask::store::{Flash, Flashed, Given, Step, StoreError};
use overmask::trust::read_signature;
use overmask_cli::{CodedError, EngineArgs, Output};
use serde::Serialize;

use super::store::{ChangeArgs, keyring, print_generation, starter};

/// What may take the place of packs.
const INSTEAD: &[&str] = if cfg!(feature = "oci") { &["base", "from"] } else { &["base"] };

/// Arguments of `overmask flash`.
#[derive(Debug, Args)]
pub(super) struct FlashArgs {
    /// Packs and sets of packs; a signature FILE.minisig beside FILE goes along. One `-` reads a pack from stdin
    #[arg(value_name = "PACK", required_unless_present_any = INSTEAD)]
    packs: Vec<PathBuf>,
    /// Directory of a base bundle to be flashed, too
    #[arg(long, value_name = "DIR")]
    base: Vec<PathBuf>,
    /// Flash another machine, over ssh: [user@]host; --store names its store
    #[arg(long, value_name = "HOST", conflicts_with_all = ["no_wait", "engine", "threads"])]
    to: Option<String>,
    /// With --to: the program `overmask` there
    #[arg(long, value_name = "PATH", requires = "to", default_value = "overmask")]
    program: String,
    /// With --to: what connects, with its options
    #[arg(long, value_name = "COMMAND", requires = "to", default_value = "ssh")]
    ssh: String,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[cfg(feature = "fleet")]
    #[command(flatten)]
    fleet: super::fleet::FleetArgs,
    #[cfg(feature = "oci")]
    #[command(flatten)]
    from: super::registry::FromArgs,
    /// Take a pack whose revision is older than the active one's
    #[arg(long)]
    allow_downgrade: bool,
    /// Take a pack that promises less than the active one, on the same texts
    #[arg(long)]
    allow_worse: bool,
    /// Print one JSON object a step and task
    #[arg(long)]
    json: bool,
}

/// What is printed at the end of a flash elsewhere.
#[derive(Serialize)]
struct SentReport<'a> {
    to: &'a str,
    generation: u64,
    is_new: bool,
    sent: u64,
}

pub(super) fn run(args: &FlashArgs, out: &mut Output) -> anyhow::Result<()> {
    #[cfg(feature = "oci")]
    if let Some(registry) = args.from.open()? {
        return from_registry(args, &registry, out);
    }
    let packs = args.packs.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let offer = |packs| Offer {
        bases: args.base.clone(),
        packs,
        allow_downgrade: args.allow_downgrade,
        allow_worse: args.allow_worse,
    };
    #[cfg(feature = "fleet")]
    if let Some(file) = args.fleet.file() {
        return super::fleet::run(&args.fleet, file, &offer(packs), args.json, out);
    }
    match &args.to {
        Some(to) => elsewhere(args, to, &offer(packs), out),
        None => here(args, packs, out),
    }
}

/// A pack with its signature, if there is one beside it; or what comes from stdin.
fn read(path: &Path) -> anyhow::Result<Given> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(CodedError::input("stdin holds more bytes than a pack may have").into());
        }
        return Ok(Given { name: "stdin".to_owned(), bytes, signature: None });
    }
    Ok(Given { name: path.display().to_string(), bytes: read_file(path)?, signature: read_signature(path)? })
}

fn here(args: &FlashArgs, packs: Vec<Given>, out: &mut Output) -> anyhow::Result<()> {
    let store = args.change.change()?;
    let keyring = keyring(&store.policy()?)?;
    let begin = std::time::Instant::now();
    let mut steps = Vec::new();
    let flash = || -> anyhow::Result<_> {
        // Nothing is taken in where nothing could be activated.
        store.current()?;
        let bases = args.base.iter().map(|dir| store.take_base(dir)).collect::<Result<Vec<_>, StoreError>>()?;
        let bytes = bases.iter().map(|base| base.bytes).sum();
        steps.push(Step { step: "receive", ms: begin.elapsed().as_secs_f64() * 1e3, bytes });
        Ok(store.flash(Flash {
            bases,
            packs,
            keyring: keyring.as_ref(),
            allow_downgrade: args.allow_downgrade,
            allow_worse: args.allow_worse,
            start: &starter(&args.engine),
            report: &mut |step| steps.push(step.clone()),
        })?)
    };
    let flashed = flash().inspect_err(|_| {
        // What is here can be copied again at any time: nothing of it stays.
        if let Err(error) = store.collect() {
            log::warn!("{error}");
        }
    })?;
    print_flashed(&steps, &flashed, args.json, out)
}

#[cfg(feature = "oci")]
fn from_registry(args: &FlashArgs, registry: &overmask_oci::Registry, out: &mut Output) -> anyhow::Result<()> {
    let store = args.change.change()?;
    let keyring = keyring(&store.policy()?)?;
    let mut steps = Vec::new();
    let flash = overmask_oci::Flash {
        keyring: keyring.as_ref(),
        allow_downgrade: args.allow_downgrade,
        allow_worse: args.allow_worse,
        start: &starter(&args.engine),
        report: &mut |step| steps.push(step.clone()),
    };
    let flashed = overmask_oci::flash(registry, &store, flash)?;
    print_flashed(&steps, &flashed, args.json, out)
}

fn print_flashed(steps: &[Step], flashed: &Flashed, json: bool, out: &mut Output) -> anyhow::Result<()> {
    for step in steps {
        print_step(step.step, step.ms, step.bytes, json, out)?;
    }
    if !flashed.is_new {
        log::info!("all of it was active already");
    }
    print_generation(&flashed.generation, json, out)
}

fn print_step(name: &str, ms: f64, bytes: u64, json: bool, out: &mut Output) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct StepReport<'a> {
        step: &'a str,
        ms: f64,
        bytes: u64,
    }
    match json {
        true => out.json(&StepReport { step: name, ms, bytes }),
        false => out.line(&format!("{name:<10} {ms:>9.1} ms {bytes:>12} bytes")),
    }
}

fn elsewhere(args: &FlashArgs, to: &str, offer: &Offer, out: &mut Output) -> anyhow::Result<()> {
    let remote = Remote {
        store: args.change.store.given().map(|path| path.display().to_string()),
        program: args.program.clone(),
        ssh: args.ssh.split_whitespace().map(str::to_owned).collect(),
        ..Remote::new(to)
    };
    let mut written = Ok(());
    let mut report = |name: &str, ms: f64, bytes: u64| {
        let line = print_step(name, ms, bytes, args.json, out);
        written = std::mem::replace(&mut written, Ok(())).and(line);
    };
    let outcome = remote.flash(offer, &mut report, &mut |_| ())?;
    written?;
    let (generation, is_new, sent) = (outcome.generation, outcome.is_new, outcome.sent);
    match args.json {
        true => out.json(&SentReport { to, generation, is_new, sent }),
        false => out.line(&format!("{to}: generation {generation}, {sent} bytes sent")),
    }
}
