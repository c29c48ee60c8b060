//! Where a pass of the encoder spends its time, in the native engine and in ONNX Runtime.
//!
//! Milliseconds a pass, summed over threads, by part. ONNX Runtime's are by operator, as its own
//! profile says; attention's products are those that no weight goes into. What is left of the
//! threads' time (waiting, handing out work, the profile itself) is `other`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use overmask::base::Base;
use overmask::engine::native::{Budget, NativeEngine, Stage};
use overmask::engine::{Changes, Engine};
use overmask_kernels::{Activations, Isa, NR, PanelMask, Panels, Product, Scratch};
use serde_json::Value;

use crate::contenders::{Batch, Contender, OnnxRuntime, Texts, options};
use crate::rows::Rows;

const PASSES: usize = 60;
const WARM_UP: usize = 5;

/// Measures both, with one and two threads.
pub(crate) fn run(base: &Path, texts: &Path) -> Result<Rows> {
    let base = Arc::new(Base::open(base)?);
    let texts = Texts::read(&base, texts)?;
    let mut rows = Rows::default();
    // What the products with weights do for each token.
    let weights: usize = base.manifest().maskable.iter().map(|tensor| tensor.outputs * tensor.inputs).sum();
    for threads in [1, 2] {
        let limits = Limits::measure(threads)?;
        rows.add(format!("{threads} thr: arithmetic limit"), "GFLOP/s", limits.flops / 1e9, None, "");
        rows.add(format!("{threads} thr: memory limit"), "GB/s", limits.bytes / 1e9, None, "");
        for length in [Some(16), Some(64), Some(128), None] {
            let (what, batch) = texts.batch(length)?;
            let theirs = of_onnx_runtime(&base, threads, &batch)?;
            let ours = of_native(&base, threads, &batch)?;
            for part in Stage::ALL.map(Stage::name).into_iter().chain(["other", "all"]) {
                let theirs = theirs.get(part).copied().unwrap_or_default();
                rows.add(format!("{threads} thr, {what}: {part}"), "ms", ours[part], Some(theirs), "");
            }
            // Each weight is read once and used for every token.
            let tokens = batch.ragged.tokens();
            let flops = 2.0 * (weights * tokens) as f64;
            let seconds = ours["linears"] / 1e3 / threads as f64;
            let limit = limits.flops.min(limits.bytes * flops / (4 * weights) as f64);
            let name = format!("{threads} thr, {what}: linears, against the roofline");
            rows.add(name, "GFLOP/s", flops / seconds / 1e9, Some(limit / 1e9), "");
        }
    }
    Ok(rows)
}

/// What the machine can do at most, with all threads at once: the roofline of Williams, Waterman and
/// Patterson (2009).
struct Limits {
    /// Floating-point operations a second.
    flops: f64,
    /// Bytes a second, read from memory.
    bytes: f64,
}

impl Limits {
    fn measure(threads: usize) -> Result<Limits> {
        let isa = options(threads)?.isa.unwrap_or_else(Isa::best);
        // Weights of 16 kB and activations of 7 kB stay in the nearest cache.
        let flops = best(threads, || {
            const STEPS: usize = 128;
            let (weight, rows) = (vec![[0.5; NR]; STEPS], vec![[0.25; NR]; 14 * STEPS / NR]);
            let weight = Panels::new(weight.as_flattened(), NR, STEPS);
            let (mut sums, mut scratch, count) = (vec![[0.0; NR]; 14], Scratch::default(), 5_000);
            for _ in 0..count {
                let activations = Activations::new(&rows, 14, STEPS);
                let product = Product { activations, weight, mask: PanelMask::Dense, panel: 0, bias: None };
                product.run(isa, &mut scratch, &mut sums);
            }
            std::hint::black_box(&sums);
            2.0 * (count * STEPS * NR * 14) as f64
        });
        // Far more than any cache holds.
        let values = vec![1u64; 16 << 20];
        let bytes = best(threads, || {
            std::hint::black_box(values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value)));
            size_of_val(&values[..]) as f64
        });
        Ok(Limits { flops, bytes })
    }
}

/// The best rate of some work that says how much it was, done by all threads at once.
fn best(threads: usize, work: impl Fn() -> f64 + Sync) -> f64 {
    let once = || {
        let start = Instant::now();
        let done: f64 = std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
            all.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
        });
        done / start.elapsed().as_secs_f64()
    };
    (0..7).map(|_| once()).fold(0.0, f64::max)
}

/// Milliseconds a pass, by part.
type Parts = BTreeMap<&'static str, f64>;

/// Adds what no part took.
fn complete(mut parts: Parts, threads: usize, all: f64) -> Parts {
    let known: f64 = parts.values().sum();
    parts.insert("other", threads as f64 * all - known);
    parts.insert("all", threads as f64 * all);
    parts
}

fn of_native(base: &Arc<Base>, threads: usize, batch: &Batch) -> Result<Parts> {
    let engine = NativeEngine::new(Arc::clone(base), &options(threads)?)?;
    let task = engine.add(Changes::NONE)?;
    for _ in 0..WARM_UP {
        engine.encode(task, &batch.ragged)?;
    }
    let (budget, start) = (Budget::default(), Instant::now());
    for _ in 0..PASSES {
        engine.encode_timed(task, &batch.ragged, &budget)?;
    }
    let all = start.elapsed().as_secs_f64() * 1e3 / PASSES as f64;
    let parts = Stage::ALL.map(|part| (part.name(), budget.spent(part).as_secs_f64() * 1e3 / PASSES as f64));
    Ok(complete(parts.into(), threads, all))
}

fn of_onnx_runtime(base: &Base, threads: usize, batch: &Batch) -> Result<Parts> {
    let dir = tempfile::tempdir()?;
    let mut session = OnnxRuntime::new(base, threads, Some(&dir.path().join("profile")))?;
    // Its profile cannot be switched on later: the times of warming up are among the others.
    let start = Instant::now();
    for _ in 0..PASSES {
        session.pass(batch)?;
    }
    let all = start.elapsed().as_secs_f64() * 1e3 / PASSES as f64;
    let profile = PathBuf::from(session.end_profiling()?);
    let text = std::fs::read_to_string(&profile).with_context(|| format!("cannot read {}", profile.display()))?;
    let events: Vec<Value> = serde_json::from_str(&text)?;
    let mut parts = Parts::new();
    for event in events.iter().filter(|event| event["cat"] == "Node") {
        let (name, duration) = (event["name"].as_str().unwrap_or_default(), event["dur"].as_f64().unwrap_or(0.0));
        if name.ends_with("_kernel_time") {
            // A kernel runs on all threads, or the others wait for it: its time is that of all.
            let op = event["args"]["op_name"].as_str().unwrap_or_default();
            let Some(part) = part(op) else { continue };
            *parts.entry(part).or_default() += threads as f64 * duration / 1e3 / PASSES as f64;
        }
    }
    Ok(complete(parts, threads, all))
}

/// The part that an operator belongs to. In the base's graph, products with weights are `Gemm`, and
/// those of attention `MatMul`.
fn part(op: &str) -> Option<&'static str> {
    Some(match op {
        "Gather" => "embedding",
        "Gemm" => "linears",
        "Gelu" | "BiasGelu" | "Erf" => "GELU",
        "MatMul" | "FusedMatMul" | "Transpose" | "Reshape" => "attention",
        "Softmax" => "softmax",
        "LayerNormalization" | "SkipLayerNormalization" | "EmbedLayerNormalization" => "norms",
        _ => return None,
    })
}
