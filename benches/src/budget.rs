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
use half::bf16;
use overmask::base::{Base, Precision};
use overmask::engine::native::{Budget, NativeEngine, Stage};
use overmask::engine::{Changes, Engine};
use overmask_kernels::{Activations, Isa, NR, PanelMask, Panels, Product, Scratch, Tabled};
use serde_json::Value;

use crate::contenders::{Batch, Contender, OnnxRuntime, Texts, options};
use crate::rows::Rows;

const PASSES: usize = 60;
const WARM_UP: usize = 5;

/// Measures both, with one and two threads, and ours on the base in bf16 and int8 as well.
pub(crate) fn run(base: &Path, variants: [&Path; 2], texts: &Path) -> Result<Rows> {
    let bases = [base, variants[0], variants[1]].map(|path| Base::open(path).map(Arc::new));
    let bases = bases.into_iter().collect::<Result<Vec<_>, _>>()?;
    let texts = Texts::read(&bases[0], texts)?;
    let mut rows = Rows::default();
    for threads in [1, 2] {
        let memory = memory(threads);
        rows.add(format!("{threads} thr: memory limit"), "GB/s", memory / 1e9, None, "");
        for (base, (bytes, arithmetic)) in bases.iter().zip(LIMITS) {
            let precision = base.precision();
            let arithmetic = arithmetic(threads, options(threads)?.isa.unwrap_or_else(Isa::best));
            rows.add(format!("{threads} thr, {precision}: arithmetic limit"), "GOP/s", arithmetic / 1e9, None, "");
            let maskable = &base.manifest().maskable;
            let weights: usize = maskable.iter().map(|tensor| tensor.outputs * tensor.inputs).sum();
            for length in [Some(16), Some(64), Some(128), None] {
                let (what, batch) = texts.batch(length)?;
                let title = format!("{threads} thr, {precision}, {what}");
                let peer = (precision == Precision::F32).then(|| of_onnx_runtime(base, threads, &batch)).transpose()?;
                let ours = of_native(base, threads, &batch)?;
                for part in Stage::ALL.map(Stage::name).into_iter().chain(["other", "all"]) {
                    let theirs = peer.as_ref().map(|parts| parts.get(part).copied().unwrap_or_default());
                    rows.add(format!("{title}: {part}"), "ms", ours[part], theirs, "");
                }
                // Each weight is read once and used for every token.
                let operations = 2.0 * (weights * batch.ragged.tokens()) as f64;
                let seconds = ours["linears"] / 1e3 / threads as f64;
                let limit = arithmetic.min(memory * operations / (bytes * weights) as f64);
                let name = format!("{title}: linears, against the roofline");
                rows.add(name, "GOP/s", operations / seconds / 1e9, Some(limit / 1e9), "");
            }
        }
    }
    Ok(rows)
}

/// Bytes of a weight, and the multiplications and additions a second that products can do at most, with all threads at
/// once: with [`memory`] the roofline of Williams, Waterman and Patterson (2009).
type Limit = (usize, fn(usize, Isa) -> f64);

/// In f32, bf16 and int8.
const LIMITS: [Limit; 3] = [
    (4, |threads, isa| of_tile::<f32>(threads, isa, 0.5, 0.25, 0.0)),
    (2, |threads, isa| of_tile::<bf16>(threads, isa, bf16::ONE, 0.25, 0.0)),
    (1, |threads, isa| of_tile::<i8>(threads, isa, 3, 5, 0)),
];

/// Of products of a tile and a panel that stay in the nearest cache.
fn of_tile<E: Tabled>(threads: usize, isa: Isa, weight: E, activation: E::Activation, sum: E::Sum) -> f64
where
    E::Activation: Sync,
    E::Sum: Sync,
{
    const ROWS: usize = 14;
    const INPUTS: usize = 128;
    best(threads, || {
        let mut packed = vec![E::default(); Panels::<E>::packed_len(NR, INPUTS)];
        Panels::pack(&[weight; NR * INPUTS], NR, INPUTS, &mut packed);
        let (weight, rows) = (Panels::new(&packed, NR, INPUTS), [[activation; NR]; ROWS * INPUTS / NR]);
        let (mut sums, mut scratch, count) = ([[sum; NR]; ROWS], Scratch::default(), 5_000);
        for _ in 0..count {
            let activations = Activations::new(&rows, ROWS, INPUTS);
            let product = Product { activations, weight, mask: PanelMask::Dense, panel: 0, bias: None };
            product.run(isa, &mut scratch, &mut sums);
        }
        std::hint::black_box(&sums);
        2.0 * (count * INPUTS * NR * ROWS) as f64
    })
}

/// Bytes a second that all threads read at once, of far more than any cache holds.
fn memory(threads: usize) -> f64 {
    let values = vec![1u64; 16 << 20];
    best(threads, || {
        std::hint::black_box(values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value)));
        size_of_val(&values[..]) as f64
    })
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
