//! Encoders of any family that the native engine knows, beside ONNX Runtime on the same graph.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use overmask::engine::native::NativeEngine;
use overmask::engine::{Changes, Engine, Plan};
use overmask::mask::Granularity;

use crate::contenders::{Peer, Texts, options};
use crate::f32_base;
use crate::plans::{Kind, interleaved, plan};
use crate::rows::Rows;

/// Measures each base, dense and with made-up masks of single weights, with one and two threads.
pub(crate) fn run(texts: &Path, bases: &[PathBuf]) -> Result<Rows> {
    let masked = Kind { name: "weight 7 %", granularity: Granularity::Weight, zeros: 7, from: 0 };
    let mut rows = Rows::default();
    for dir in bases {
        let base = Arc::new(f32_base(dir)?);
        let texts = Texts::read(&base, texts)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        for threads in [1, 2] {
            for length in [16, 64, 128] {
                let (what, batch) = texts.batch(Some(length))?;
                let engine = NativeEngine::new(Arc::clone(&base), &options(threads)?)?;
                let dense = Plan::single(batch.ragged.clone(), engine.add(Changes::NONE)?);
                let task = Plan::single(batch.ragged.clone(), masked.add(&base, &engine, 1)?);
                let mut peer = Peer::OnnxRuntime.start(&base, threads, &[])?;
                let [dense, task, peer] =
                    interleaved([&mut || plan(&engine, &dense), &mut || plan(&engine, &task), &mut || {
                        peer.pass(&batch)
                    }])?;
                let name = |ours: &str| format!("{name}, {threads} thr, {what}: {ours}, against ONNX Runtime");
                rows.add(name("dense"), "ms", dense, Some(peer), "");
                rows.add(name(masked.name), "ms", task, Some(peer), "<= 1.0");
            }
        }
    }
    Ok(rows)
}
