//! A pass of the encoder by the native engine beside its peers, on the same base, texts and
//! threads.
//!
//! Everybody is measured alone (set up anew in each of three rounds: threads that a peer leaves
//! spinning would take a core from who comes next) and interleaved (all set up, one pass each in
//! turn: caches are shared, as in a program that does other things, too). Of the two medians the
//! better counts, for everybody. tract computes with one thread, whatever the row.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use overmask::base::Base;
use overmask::engine::native::NativeEngine;
use overmask::engine::{Changes, Engine, TaskId};
use overmask::pack::{NamedMask, Pack};

use crate::contenders::{Batch, Contender, Ours, Peer, Texts, call_self, median, options};
use crate::f32_base;
use crate::rows::Rows;

/// How this program calls itself: once for each number of threads.
pub(crate) const CHILD: &str = "peers-with-some-threads";

/// The environment variable that says how many; candle reads it, too.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Rounds of everybody alone, passes in each, and passes before that do not count.
const ROUNDS: usize = 3;
const PASSES: usize = 20;
const WARM_UP: usize = 3;

/// Passes of everybody in turn.
const TURNS: usize = 51;

/// Runs of twenty passes of each kind that show what a switch costs.
const SWITCHES: usize = 100;

/// Measures all peers with one and two threads, and a task switch.
pub(crate) fn run(base: &Path, texts: &Path, packs: [&Path; 3]) -> Result<Rows> {
    let mut rows = Rows::default();
    let out = tempfile::NamedTempFile::new()?;
    for threads in ["1", "2"] {
        let args = [&[out.path(), base, texts][..], &packs].concat();
        call_self(CHILD, &args, &[(THREADS, threads)])?;
        rows.read(out.path())?;
    }
    let base = Arc::new(f32_base(base)?);
    let [weight, block, _] = read(&base, packs)?;
    switch(&base, &Texts::read(&base, texts)?.batch(Some(16))?.1, &weight, &block, &mut rows)?;
    Ok(rows)
}

fn read(base: &Base, packs: [&Path; 3]) -> Result<[Pack; 3]> {
    let open = |path: &Path| Pack::open(path, base).with_context(|| format!("cannot read {}", path.display()));
    let [weight, block, half] = packs;
    Ok([open(weight)?, open(block)?, open(half)?])
}

/// Those of ours, and what is wanted of each.
struct Task<'a> {
    name: String,
    masks: &'a [NamedMask],
    is_half: bool,
    is_weight: bool,
}

/// Measures everything with the number of threads that the environment names.
pub(crate) fn child(base: &Path, texts: &Path, packs: [&Path; 3]) -> Result<Rows> {
    let threads: usize = std::env::var(THREADS)?.parse()?;
    let base = Arc::new(f32_base(base)?);
    let texts = Texts::read(&base, texts)?;
    let packs = read(&base, packs)?;
    let tasks: Vec<Task<'_>> = packs.iter().enumerate().map(|(i, pack)| task(pack, i)).collect();
    let mut rows = Rows::default();
    for length in [Some(16), Some(64), Some(128), None] {
        let (what, batch) = texts.batch(length)?;
        let medians = measure(&base, threads, &tasks, &batch)?;
        let (ours, peers) = medians.split_at(tasks.len());
        for (task, ours) in tasks.iter().zip(ours) {
            for (peer, theirs) in Peer::ALL.into_iter().zip(peers) {
                let name = format!("{threads} thr, {what}: {}, against {}", task.name, peer.name());
                rows.add(name, "ms", *ours, Some(*theirs), reach(task, peer, length));
            }
        }
    }
    Ok(rows)
}

fn task(pack: &Pack, index: usize) -> Task<'_> {
    let zeros: u64 = pack.masks.iter().map(|named| named.mask.zero_weights()).sum();
    let all: usize = pack.masks.iter().map(|named| named.mask.outputs() * named.mask.inputs()).sum();
    let name = format!("{} {:.0} %", pack.document.granularity, 100.0 * zeros as f64 / all as f64);
    Task { name, masks: &pack.masks, is_weight: index == 0, is_half: index == 2 }
}

/// What is wanted of a row.
fn reach(task: &Task<'_>, peer: Peer, length: Option<usize>) -> &'static str {
    match (peer, length) {
        (Peer::OnnxRuntime, Some(_)) if task.is_weight => "<= 1.0",
        (Peer::OnnxRuntime, None) if task.is_weight => "<= 0.55",
        (Peer::OnnxRuntime, Some(64 | 128)) if task.is_half => "<= 0.70",
        (Peer::OnnxRuntime, Some(64 | 128)) => "<= 0.95",
        (Peer::OnnxRuntime, _) => "",
        (Peer::Unpacked, Some(16)) if task.is_weight => "<= 0.6",
        (Peer::Unpacked, _) => "",
        _ => "< 1.0",
    }
}

/// The better median of each, in milliseconds: our tasks, then the peers.
fn measure(base: &Arc<Base>, threads: usize, tasks: &[Task<'_>], batch: &Batch) -> Result<Vec<f64>> {
    let count = tasks.len() + Peer::ALL.len();
    let start = |i: usize| match i.checked_sub(tasks.len()) {
        None => Ok(Box::new(Ours::new("native", base, threads, tasks[i].masks)?) as Box<dyn Contender>),
        Some(peer) => Peer::ALL[peer].start(base, threads, tasks[0].masks),
    };
    let timed = |contender: &mut dyn Contender| -> Result<f64> {
        let start = Instant::now();
        contender.pass(batch)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut alone = vec![Vec::new(); count];
    for _ in 0..ROUNDS {
        for (i, times) in alone.iter_mut().enumerate() {
            let mut contender = start(i)?;
            for pass in 0..WARM_UP + PASSES {
                let time = timed(&mut *contender)?;
                if pass >= WARM_UP {
                    times.push(time);
                }
            }
        }
    }
    let mut all = (0..count).map(start).collect::<Result<Vec<_>>>()?;
    let mut in_turn = vec![Vec::new(); count];
    for turn in 0..WARM_UP + TURNS {
        // Who comes first changes, and with it who comes after whom at the ends.
        for i in (0..count).map(|i| (i + turn) % count) {
            let time = timed(&mut *all[i])?;
            if turn >= WARM_UP {
                in_turn[i].push(time);
            }
        }
    }
    Ok(alone.iter_mut().zip(&mut in_turn).map(|(alone, turns)| median(alone).min(median(turns))).collect())
}

/// What it costs to take another task for each text: A, B, A, B ... less A, A, A ... and B, B, B.
fn switch(base: &Arc<Base>, batch: &Batch, a: &Pack, b: &Pack, rows: &mut Rows) -> Result<()> {
    let engine = NativeEngine::new(Arc::clone(base), &options(1)?)?;
    let [first, second] = [engine.add(Changes::masks_alone(&a.masks))?, engine.add(Changes::masks_alone(&b.masks))?];
    let mut times: [Vec<f64>; 4] = Default::default();
    let pass = |task: TaskId| -> Result<f64> {
        let start = Instant::now();
        engine.encode(task, &batch.ragged)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    // In short runs that take turns, so that a change of the machine's speed is in all of them.
    for run in 0..SWITCHES {
        for (kind, order) in [[first, first], [second, second], [first, second]].into_iter().enumerate() {
            for i in 0..20 {
                let time = pass(order[i % 2])?;
                if run > 0 && i > 1 {
                    times[kind + usize::from(kind == 2 && i % 2 == 1)].push(time);
                }
            }
        }
    }
    let [only_a, only_b, a, b] = times.map(|mut times| median(&mut times));
    rows.add("task switch".to_owned(), "us", (a - only_a + b - only_b) / 2.0, None, "<= 20");
    Ok(())
}
