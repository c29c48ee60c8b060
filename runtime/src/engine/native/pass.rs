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
use super::schedule::{Group, Step};
use crate::base::Base;

/// Rows of a norm or an embedding that are worth handing to another thread.
const MIN_PART: usize = 8;

/// Rows for which it is worth that a thread reads a weight for itself: with as many for each, threads keep to rows of
/// their own, which stay in their caches; with fewer, they keep to outputs, and weights come from memory once.
const MIN_STRIP: usize = 32;

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

/// Rows of one class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) rows: Range<usize>,
    /// A task of the class, as its place among those that ask.
    pub(super) task: usize,
    /// The thread that keeps to them, if one does.
    pub(super) lane: Option<usize>,
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

    /// The rows of a step by class, and by the threads that keep to rows of their own.
    pub(super) fn pieces(&self, step: &Step) -> Vec<Piece> {
        let (rows, threads) = (step.rows(), self.pool.threads());
        let strips = if rows < threads * MIN_STRIP { 1 } else { threads };
        let of_group = |group: &Group| {
            let (Range { start, end }, task) = (group.rows.clone(), group.task);
            (0..strips).map(move |strip| Piece {
                rows: start.max(strip * rows / strips)..end.min((strip + 1) * rows / strips),
                task,
                lane: (strips > 1).then_some(strip),
            })
        };
        step.groups.iter().flat_map(of_group).filter(|piece| !piece.rows.is_empty()).collect()
    }

    pub(super) fn timed<R>(&self, stage: Stage, run: impl FnOnce() -> R) -> R {
        match self.budget {
            Some(budget) => budget.timed(stage, run),
            None => run(),
        }
    }

    /// Calls a function for each of some parts, on all threads, with memory of the thread. Parts without a lane go to
    /// threads in their order, to each about as many.
    pub(super) fn each<T: Send>(&self, parts: Vec<(Option<usize>, T)>, run: impl Fn(T, &mut Memory) + Sync) {
        let (threads, count) = (self.pool.threads(), parts.len());
        let parts = parts.into_iter().enumerate();
        let parts = parts.map(|(i, (lane, part))| (lane.unwrap_or(i * threads / count), part));
        self.pool.each(parts, |part| MEMORY.with_borrow_mut(|memory| run(part, memory)));
    }
}

/// Cuts values in panels into parts that have some rows of every panel; the parts are all rows, one
/// after the other.
pub(super) fn by_rows<'a, 'p, T>(
    panels: &'a mut [T],
    rows: usize,
    parts: impl IntoIterator<Item = &'p Range<usize>, IntoIter: Clone>,
) -> Vec<Vec<&'a mut [T]>> {
    let parts = parts.into_iter();
    let mut all: Vec<Vec<&mut [T]>> = parts.clone().map(|_| Vec::with_capacity(panels.len() / rows)).collect();
    for mut panel in panels.chunks_exact_mut(rows) {
        for (part, all) in parts.clone().zip(&mut all) {
            let (these, others) = panel.split_at_mut(part.len());
            all.push(these);
            panel = others;
        }
    }
    all
}
