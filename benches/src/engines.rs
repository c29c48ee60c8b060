//! The native engine beside ONNX Runtime, on the same base and tokens, in one run.
//!
//! `bench-engines BASE REPORT PACK...` measures a pass of the encoder with each pack's masks. Peers:
//! a plain session of the base's own graph, whose constant weights ONNX Runtime packs as it likes
//! (`dense`), and the engine `ort`, whose weights may change from task to task. All take
//! turns, each alone; figures are medians in milliseconds.

mod contenders;
mod rows;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use overmask::base::Base;
use overmask::engine::TaskId;
use overmask::pack::Pack;

use contenders::{Dense, batch, median, start};
use rows::Rows;

/// Times that all take their turn.
const ROUNDS: usize = 3;

/// Passes of each in a round, and those before that do not count.
const PASSES: usize = 17;
const WARM_UP: usize = 3;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (base, report) = (args.next(), args.next());
    let (base, report) = base.zip(report).context("usage: bench-engines BASE REPORT PACK...")?;
    let base = Arc::new(Base::open(&base)?);
    let packs = args.map(|path| Ok(Pack::open(&path, &base)?)).collect::<Result<Vec<_>>>()?;
    ensure!(!packs.is_empty(), "name a pack");
    let mut rows = Rows::default();
    for threads in [1, 2] {
        for shape in [vec![16], vec![64], vec![128], mixed()] {
            measure(&base, &packs, threads, &shape, &mut rows)?;
        }
    }
    switch(&base, &packs, &mut rows)?;
    rows.finish(&report)
}

/// Lengths of 16 texts as they come: 316 tokens, 624 with padding.
fn mixed() -> Vec<usize> {
    vec![39, 32, 28, 26, 24, 22, 20, 19, 18, 17, 16, 14, 12, 11, 10, 8]
}

fn name(pack: &Pack) -> String {
    let zeros: u64 = pack.masks.iter().map(|named| named.mask.zero_weights()).sum();
    let all: usize = pack.masks.iter().map(|named| named.mask.outputs() * named.mask.inputs()).sum();
    format!("{} {} {:.0} %", pack.document.name, pack.document.granularity, 100.0 * zeros as f64 / all as f64)
}

/// Runs something that is set up anew in each round, alone: threads that a peer leaves spinning
/// would take a core from who comes next.
fn alone(times: &mut Vec<f64>, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    for pass in 0..WARM_UP + PASSES {
        let start = Instant::now();
        run()?;
        if pass >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

fn measure(base: &Arc<Base>, packs: &[Pack], threads: usize, lengths: &[usize], rows: &mut Rows) -> Result<()> {
    let batch = batch(lengths);
    let mut names = vec!["dense".to_owned()];
    names.extend(packs.iter().map(name));
    let mut times = vec![Vec::new(); names.len() + 2];
    for _ in 0..ROUNDS {
        let mut dense = Dense::new(base, threads, None)?;
        alone(&mut times[0], || dense.run(&batch))?;
        drop(dense);
        let mut changing = start("ort:cpu", base, threads)?;
        let task = changing.load(&packs[0].masks)?;
        alone(&mut times[1], || Ok(changing.encode(task, &batch).map(drop)?))?;
        drop(changing);
        let mut native = start("native", base, threads)?;
        let masks = std::iter::once(&[][..]).chain(packs.iter().map(|pack| pack.masks.as_slice()));
        for (masks, times) in masks.zip(&mut times[2..]) {
            let task = native.load(masks)?;
            alone(times, || Ok(native.encode(task, &batch).map(drop)?))?;
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let what = match lengths {
        [one] => format!("{one} tokens"),
        _ => format!("{} texts, {} tokens", lengths.len(), lengths.iter().sum::<usize>()),
    };
    for (task, ours) in names.iter().zip(&medians[2..]) {
        for (peer, theirs) in [("ONNX Runtime dense", medians[0]), ("engine ort", medians[1])] {
            rows.add(format!("{threads} thr, {what}: {task}, against {peer}"), "ms", *ours, Some(theirs), "");
        }
    }
    Ok(())
}

/// What it costs to take another task for each text.
fn switch(base: &Arc<Base>, packs: &[Pack], rows: &mut Rows) -> Result<()> {
    let mut native = start("native", base, 1)?;
    let batch = batch(&[16]);
    let (first, last) = (&packs[0], &packs[packs.len() - 1]);
    let [a, b] = [native.load(&first.masks)?, native.load(&last.masks)?];
    // The medians of both tasks, in microseconds, when they are run in this order.
    let times = |order: [TaskId; 2]| -> Result<[f64; 2]> {
        let mut times = [Vec::new(), Vec::new()];
        for i in 0..8 * PASSES {
            let start = Instant::now();
            native.encode(order[i % 2], &batch)?;
            times[i % 2].push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times.map(|mut times| median(&mut times)))
    };
    let ([only_a, _], [only_b, _], [a, b]) = (times([a, a])?, times([b, b])?, times([a, b])?);
    let title = format!("task switch, {} and {} in turns, less each alone", name(first), name(last));
    rows.add(title, "us", (a - only_a + b - only_b) / 2.0, None, "<= 20");
    Ok(())
}
