//! Several tasks at once: what the native engine computes once for all of them.
//!
//! And what a cache of prefixes saves where a text comes again.
//!
//! Masks are made up, as time does not depend on which weights are zero: of each layer of the upper half, or of all
//! layers, with 7 % of the weights zero, or half of the 32x1 blocks.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Error, Result, ensure};
use overmask::base::Base;
use overmask::engine::native::NativeEngine;
use overmask::engine::{Changes, Engine, Plan, TaskId, TokenBatch};
use overmask::mask::{Granularity, Mask};
use overmask::pack::NamedMask;

use crate::contenders::{PAUSE, Peer, Texts, median, options};
use crate::rows::Rows;

/// Rounds that count, and those before that do not.
const ROUNDS: usize = 31;
const WARM_UP: usize = 3;

/// Tasks on one text.
const TASKS: usize = 5;

/// A kind of tasks.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) granularity: Granularity,
    /// Of 100 units so many are zero.
    pub(crate) zeros: u64,
    /// The first layer that is masked.
    pub(crate) from: usize,
}

/// Measures plans with one and two threads.
pub(crate) fn run(base: &Path, texts: &Path) -> Result<Rows> {
    let base = Arc::new(Base::open(base)?);
    let texts = Texts::read(&base, texts)?;
    let half = base.manifest().architecture.layers / 2;
    let block = Granularity::Block { rows: 32, cols: 1 };
    let upper = Kind { name: "upper half, weight 7 %", granularity: Granularity::Weight, zeros: 7, from: half };
    let sparse = Kind { name: "upper half, block:32x1 50 %", granularity: block, zeros: 50, from: half };
    let all = Kind { name: "all layers, weight 7 %", granularity: Granularity::Weight, zeros: 7, from: 0 };
    let mut rows = Rows::default();
    for threads in [1, 2] {
        for length in [16, 64, 128] {
            let (what, batch) = texts.batch(Some(length))?;
            for (kind, reach) in [(&upper, "<= 3.1"), (&sparse, "<= 2.2"), (&all, "")] {
                let engine = NativeEngine::new(Arc::clone(&base), &options(threads)?)?;
                let tasks = (0..TASKS).map(|seed| kind.add(&base, &engine, seed as u64)).collect::<Result<Vec<_>>>()?;
                let one = Plan::single(batch.ragged.clone(), tasks[0]);
                let many = Plan::new(batch.ragged.clone(), &[&tasks]);
                let dense = Plan::single(batch.ragged.clone(), engine.add(Changes::NONE)?);
                let mut peer = Peer::OnnxRuntime.start(&base, threads, &[])?;
                let [one, many, apart, dense, peer] = interleaved([
                    &mut || plan(&engine, &one),
                    &mut || plan(&engine, &many),
                    &mut || {
                        tasks
                            .iter()
                            .try_for_each(|task| engine.encode(*task, &batch.ragged).map(drop))
                            .map_err(Into::into)
                    },
                    &mut || plan(&engine, &dense),
                    &mut || (0..TASKS).try_for_each(|_| peer.pass(&batch)),
                ])?;
                let name =
                    |against: &str| format!("{threads} thr, {what}: {TASKS} tasks, {}, against {against}", kind.name);
                let reach = if length == 64 { reach } else { "" };
                rows.add(name("one"), "ms", many, Some(one), reach);
                rows.add(name("a dense pass"), "ms", many, Some(dense), "");
                rows.add(name("one after the other"), "ms", many, Some(apart), "");
                rows.add(name("as many passes of ONNX Runtime"), "ms", many, Some(peer), "");
            }
        }
        for length in [16, 64, 128] {
            let (what, batch) = texts.batch(Some(length))?;
            again(&base, &upper, threads, (&what, &batch.ragged), &mut rows)?;
        }
        for (kind, reach) in [(&all, "<= 1.5"), (&upper, "")] {
            let (what, batch) = texts.batch(None)?;
            let engine = NativeEngine::new(Arc::clone(&base), &options(threads)?)?;
            let tasks = (0..8).map(|seed| kind.add(&base, &engine, seed)).collect::<Result<Vec<_>>>()?;
            let count = batch.ragged.len();
            let one = Plan::single(batch.ragged.clone(), tasks[0]);
            let mixed: Vec<[TaskId; 1]> = (0..count).map(|text| [tasks[text % tasks.len()]]).collect();
            let mixed = Plan::new(batch.ragged.clone(), &mixed);
            let [one, mixed] = interleaved([&mut || plan(&engine, &one), &mut || plan(&engine, &mixed)])?;
            let name = format!("{threads} thr, {what}: for 8 tasks, {}, against one", kind.name);
            rows.add(name, "ms", mixed, Some(one), reach);
        }
    }
    Ok(rows)
}

/// Measures a text that came before, and one that did not, with a cache of prefixes beside none.
fn again(
    base: &Arc<Base>,
    kind: &Kind,
    threads: usize,
    (what, text): (&str, &TokenBatch),
    rows: &mut Rows,
) -> Result<()> {
    let engine =
        |texts| NativeEngine::new(Arc::clone(base), &options(threads)?.cache_texts(texts)).map_err(Error::from);
    let engines = [engine(2)?, engine(0)?];
    for tasks in [1, TASKS] {
        let plans = |engine: &NativeEngine| -> Result<_> {
            let tasks = (0..tasks).map(|seed| kind.add(base, engine, seed as u64)).collect::<Result<Vec<_>>>()?;
            Ok(move |text: &TokenBatch| Plan::new(text.clone(), &[&tasks]))
        };
        let [cached, plain] = [plans(&engines[0])?, plans(&engines[1])?];
        // Texts that differ in one token from all before.
        let news = std::cell::Cell::new(0);
        let new = || {
            news.set(news.get() + 1);
            let (mut ids, mut other) = (text.ids().to_vec(), TokenBatch::new(text.pad()));
            if let Some(id) = ids.last_mut() {
                *id = news.get() % base.manifest().architecture.vocab_size as u32;
            }
            other.push(&ids, text.segments());
            other
        };
        let before = engines[0].cache().unwrap_or_default();
        let [came, came_none, new, new_none] = interleaved([
            &mut || plan(&engines[0], &cached(text)),
            &mut || plan(&engines[1], &plain(text)),
            &mut || plan(&engines[0], &cached(&new())),
            &mut || plan(&engines[1], &plain(&new())),
        ])?;
        let after = engines[0].cache().unwrap_or_default();
        let hits = after.hits - before.hits;
        ensure!(hits + 1 >= (WARM_UP + ROUNDS) as u64, "the text was found {hits} times");
        let name = |which| format!("{threads} thr, {what}, {which}, tasks: {tasks}, {}: cache against none", kind.name);
        rows.add(name("a text that came before"), "ms", came, Some(came_none), "");
        rows.add(name("a new text"), "ms", new, Some(new_none), "");
    }
    Ok(())
}

pub(crate) fn plan(engine: &NativeEngine, plan: &Plan) -> Result<()> {
    engine.run(plan)?;
    Ok(())
}

impl Kind {
    /// A task of this kind.
    pub(crate) fn add(&self, base: &Base, engine: &NativeEngine, seed: u64) -> Result<TaskId> {
        let mut state = seed + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 100
        };
        let (rows, cols) = self.granularity.block();
        let mut masks = Vec::new();
        for tensor in base.manifest().maskable.iter().filter(|tensor| tensor.layer >= self.from) {
            let units = tensor.outputs.div_ceil(rows) * tensor.inputs.div_ceil(cols);
            let keep: Vec<bool> = (0..units).map(|_| next() >= self.zeros).collect();
            let mask = Mask::from_units(self.granularity, tensor.outputs, tensor.inputs, keep.into_iter())?;
            masks.push(NamedMask { tensor: tensor.name.clone(), mask });
        }
        Ok(engine.add(Changes::masks_alone(&masks))?)
    }
}

/// The medians, in milliseconds, of what takes turns. The first run after a pause does not count: see
/// [`PAUSE`](crate::contenders::PAUSE).
pub(crate) fn interleaved<const N: usize>(mut runs: [&mut dyn FnMut() -> Result<()>; N]) -> Result<[f64; N]> {
    let mut times = [const { Vec::new() }; N];
    for round in 0..WARM_UP + ROUNDS {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            std::thread::sleep(PAUSE);
            run()?;
            let start = Instant::now();
            run()?;
            if round >= WARM_UP {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(times.map(|mut times| median(&mut times)))
}
