//! `overmask serve`: answers all day long.
//!
//! One thread handles all sockets, one runs the engine (which has threads of its own), and while a generation is
//! opened another one does that.
//!
//! | file | what it does |
//! | --- | --- |
//! | `listen` | sockets, connections, lines or HTTP |
//! | `lines`, `http`, `link` | what is spoken on a connection |
//! | `protocol` | requests and replies as JSON |
//! | `server`, `connections` | the way of a request, limits |
//! | `queue`, `batch` | what waits, and how the engine's thread computes it |
//! | `tasks`, `watch` | the generation that answers, and the next one |
//! | `metrics`, `systemd` | who looks after the server |

mod batch;
mod connections;
mod failure;
mod http;
mod lines;
mod link;
mod listen;
mod metrics;
mod protocol;
mod queue;
mod server;
mod systemd;
mod tasks;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use overmask_cli::{CodedError, EngineArgs, ExitCode, describe};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{interval, timeout};

use connections::Admission;
use listen::{Address, Listener, Open};
use queue::Queue;
use server::{Limits, Server};
use systemd::Notify;
use tasks::{Active, Opener, Table};

use crate::packs::TrustArgs;
use crate::store::StoreDir;

/// Where the server listens if nothing else is said.
const DEFAULT_ADDRESS: &str = "tcp:127.0.0.1:6780";

const LIMITS: &str = "Limits";

/// Arguments of `overmask serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    store: StoreDir,
    /// Where to listen: unix:PATH (lines of JSON, and HTTP), tcp:ADDRESS:PORT (HTTP), or tcp:PORT on this machine alone;
    /// give it again for more [default: the sockets of systemd, else tcp:127.0.0.1:6780]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// Read requests from stdin and write replies to stdout, and end with stdin
    #[arg(long, conflicts_with = "listen")]
    pub(crate) stdio: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// Texts that are remembered below the first layer that a task touches, so that one that comes again starts there:
    /// at most so many for each base, each for each depth at which tasks start. A text takes 1.5 KB a token at a width
    /// of 384; for `native` alone
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=1 << 24))]
    cache_texts: u32,
    #[command(flatten)]
    trust: TrustArgs,
    /// Answers that are computed as one batch, at most
    #[arg(long, value_name = "N", default_value = "32", help_heading = LIMITS, value_parser = count(4096))]
    max_batch: u32,
    /// Milliseconds that a request waits for others to share its batch, when the engine is idle
    #[arg(long, value_name = "MS", default_value = "0", help_heading = LIMITS,
          value_parser = clap::value_parser!(u32).range(0..=60_000))]
    max_wait: u32,
    /// Answers that may wait to be computed; further requests are told to come again
    #[arg(long, value_name = "N", default_value = "1024", help_heading = LIMITS, value_parser = count(1 << 20))]
    queue: u32,
    /// Answers of one request, at most: its texts times its tasks
    #[arg(long, value_name = "N", default_value = "256", help_heading = LIMITS, value_parser = count(1 << 16))]
    max_answers: u32,
    /// Bytes of one request, at most
    #[arg(long, value_name = "BYTES", default_value = "1048576", help_heading = LIMITS, value_parser = count(1 << 28))]
    max_body: u32,
    /// Mebibytes of all requests that arrive or wait, at most
    #[arg(long, value_name = "MIB", default_value = "64", help_heading = LIMITS, value_parser = count(1 << 20))]
    max_memory: u32,
    /// Connections, at most; for a new one that is closed which was idle for longest
    #[arg(long, value_name = "N", default_value = "512", help_heading = LIMITS, value_parser = count(1 << 20))]
    max_connections: u32,
    /// Seconds that a request waits for its answer, at most
    #[arg(long, value_name = "SECONDS", default_value = "30", help_heading = LIMITS, value_parser = count(86_400))]
    timeout: u32,
    /// Seconds that a request may take to arrive, and its client to take the reply
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = LIMITS, value_parser = count(86_400))]
    io_timeout: u32,
    /// Seconds that an HTTP connection may be idle
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = LIMITS, value_parser = count(86_400))]
    idle_timeout: u32,
    /// Seconds that requests have to be answered when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = LIMITS, value_parser = count(86_400))]
    grace: u32,
}

fn count(max: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=max)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

impl ServeArgs {
    fn limits(&self) -> Limits {
        Limits {
            max_body: self.max_body as usize,
            max_answers: self.max_answers as usize,
            max_pending: self.max_answers as usize,
            io_timeout: seconds(self.io_timeout),
            idle_timeout: seconds(self.idle_timeout),
            timeout: seconds(self.timeout),
        }
    }

    fn server(&self, table: Table) -> Server {
        let max_wait = Duration::from_millis(self.max_wait.into());
        let queue = Queue::new(self.queue as usize, self.max_batch as usize, max_wait);
        let max_memory = (self.max_memory as usize) << 20;
        Server::new(self.limits(), Active::new(table), queue, self.max_connections as usize, max_memory)
    }

    fn listeners(&self) -> anyhow::Result<Vec<Listener>> {
        if self.stdio {
            return Ok(Vec::new());
        }
        let mut all = Listener::inherited()?;
        for address in &self.listen {
            all.push(Listener::bind(address)?);
        }
        if all.is_empty() {
            let address = DEFAULT_ADDRESS.parse::<Address>().map_err(anyhow::Error::msg)?;
            all.push(Listener::bind(&address)?);
        }
        Ok(all)
    }
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let (engine, keyring) = (args.engine.clone(), args.trust.keyring()?);
    let opener = Opener { store, engine, cache_texts: args.cache_texts as usize, keyring };
    opener.check()?;
    allow_files(args.max_connections)?;
    let listeners = args.listeners()?;
    let table = opener.open(None)?;
    told(&table);
    let server = Arc::new(args.server(table));
    let engine = {
        let server = Arc::clone(&server);
        let run = move || server.queue.run(&server.active, &server.metrics);
        std::thread::Builder::new().name("engine".to_owned()).spawn(run).context("cannot start a thread")?
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let served = runtime.block_on(serve(&server, args, Arc::new(opener), listeners));
    server.stop();
    // What reads stdin cannot be interrupted.
    runtime.shutdown_background();
    // Nobody waits any more: either all is answered, or the time for that is over.
    if server.queue.running().is_none() {
        let _ = engine.join();
    }
    served
}

/// Serves until a signal says that it is enough, or stdin ends.
async fn serve(
    server: &Arc<Server>,
    args: &ServeArgs,
    opener: Arc<Opener>,
    listeners: Vec<Listener>,
) -> anyhow::Result<()> {
    let [mut terminate, mut interrupt, mut hang_up] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let (terminate, interrupt, hang_up) = (terminate.as_mut(), interrupt.as_mut(), hang_up.as_mut());
    let (Ok(terminate), Ok(interrupt), Ok(hang_up)) = (terminate, interrupt, hang_up) else {
        anyhow::bail!("signals cannot be caught");
    };
    let changed = watch::watch(opener.store.dir()).context("cannot start a thread")?;
    let notify = Notify::from_environment();
    let watchdog = systemd::watchdog();
    let mut alive = interval(watchdog.map_or(Duration::from_secs(3600), |period| period / 2));
    for listener in listeners {
        log::info!("listening at {}", listener.address);
        let server = Arc::clone(server);
        tokio::spawn(async move {
            if let Err(error) = listener.serve(server).await {
                log::error!("{error}");
            }
        });
    }
    let mut stdio = tokio::spawn(stdio(Arc::clone(server), args.stdio));
    let mut next = Next::new(opener);
    // It may have changed before it was watched.
    next.look(server, false);
    notify.say(&format!("READY=1\n{}", status(server)));
    let result = loop {
        tokio::select! {
            ended = &mut stdio => break ended.map_err(Into::into).and_then(|ended| ended),
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hang_up.recv() => {
                notify.say("RELOADING=1");
                next.look(server, true);
            }
            () = changed.notified() => next.look(server, false),
            () = next.loaded(server) => notify.say(&format!("READY=1\n{}", status(server))),
            _ = alive.tick() => {
                let is_stuck = |period: Duration| server.queue.running().is_some_and(|since| since.elapsed() > period);
                if watchdog.is_some_and(|period| !is_stuck(period)) {
                    notify.say("WATCHDOG=1");
                }
            }
        }
    };
    notify.say("STOPPING=1");
    server.stop();
    if timeout(seconds(args.grace), server.connections.all_ended()).await.is_err() {
        log::warn!("{} connections were not done after {} s", server.connections.count(), args.grace);
    }
    result
}

/// Answers stdin, if that is asked for.
async fn stdio(server: Arc<Server>, is_asked: bool) -> anyhow::Result<()> {
    if !is_asked {
        return std::future::pending().await;
    }
    let Admission::Taken(connection) = server.connections.admit() else { return Ok(()) };
    let open = Open { server: Arc::clone(&server), connection };
    let ends = (tokio::io::stdin(), tokio::io::stdout());
    let ended = lines::serve(&server, &open.connection, Vec::new(), ends, None).await;
    ended.context(CodedError { message: "stdin and stdout".to_owned(), code: ExitCode::DeviceOrStore })
}

/// The next generation, while it is opened.
struct Next {
    opener: Arc<Opener>,
    loading: Option<JoinHandle<anyhow::Result<Option<Table>>>>,
    /// Whether the store is to be looked at (again), and the generation opened even if it is the present one.
    wished: Option<bool>,
}

impl Next {
    fn new(opener: Arc<Opener>) -> Self {
        Next { opener, loading: None, wished: None }
    }

    /// Opens the active generation if it is another one than that which answers, or anyway: tasks of it may have failed.
    fn look(&mut self, server: &Server, anyway: bool) {
        self.wished = Some(anyway || self.wished == Some(true));
        if self.loading.is_none() {
            self.start(server);
        }
    }

    fn start(&mut self, server: &Server) {
        let Some(anyway) = self.wished.take() else { return };
        let (opener, before) = (Arc::clone(&self.opener), server.active.now());
        self.loading = Some(spawn_blocking(move || {
            let is_new = anyway || opener.store.current()?.number != before.generation;
            let begin = Instant::now();
            let table = is_new.then(|| opener.open(Some(&before))).transpose()?;
            if let Some(table) = &table {
                log::info!(
                    "generation {} was opened in {:.1} ms",
                    table.generation,
                    begin.elapsed().as_secs_f64() * 1e3
                );
            }
            Ok(table)
        }));
    }

    /// Waits until the store was looked at, and takes what was opened.
    async fn loaded(&mut self, server: &Server) {
        let Some(loading) = &mut self.loading else { return std::future::pending().await };
        let opened = loading.await;
        self.loading = None;
        match opened.map_err(anyhow::Error::new).and_then(|opened| opened) {
            Ok(None) => {}
            Ok(Some(table)) => {
                told(&table);
                let before = server.active.switch(table);
                server.metrics.switched(true);
                // It may take a base with it.
                spawn_blocking(move || drop(before));
            }
            Err(error) => {
                server.metrics.switched(false);
                log::error!("the generation stays as it is: {}", describe(&error));
            }
        }
        self.start(server);
    }
}

fn status(server: &Server) -> String {
    let now = server.now();
    format!("STATUS=generation {}, {} tasks", now.generation, now.tasks)
}

/// Says what a generation has.
fn told(table: &Table) {
    log::info!("generation {}: {} tasks", table.generation, table.tasks.len());
    for (name, listed) in &table.tasks {
        if let Err(reason) = &listed.loaded {
            log::error!("the task `{name}` cannot be used: {reason}");
        }
    }
}

/// Lets the process have so many connections open.
fn allow_files(connections: u32) -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    // Besides: sockets that listen, files of the store while it is opened, standard streams.
    let wanted = u64::from(connections) + 64;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).with_context(|| {
        let message = format!("--max-connections {connections} is more than the system lets a process have open");
        CodedError {
            message: format!("{message}: see `ulimit -Hn`, or LimitNOFILE= of systemd"),
            code: ExitCode::Usage,
        }
    })
}
