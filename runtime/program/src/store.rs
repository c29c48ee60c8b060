//! `overmask store`: what a device holds, which generation of it is active, and the ways back.

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use overmask::base::Base;
use overmask::engine::{Engine, EngineError};
use overmask::store::transport::wire;
use overmask::store::{Changing, Generation, Policy, Store, StoreError, TaskEntry};
use overmask::trust::Keyring;
use overmask_cli::{CodedError, EngineArgs, ExitCode, Output};
use serde::Serialize;

/// Arguments of `overmask store`.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

/// Which store a command is about.
#[derive(Debug, Args)]
pub(super) struct StoreDir {
    /// Directory of the store [default: what OVERMASK_STORE names, else /var/lib/overmask]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl StoreDir {
    /// The store's directory.
    pub(super) fn path(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(overmask_cli::store_directory)
    }

    /// The directory that was named, if one was.
    pub(super) fn given(&self) -> Option<&Path> {
        self.store.as_deref()
    }

    pub(super) fn open(&self) -> Result<Store, StoreError> {
        Store::open(&self.path())
    }
}

/// How a store is changed.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    pub(super) store: StoreDir,
    /// Fail at once where another process is changing the store, and do not wait for it
    #[arg(long)]
    no_wait: bool,
}

impl ChangeArgs {
    pub(super) fn change(&self) -> Result<Changing, StoreError> {
        change(&self.store.open()?, !self.no_wait)
    }
}

fn change(store: &Store, wait: bool) -> Result<Changing, StoreError> {
    store.change(|| {
        if wait {
            log::warn!("the store {} is being changed by another process; waiting for it", store.dir().display());
        }
        wait
    })
}

/// How results are printed.
#[derive(Debug, Args)]
pub(super) struct JsonArgs {
    /// Print JSON objects, one a line
    #[arg(long)]
    pub(super) json: bool,
}

/// The subcommands of `overmask store`.
#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Make an empty store
    #[command(before_help = "Example:\n  overmask store init --store /var/lib/overmask", after_help = ExitCode::HELP)]
    Init {
        #[command(flatten)]
        store: StoreDir,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Show or change the store's policy
    #[command(
        before_help = "Example:\n  overmask store policy --require-signature true --keep 5",
        after_help = ExitCode::HELP
    )]
    Policy {
        #[command(flatten)]
        change: ChangeArgs,
        #[command(flatten)]
        policy: PolicyArgs,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// List the generations that are kept, and their tasks
    #[command(before_help = "Example:\n  overmask store list --json", after_help = ExitCode::HELP)]
    List {
        #[command(flatten)]
        store: StoreDir,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Show the active tasks and bases, and what each task promises
    #[command(before_help = "Example:\n  overmask store status", after_help = ExitCode::HELP)]
    Status {
        #[command(flatten)]
        store: StoreDir,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Go back to the generation before the active one, or to another that is kept; needs no network
    #[command(
        before_help = "Examples:\n  overmask store rollback\n  overmask store rollback --to 7",
        after_help = ExitCode::HELP
    )]
    Rollback {
        #[command(flatten)]
        change: ChangeArgs,
        /// The number of a generation that is kept
        #[arg(long, value_name = "N")]
        to: Option<u64>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Keep a generation, however old it gets
    #[command(before_help = "Example:\n  overmask store pin 7", after_help = ExitCode::HELP)]
    Pin {
        #[command(flatten)]
        change: ChangeArgs,
        /// The number of the generation
        #[arg(value_name = "N")]
        generation: u64,
        /// Let it go again
        #[arg(long)]
        off: bool,
    },
    /// Take tasks, or bases that no task needs, out of the active set
    #[command(before_help = "Example:\n  overmask store remove trec", after_help = ExitCode::HELP)]
    Remove {
        #[command(flatten)]
        change: ChangeArgs,
        /// Names of tasks, or identities of bases
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Remove generations beyond those that the policy keeps, and what only they needed
    #[command(before_help = "Example:\n  overmask store gc", after_help = ExitCode::HELP)]
    Gc {
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Check every byte of the store
    #[command(
        before_help = "Example:\n  overmask store verify --store /var/lib/overmask",
        after_help = ExitCode::HELP
    )]
    Verify {
        #[command(flatten)]
        store: StoreDir,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Take a flash from stdin, as `overmask flash --to` sends it
    #[command(
        before_help = "Example:\n  overmask store receive --store /var/lib/overmask",
        after_help = ExitCode::HELP
    )]
    Receive {
        #[command(flatten)]
        change: ChangeArgs,
        #[command(flatten)]
        engine: EngineArgs,
    },
}

/// What a store takes and keeps.
#[derive(Debug, Args)]
struct PolicyArgs {
    /// Whether every pack must be signed by a key of the keyring (OVERMASK_KEYRING, else /etc/overmask/keys)
    #[arg(long, value_name = "BOOL")]
    require_signature: Option<bool>,
    /// How many generations are kept, the active one included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    keep: Option<u32>,
}

impl PolicyArgs {
    fn applied_to(&self, policy: Policy) -> Policy {
        let require_signature = self.require_signature.unwrap_or(policy.require_signature);
        Policy { require_signature, keep: self.keep.unwrap_or(policy.keep), ..policy }
    }
}

pub(super) fn run(args: &StoreArgs, out: &mut Output) -> anyhow::Result<()> {
    match &args.command {
        StoreCommand::Init { store, policy } => {
            let store = Store::init(&store.path(), &policy.applied_to(Policy::default()))?;
            out.line(&format!("made an empty store in {}", store.dir().display()))
        }
        StoreCommand::Policy { change, policy, json } => show_policy(change, policy, json.json, out),
        StoreCommand::List { store, json } => list(&store.open()?, json.json, out),
        StoreCommand::Status { store, json } => {
            let store = store.open()?;
            print_generation(&store.current()?, json.json, out)
        }
        StoreCommand::Rollback { change, to, json } => {
            let store = change.change()?;
            let generation = store.rollback(*to, keyring(&store.policy()?)?.as_ref())?;
            print_generation(&generation, json.json, out)
        }
        StoreCommand::Pin { change, generation, off } => Ok(change.change()?.pin(*generation, !off)?),
        StoreCommand::Remove { change, names, json } => {
            let store = change.change()?;
            let generation = store.remove(names)?;
            store.collect()?;
            print_generation(&generation, json.json, out)
        }
        StoreCommand::Gc { change } => Ok(change.change()?.collect()?),
        StoreCommand::Verify { store, json } => verify(&store.open()?, json.json, out),
        StoreCommand::Receive { change, engine } => receive(change, engine),
    }
}

/// Starts the engine that serves a store's base.
pub(super) fn starter(args: &EngineArgs) -> impl Fn(&Arc<Base>, &Path) -> Result<Arc<dyn Engine>, StoreError> + '_ {
    move |base, derived| {
        args.start_in(base, derived).map_err(|error| match error.downcast::<EngineError>() {
            Ok(error) => error.into(),
            Err(error) => {
                EngineError::Unavailable { engine: args.kind(base), reason: overmask_cli::describe(&error) }.into()
            }
        })
    }
}

/// The keys of the device, where signatures must be looked at.
pub(super) fn keyring(policy: &Policy) -> anyhow::Result<Option<Keyring>> {
    policy.require_signature.then(|| Ok(Keyring::open(&overmask_cli::keyring_directory())?)).transpose()
}

#[derive(Serialize)]
struct PolicyReport {
    require_signature: bool,
    keep: u32,
    pinned: Vec<u64>,
}

fn show_policy(args: &ChangeArgs, policy: &PolicyArgs, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let changes = policy.require_signature.is_some() || policy.keep.is_some();
    let policy = if changes {
        let store = args.change()?;
        let before = match store.policy() {
            Err(StoreError::Damaged { path, reason, .. }) => {
                let begin = format!("{} is damaged ({reason}); it is written anew", path.display());
                log::warn!("{begin}: nothing of it holds but what is said now, and no generation is pinned");
                Policy::default()
            }
            found => found?,
        };
        let policy = policy.applied_to(before);
        store.set_policy(&policy)?;
        policy
    } else {
        args.store.open()?.policy()?
    };
    let Policy { require_signature, keep, pinned } = policy;
    if json {
        return out.json(&PolicyReport { require_signature, keep, pinned });
    }
    out.line(&format!("signatures  {}", if require_signature { "required" } else { "not asked for" }))?;
    out.line(&format!("generations {keep} are kept"))?;
    let pinned = pinned.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    out.line(&format!("pinned      {}", if pinned.is_empty() { "none" } else { &pinned }))
}

#[derive(Serialize)]
struct ListReport<'a> {
    generation: u64,
    active: bool,
    pinned: bool,
    replaces: u64,
    made: u64,
    tasks: Vec<&'a str>,
}

fn list(store: &Store, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let (active, policy) = (store.current()?.number, store.policy()?);
    for number in store.numbers()? {
        let generation = match store.generation(number) {
            Ok(generation) => generation,
            // One that is damaged is no reason not to show the others.
            Err(error) => {
                log::warn!("{error}");
                continue;
            }
        };
        let report = ListReport {
            generation: number,
            active: number == active,
            pinned: policy.pinned.contains(&number),
            replaces: generation.replaces,
            made: generation.made,
            tasks: generation.tasks.iter().map(|task| task.name.as_str()).collect(),
        };
        if json {
            out.json(&report)?;
            continue;
        }
        let mark = if report.active { "*" } else { " " };
        let pinned = if report.pinned { "  pinned" } else { "" };
        let tasks = if report.tasks.is_empty() { "no tasks".to_owned() } else { report.tasks.join(", ") };
        out.line(&format!("{mark} {number:>4}  {tasks}{pinned}"))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct TaskReport<'a> {
    generation: u64,
    #[serde(flatten)]
    task: &'a TaskEntry,
}

#[derive(Serialize)]
struct BaseReport<'a> {
    generation: u64,
    base_id: &'a str,
    variant: &'static str,
    bytes: u64,
}

/// Prints a generation: its bases, then its tasks.
pub(super) fn print_generation(generation: &Generation, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let number = generation.number;
    if json {
        for base in &generation.bases {
            let (base_id, variant) = (base.base_id.as_str(), base.variant.name());
            out.json(&BaseReport { generation: number, base_id, variant, bytes: base.bytes })?;
        }
        return generation.tasks.iter().try_for_each(|task| out.json(&TaskReport { generation: number, task }));
    }
    if number == 0 {
        return out.line("nothing was flashed yet; `overmask flash` does that");
    }
    out.line(&format!("generation {number}"))?;
    for base in &generation.bases {
        out.line(&format!("  base  {}  {}  {:.1} MB", &base.base_id[..16], base.variant, base.bytes as f64 / 1e6))?;
    }
    for task in &generation.tasks {
        let promise =
            task.promise.as_ref().map_or_else(|| "promises nothing".to_owned(), |promise| promise.to_string());
        let signed = if task.signature.is_some() { ", signed" } else { "" };
        let (name, revision, bytes) = (&task.name, task.revision, task.bytes);
        out.line(&format!("  task  {name}  revision {revision}, {bytes} bytes{signed}, {promise}"))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct VerifyReport {
    ok: bool,
    files: usize,
    findings: usize,
}

fn verify(store: &Store, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let keyring = store.policy().ok().map(|policy| keyring(&policy)).transpose()?.flatten();
    let seen = store.verify(keyring.as_ref())?;
    let harmful = seen.findings.iter().filter(|finding| finding.is_harmful).count();
    for finding in &seen.findings {
        if json {
            out.json(finding)?;
        } else {
            let (file, reason, cure) = (finding.file.display(), &finding.reason, finding.cure);
            out.line(&format!("{file}: {reason}; {cure}"))?;
        }
    }
    let report = VerifyReport { ok: harmful == 0, files: seen.files, findings: seen.findings.len() };
    match (json, report.ok) {
        (true, _) => out.json(&report)?,
        (false, true) => out.line(&format!("ok: {} file{}", report.files, if report.files == 1 { "" } else { "s" }))?,
        (false, false) => {}
    }
    if harmful == 0 {
        return Ok(());
    }
    let message = format!("{}: {harmful} of {} files are damaged", store.dir().display(), seen.files);
    Err(CodedError { message, code: ExitCode::CorruptFile }.into())
}

fn receive(args: &ChangeArgs, engine: &EngineArgs) -> anyhow::Result<()> {
    let store = args.change()?;
    let keyring = keyring(&store.policy()?)?;
    let (mut from, mut to) = (BufReader::new(std::io::stdin().lock()), std::io::stdout().lock());
    wire::receive(&store, keyring.as_ref(), &starter(engine), &mut from, &mut to)?;
    Ok(to.flush()?)
}
