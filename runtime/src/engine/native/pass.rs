//! What the parts of a forward pass share: what they run on, the threads, and their memory.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use overmask_kernels::{Isa, NR, Row, Scratch};

use super::Task;
use super::budget::{Budget, Stage};
use super::cache::Cache;
use super::pool::Pool;
use crate::base::Base;

/// Rows of a norm or an embedding that are worth handing to another thread.
const MIN_PART: usize = 8;

/// What all parts of a pass need.
pub(super) struct Pass<'a> {
    pub(super) base: &'a Base,
    /// The tasks that it is for; at least one.
    pub(super) tasks: &'a [Arc<Task>],
    pub(super) isa: Isa,
    pub(super) pool: &'a Pool,
    /// Prefixes of texts that came before, if they are kept.
    pub(super) cache: Option<&'a Cache>,
    /// Where the time goes, if somebody wants to know.
    pub(super) budget: Option<&'a Budget>,
}

/// Memory of a thread for a part of a pass.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) f32: Scratch,
    pub(super) bf16: Scratch<bf16>,
    pub(super) int8: Scratch<i8>,
    /// Sums of products of codes.
    pub(super) sums: Vec<Row<i32>>,
    pub(super) head: HeadMemory,
    pub(super) row: Vec<f32>,
}

/// Memory of a thread for a head of a text.
#[derive(Default)]
pub(super) struct HeadMemory {
    pub(super) keys: Vec<f32>,
    pub(super) scores: Vec<Row>,
}

thread_local! {
    /// Parts never wait for each other.
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Pass<'_> {
    /// The width of the encoder, which is that of all tasks.
    pub(super) fn width(&self) -> usize {
        self.tasks[0].model.width
    }

    /// The panels of its activations.
    pub(super) fn panels(&self) -> usize {
        self.width().div_ceil(NR)
    }

    /// The heads of each layer, likewise.
    pub(super) fn heads(&self) -> usize {
        self.tasks[0].model.heads
    }

    /// Rows in as many parts as are worth it.
    pub(super) fn parts(&self, rows: usize) -> Vec<Range<usize>> {
        let threads = self.pool.threads();
        let part = if threads == 1 { rows } else { rows.div_ceil(2 * threads).max(MIN_PART) };
        (0..rows).step_by(part).map(|start| start..rows.min(start + part)).collect()
    }

    pub(super) fn timed<R>(&self, stage: Stage, run: impl FnOnce() -> R) -> R {
        match self.budget {
            Some(budget) => budget.timed(stage, run),
            None => run(),
        }
    }

    /// Calls a function for each of some parts, on all threads, with memory of the thread.
    pub(super) fn each<T: Send>(&self, parts: Vec<T>, run: impl Fn(T, &mut Memory) + Sync) {
        self.pool.each(parts, |part| MEMORY.with_borrow_mut(|memory| run(part, memory)));
    }
}

/// Cuts values in panels into parts that have some rows of every panel; the parts are all rows, one
/// after the other.
pub(super) fn by_rows<'a, T>(panels: &'a mut [T], rows: usize, parts: &[Range<usize>]) -> Vec<Vec<&'a mut [T]>> {
    let mut all: Vec<Vec<&mut [T]>> = parts.iter().map(|_| Vec::with_capacity(panels.len() / rows)).collect();
    for mut panel in panels.chunks_exact_mut(rows) {
        for (part, all) in parts.iter().zip(&mut all) {
            let (these, others) = panel.split_at_mut(part.len());
            all.push(these);
            panel = others;
        }
    }
    all
}
