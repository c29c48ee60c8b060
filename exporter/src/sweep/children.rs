//! Working a plan off: each run is a child process, several at once, and one writer of results.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::results::{self, Line, Results, Status};
use super::{Plan, Run, Shard, SweepError, unwritable};

/// How much of what a failed run said is kept in its result: so many bytes of the end at most, ...
const ERROR_BYTES: u64 = 4096;
/// ... and so many lines.
const ERROR_LINES: usize = 10;

/// How a plan is worked off.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The program that trains: `overmask-export`.
    pub program: PathBuf,
    /// Where packs, logs and results go.
    pub dir: PathBuf,
    /// Processes at once.
    pub workers: usize,
    /// Threads of each; none shares this machine's evenly, and a single worker takes what it finds.
    pub threads: Option<usize>,
    /// Which part of the plan.
    pub shard: Shard,
    /// Whether runs that failed are run again.
    pub retry_failed: bool,
}

/// What happened just now.
#[derive(Debug)]
pub enum Event<'a> {
    /// A run was started.
    Started(&'a Run),
    /// A run ended, and its line is on the disk.
    Ended(&'a Line),
}

/// What became of the runs of this part of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Runs of this part.
    pub runs: usize,
    /// Those that were done before.
    pub skipped: usize,
    /// Those that were done now.
    pub done: usize,
    /// Those that failed, now or before.
    pub failed: usize,
    /// Those that are left, because the sweep was stopped.
    pub left: usize,
    /// Where the results are.
    pub results: PathBuf,
    /// Where what the runs said is.
    pub logs: PathBuf,
}

impl Summary {
    /// An error unless everything was done.
    ///
    /// # Errors
    /// When runs failed or are left.
    pub fn check(&self) -> Result<(), SweepError> {
        if self.left > 0 {
            return Err(SweepError::Stopped { left: self.left, runs: self.runs });
        }
        if self.failed > 0 {
            return Err(SweepError::Failed { failed: self.failed, runs: self.runs, logs: self.logs.clone() });
        }
        Ok(())
    }
}

impl SweepOptions {
    /// The runs of this part, and how each ended before.
    ///
    /// # Errors
    /// When results that are there cannot be read.
    pub fn states<'a>(&self, plan: &'a Plan) -> Result<Vec<(&'a Run, Option<Status>)>, SweepError> {
        let states = results::states(&self.dir)?;
        let ours = plan.runs.iter().enumerate().filter(|(i, _)| self.shard.has(*i));
        Ok(ours.map(|(_, run)| (run, states.get(&run.id).copied())).collect())
    }

    /// Whether a run that ended so is to be run.
    pub fn wants(&self, state: Option<Status>) -> bool {
        match state {
            None => true,
            Some(Status::Failed) => self.retry_failed,
            Some(Status::Done) => false,
        }
    }

    /// The pack that a run writes.
    pub fn pack(&self, run: &Run) -> PathBuf {
        self.dir.join("packs").join(format!("{}.pack", run.id))
    }

    fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Threads for a run: its own option says, else ours, else an even share.
    fn threads_for(&self, run: &Run) -> Option<usize> {
        if run.options.contains_key("threads") {
            return None;
        }
        let available = || thread::available_parallelism().map_or(1, usize::from);
        self.threads.or_else(|| (self.workers > 1).then(|| (available() / self.workers).max(1)))
    }

    /// Where a run is kept until it ends. A run with other threads, or of another version of the program,
    /// would not go on there.
    fn checkpoint(&self, run: &Run) -> PathBuf {
        let all = || thread::available_parallelism().map_or(1, usize::from);
        let own = run.options.get("threads").map(|threads| threads.to_string());
        let threads = own.unwrap_or_else(|| self.threads_for(run).unwrap_or_else(all).to_string());
        self.pack(run).with_extension(format!("{threads}-{}.checkpoint", env!("CARGO_PKG_VERSION")))
    }

    /// Removes what a run has left on the way: its own file it removes itself, others are of no use.
    fn tidy(&self, run: &Run) {
        let Ok(entries) = fs::read_dir(self.dir.join("packs")) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&run.id) && name.ends_with(".checkpoint") {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// The whole command line of a run.
    pub fn command(&self, run: &Run) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&run.arguments).arg("--output").arg(self.pack(run)).arg("--json");
        // What a power cut interrupts goes on where it was; the run removes the file when its pack is there.
        command.arg("--checkpoint").arg(self.checkpoint(run)).arg("--resume");
        if let Some(threads) = self.threads_for(run) {
            command.arg(format!("--threads={threads}"));
        }
        command
    }
}

/// What a worker tells the writer.
enum News<'a> {
    Started(&'a Run),
    Ended(Line),
    /// It was stopped before its end: its pack is gone, and there is no result.
    Stopped,
    Broken(SweepError),
}

/// Runs what is left of a part of the plan. When `stop` becomes true no further run starts, and
/// those that run are waited for: a terminal's Ctrl-C reaches them by itself.
///
/// # Errors
/// When the results cannot be read or written, or a process cannot be started. Runs that fail are
/// no error here: see [`Summary::check`].
pub fn run(
    plan: &Plan,
    options: &SweepOptions,
    stop: &AtomicBool,
    on: &mut dyn FnMut(Event),
) -> Result<Summary, SweepError> {
    for dir in [options.dir.join("packs"), options.logs()] {
        fs::create_dir_all(&dir).map_err(unwritable(&dir))?;
    }
    let path = options.dir.join(options.shard.results_name());
    let mut results = Results::open(&path)?;
    let states = options.states(plan)?;
    let queue: Vec<&Run> = states.iter().filter(|(_, state)| options.wants(*state)).map(|(run, _)| *run).collect();
    let before = |status| states.iter().filter(|(_, s)| !options.wants(*s) && *s == Some(status)).count();
    let mut summary = Summary {
        runs: states.len(),
        skipped: before(Status::Done),
        done: 0,
        failed: before(Status::Failed),
        left: queue.len(),
        results: path,
        logs: options.logs(),
    };

    let (next, halt) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut broken = None;
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for worker in 0..options.workers.clamp(1, queue.len().max(1)) {
            let device = (!plan.devices.is_empty()).then(|| plan.devices[worker % plan.devices.len()].as_str());
            let (send, queue, next, halt) = (send.clone(), &queue, &next, &halt);
            let run = move || {
                while !stop.load(Ordering::Relaxed) && !halt.load(Ordering::Relaxed) {
                    let Some(run) = queue.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    work(run, device, options, stop, &send);
                }
            };
            if let Err(source) = thread::Builder::new().spawn_scoped(scope, run) {
                broken.get_or_insert(SweepError::Start { program: options.program.clone(), source });
                break;
            }
        }
        drop(send);
        // Ends when the last worker has.
        for news in receive {
            let happened = match news {
                News::Started(run) => {
                    on(Event::Started(run));
                    Ok(())
                }
                News::Ended(line) => results.append(&line).map(|()| {
                    summary.left -= 1;
                    match line.status {
                        Status::Done => summary.done += 1,
                        Status::Failed => summary.failed += 1,
                    }
                    on(Event::Ended(&line));
                }),
                News::Stopped => Ok(()),
                News::Broken(error) => Err(error),
            };
            if let Err(error) = happened {
                halt.store(true, Ordering::Relaxed);
                broken.get_or_insert(error);
            }
        }
    });
    broken.map_or(Ok(summary), Err)
}

/// One run, from its start to the news of its end. Nobody listens any more only when the sweep ends.
fn work<'a>(run: &'a Run, device: Option<&str>, options: &SweepOptions, stop: &AtomicBool, send: &Sender<News<'a>>) {
    let _ = send.send(News::Started(run));
    let news = train(run, device, options, stop).unwrap_or_else(News::Broken);
    let _ = send.send(news);
}

fn train<'a>(
    run: &'a Run,
    device: Option<&str>,
    options: &SweepOptions,
    stop: &AtomicBool,
) -> Result<News<'a>, SweepError> {
    let log = options.logs().join(format!("{}.log", run.id));
    let said = File::create(&log).map_err(unwritable(&log))?;
    let mut command = options.command(run);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    if let Some(device) = device {
        command.env("CUDA_VISIBLE_DEVICES", device);
    }
    let started = Instant::now();
    let output = command
        .spawn()
        .and_then(|child| child.wait_with_output())
        .map_err(|source| SweepError::Start { program: options.program.clone(), source })?;
    let seconds = started.elapsed().as_secs_f64();
    let printed = printed(&output);
    // Half a run is no result: what it has learnt so far would pass for the whole.
    let stopped = printed.as_ref().is_none_or(|train| train["stopped"] == true);
    let cut_off = output.status.success() && stopped;
    if stop.load(Ordering::Relaxed) && stopped || cut_off && printed.is_some() {
        let pack = options.pack(run);
        match fs::remove_file(&pack) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("remove {}, which holds half a run: {error}", pack.display());
            }
            _ => (),
        }
        return Ok(News::Stopped);
    }
    let error = match (&printed, output.status.success()) {
        (Some(_), true) => None,
        (None, true) => Some("it ended well, but printed no JSON object".to_owned()),
        (_, false) => Some(last_words(&log, &output)),
    };
    if error.is_none() {
        options.tidy(run);
    }
    Ok(News::Ended(Line {
        run: run.id.clone(),
        task: run.task.clone(),
        method: run.method.clone(),
        seed: run.seed,
        options: run.options.clone(),
        status: if error.is_none() { Status::Done } else { Status::Failed },
        train: if error.is_none() { printed } else { None },
        error,
        threads: options.threads_for(run),
        seconds,
    }))
}

/// The JSON object on the last line of what a run printed.
fn printed(output: &Output) -> Option<Value> {
    let last = output.stdout.trim_ascii_end().rsplit(|&b| b == b'\n').next()?;
    serde_json::from_slice(last).ok().filter(Value::is_object)
}

/// The end of what a failed run said, or else how it ended.
fn last_words(log: &Path, output: &Output) -> String {
    let said = tail(log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let said = lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n");
    // A process that was killed has no code and often no words.
    match (output.status.code(), said.is_empty()) {
        (Some(_), false) => said,
        (None, false) => format!("{said}\n({})", output.status),
        (_, true) => output.status.to_string(),
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = overmask::fs::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(ERROR_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(ERROR_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
