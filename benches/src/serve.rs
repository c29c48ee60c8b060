//! `overmask serve` beside the engine itself, and beside ONNX Runtime behind FastAPI.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use overmask::base::Base;
use overmask::engine::native::NativeEngine;
use overmask::pack::PackFile;
use overmask::task::Runner;
use serde_json::{Value, json};

use crate::contenders::{median, options};
use crate::rows::Rows;

const CLIENTS: usize = 32;
const THREADS: usize = 2;

/// Tokens of the text whose answer is timed.
const TOKENS: usize = 16;

/// Rounds, in which those that are compared take turns.
const ROUNDS: usize = 7;

/// How long a load goes on in a round.
const LOAD: Duration = Duration::from_secs(3);

const SWITCHES: usize = 40;

/// Tasks that come to one, to see what each takes.
const FURTHER: usize = 20;

/// A process that ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Its proportional share of memory, in bytes.
    fn pss(&self) -> Result<f64> {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = std::fs::read_to_string(&path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context(path)?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }
}

/// Measures the server on a store of this base and pack; `peer` is a Python with FastAPI, and a folder for each task.
pub(crate) fn run(base: &Path, texts: &Path, program: &Path, pack: &Path, peer: &[PathBuf]) -> Result<Rows> {
    let dir = tempfile::tempdir()?;
    let place = Place { dir: dir.path(), program };
    let texts = texts_of(texts)?;
    place.flash(base, pack, 1, 0)?;
    let name = PackFile::open(pack)?.document().name.clone();
    let opened = Arc::new(Base::open(base)?);
    let runner = Runner::new(Arc::new(NativeEngine::new(Arc::clone(&opened), &options(THREADS)?)?) as Arc<_>, opened)?;
    let task = runner.add(pack)?;
    let mut rows = Rows::default();

    let server = place.serve()?;
    let text = sixteen(&runner, &texts)?;
    latency(&place, &runner, task, &name, &text, &mut rows)?;
    let batch: Vec<(&str, [_; 1])> = texts.iter().map(|text| (text.as_str(), [task])).collect();
    let engine = || -> Result<f64> {
        let (begin, mut count) = (Instant::now(), 0);
        for batch in batch.chunks_exact(CLIENTS).cycle() {
            runner.run(batch)?;
            count += batch.len();
            if begin.elapsed() > LOAD {
                break;
            }
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    };
    let lines = || load(&|| Ok(Box::new(Lines(BufReader::new(place.connect()?)))), &name, &texts);
    let [ours, own] = turns([&lines, &engine])?;
    rows.add(
        format!("{CLIENTS} clients, mixed lengths, lines; the engine's own batches"),
        "texts/s",
        ours,
        Some(own),
        ">= 0.9",
    );
    let one = server.pss()?;
    switches(&place, base, pack, &name, &text, &mut rows)?;
    drop(server);

    let [python, models @ ..] = peer else { bail!("no peer") };
    let serve = |models: &[PathBuf]| Peer::start(python, models);
    let (server, http) = (place.serve()?, serve(&models[..1])?);
    let ours = || load(&|| Ok(Box::new(Http(BufReader::new(TcpStream::connect(place.address())?)))), &name, &texts);
    let theirs = || load(&|| Ok(Box::new(Http(BufReader::new(TcpStream::connect(http.address())?)))), "0", &texts);
    let [ours, theirs] = turns([&ours, &theirs])?;
    rows.add(format!("{CLIENTS} clients, mixed lengths, HTTP; FastAPI"), "texts/s", ours, Some(theirs), ">= 2");
    let (whole, of_one) = (server.pss()?, http.process.pss()?);
    drop((server, http));
    rows.add("process with one task; FastAPI: PSS".to_owned(), "bytes", whole, Some(of_one), "");
    place.flash(base, pack, 3, FURTHER)?;
    let server = place.serve()?;
    let all = load(&|| Ok(Box::new(Lines(BufReader::new(place.connect()?)))), &name, &texts).and(server.pss())?;
    drop(server);
    let http = serve(models)?;
    load(&|| Ok(Box::new(Http(BufReader::new(TcpStream::connect(http.address())?)))), "1", &texts)?;
    load(&|| Ok(Box::new(Http(BufReader::new(TcpStream::connect(http.address())?)))), "0", &texts)?;
    let theirs = (http.process.pss()? - of_one) / (models.len() - 1) as f64;
    let ours = (all - one) / FURTHER as f64;
    rows.add("a further task; FastAPI: PSS".to_owned(), "bytes", ours, Some(theirs), "<= 0.1");
    Ok(rows)
}

/// A folder with a store.
struct Place<'a> {
    dir: &'a Path,
    program: &'a Path,
}

impl Place<'_> {
    fn overmask(&self, command: &str) -> Command {
        let mut overmask = Command::new(self.program);
        overmask.arg(command).env("OVERMASK_STORE", self.dir.join("store")).stdout(Stdio::null());
        overmask
    }

    fn done(mut command: Command) -> Result<()> {
        ensure!(command.status()?.success(), "{command:?} failed");
        Ok(())
    }

    /// Flashes the pack with a revision, and so many under other names.
    fn flash(&self, base: &Path, pack: &Path, revision: u64, further: usize) -> Result<()> {
        if !self.dir.join("store").exists() {
            let mut init = self.overmask("store");
            init.arg("init");
            Self::done(init)?;
        }
        let opened = Base::open(base)?;
        let mut pack = PackFile::open(pack)?.decode(Some(&opened))?;
        pack.document.revision = revision;
        let name = pack.document.name.clone();
        let mut flash = self.overmask("flash");
        flash.args(["--allow-downgrade", "--base"]).arg(base);
        for i in 0..=further {
            let path = self.dir.join(format!("{i}.pack"));
            pack.document.name = if i == 0 { name.clone() } else { format!("{name}-{i}") };
            std::fs::write(&path, pack.to_bytes(Some(&opened))?)?;
            flash.arg(path);
        }
        Self::done(flash)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    fn address(&self) -> &'static str {
        "127.0.0.1:16780"
    }

    fn connect(&self) -> Result<UnixStream> {
        Ok(UnixStream::connect(self.socket())?)
    }

    fn serve(&self) -> Result<Process> {
        let mut serve = self.overmask("serve");
        serve.args(["--threads", &THREADS.to_string(), "--listen", &format!("unix:{}", self.socket().display())]);
        let process = Process(serve.args(["--listen", &format!("tcp:{}", self.address())]).spawn()?);
        waited(|| self.connect().is_ok())?;
        Ok(process)
    }
}

fn waited(is_there: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !is_there() {
        ensure!(begin.elapsed() < Duration::from_secs(60), "a server does not start");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// ONNX Runtime behind FastAPI.
struct Peer {
    process: Process,
}

impl Peer {
    fn start(python: &Path, models: &[PathBuf]) -> Result<Peer> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("serve_peer.py");
        let mut command = Command::new(python);
        command.arg(script).args(["16781", &THREADS.to_string()]).args(models);
        let peer = Peer { process: Process(command.spawn()?) };
        waited(|| TcpStream::connect(peer.address()).is_ok())?;
        Ok(peer)
    }

    fn address(&self) -> &'static str {
        "127.0.0.1:16781"
    }
}

/// A connection of a client.
trait Client: Send {
    /// Asks for an answer; returns what is replied.
    fn ask(&mut self, task: &str, text: &str) -> Result<Value>;
}

struct Lines(BufReader<UnixStream>);

impl Client for Lines {
    fn ask(&mut self, task: &str, text: &str) -> Result<Value> {
        let request = json!({"task": task, "text": text}).to_string() + "\n";
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut reply = String::new();
        self.0.read_line(&mut reply)?;
        Ok(serde_json::from_str(&reply)?)
    }
}

struct Http(BufReader<TcpStream>);

impl Client for Http {
    fn ask(&mut self, task: &str, text: &str) -> Result<Value> {
        let body = json!({"task": task, "text": text}).to_string();
        let head = "POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length:";
        self.0.get_mut().write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            ensure!(!line.starts_with("http/") || line.contains(" 200 "), "{line}");
            if let Some(found) = line.strip_prefix("content-length:") {
                length = found.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut reply = vec![0; length];
        self.0.read_exact(&mut reply)?;
        Ok(serde_json::from_slice(&reply)?)
    }
}

/// Answers a second to clients that each ask one text after the other.
fn load(connect: &dyn Fn() -> Result<Box<dyn Client>>, task: &str, texts: &[String]) -> Result<f64> {
    let clients = (0..CLIENTS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let (is_over, begins) = (AtomicBool::new(false), Barrier::new(CLIENTS + 1));
    thread::scope(|scope| {
        let asks = clients.into_iter().enumerate().map(|(number, mut client)| {
            let (is_over, begins) = (&is_over, &begins);
            scope.spawn(move || -> Result<(usize, Instant)> {
                begins.wait();
                let (mut count, mut last) = (0, Instant::now());
                for text in texts.iter().cycle().skip(number * 37) {
                    let reply = client.ask(task, text)?;
                    ensure!(reply.get("error").is_none(), "{reply}");
                    (count, last) = (count + 1, Instant::now());
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok((count, last))
            })
        });
        let asks: Vec<_> = asks.collect();
        begins.wait();
        let begin = Instant::now();
        thread::sleep(LOAD);
        is_over.store(true, Ordering::Relaxed);
        // Up to the last answer: a batch that is half done at the end is neither left out nor counted for nothing.
        let (mut count, mut end) = (0, begin);
        for ask in asks {
            let (answers, last) = ask.join().map_err(|_| anyhow::anyhow!("a client failed"))??;
            (count, end) = (count + answers, end.max(last));
        }
        Ok(count as f64 / (end - begin).as_secs_f64())
    })
}

/// The median of several rounds in which two take turns.
fn turns(pair: [&dyn Fn() -> Result<f64>; 2]) -> Result<[f64; 2]> {
    let mut found = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for i in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            found[i].push(pair[i]()?);
        }
    }
    Ok(found.map(|mut all| median(&mut all)))
}

/// A text of so many tokens.
fn sixteen(runner: &Runner, texts: &[String]) -> Result<String> {
    for text in texts {
        if runner.tokenizer().encode(&text.as_str().into(), 64)?.len() == TOKENS {
            return Ok(text.clone());
        }
    }
    bail!("no text has {TOKENS} tokens")
}

/// What the server adds to the engine's own time.
fn latency(
    place: &Place<'_>,
    runner: &Runner,
    task: overmask::engine::TaskId,
    name: &str,
    text: &str,
    rows: &mut Rows,
) -> Result<()> {
    let mut client = Lines(BufReader::new(place.connect()?));
    let (mut served, mut own, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..40 {
        let mut both = [Vec::new(), Vec::new()];
        for i in 0..60 {
            let begin = Instant::now();
            client.ask(name, text)?;
            let after = begin.elapsed();
            // The first ones find caches of the other.
            both[0].extend((i >= 10).then_some(after.as_secs_f64() * 1e6));
        }
        for i in 0..60 {
            let begin = Instant::now();
            runner.run(&[(text, [task])])?;
            let after = begin.elapsed();
            both[1].extend((i >= 10).then_some(after.as_secs_f64() * 1e6));
        }
        let [one, other] = both.map(|mut all| median(&mut all));
        served.push(one);
        own.push(other);
        added.push(one - other);
    }
    let [served, own, added] = [&mut served, &mut own, &mut added].map(|all| median(all));
    rows.add(format!("a text of {TOKENS} tokens over a Unix socket; the engine alone"), "us", served, Some(own), "");
    rows.add("what the server adds to it".to_owned(), "us", added, None, "<= 100");
    Ok(())
}

/// What a switch to another generation takes between two texts.
fn switches(place: &Place<'_>, base: &Path, pack: &Path, name: &str, text: &str, rows: &mut Rows) -> Result<()> {
    place.flash(base, pack, 2, 0)?;
    let mut client = Lines(BufReader::new(place.connect()?));
    let (mut times, mut at_switch) = (Vec::new(), Vec::new());
    let mut generation = Value::Null;
    for switch in 0..SWITCHES {
        let to = (switch % 2 + 1).to_string();
        let mut back = place.overmask("store");
        back.args(["rollback", "--to", &to]).stderr(Stdio::null());
        let mut switching = None;
        for i in 0.. {
            if i == 50 {
                switching = Some(back.spawn()?);
            }
            let begin = Instant::now();
            let reply = client.ask(name, text)?;
            let took = begin.elapsed().as_secs_f64() * 1e3;
            let is_new = reply["generation"] != generation && !generation.is_null();
            generation = reply["generation"].clone();
            times.push(took);
            if is_new {
                at_switch.push(took);
            }
            ensure!(i < 100_000, "no switch");
            if i > 100 && generation.as_u64().map(|number| number.to_string()).as_deref() == Some(to.as_str()) {
                break;
            }
        }
        ensure!(switching.context("no switch")?.wait()?.success(), "a rollback failed");
    }
    let usual = median(&mut times);
    let mut more: Vec<f64> = at_switch.iter().map(|took| took - usual).collect();
    let middle = median(&mut more);
    let most = more.last().copied().unwrap_or(f64::NAN);
    rows.add(
        format!("{} switches under load: more than a usual answer takes, median", more.len()),
        "ms",
        middle,
        None,
        "<= 1",
    );
    rows.add("the same, at most".to_owned(), "ms", most, None, "");
    Ok(())
}

/// The texts of a JSONL file.
fn texts_of(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)?;
    let read = |line: &str| {
        let row: Value = serde_json::from_str(line)?;
        row["text"].as_str().map(str::to_owned).context("no text")
    };
    text.lines().take(1024).map(read).collect()
}
