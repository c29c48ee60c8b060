//! A task of the engine: what it changes, and which steps of the encoder it has in common with others.

use std::sync::Arc;

use overmask_kernels::PanelMask;

use super::masks::TaskMasks;
use super::model::{Linear, Model};
use crate::base::Base;

/// What a task changes.
pub(super) struct Task {
    pub(super) masks: TaskMasks,
    /// The engine's own, where the task replaces nothing.
    pub(super) model: Arc<Model>,
    /// For the embeddings and for each layer a number: tasks with the same one compute the same there of the same input.
    /// 0 is the base itself.
    pub(super) classes: Vec<u64>,
}

impl Task {
    /// The base, as the task that changes nothing.
    pub(super) fn base(base: &Base, model: &Arc<Model>) -> Self {
        let classes = vec![0; model.layers.len() + 1];
        Task { masks: TaskMasks::new(base, &[]), model: Arc::clone(model), classes }
    }

    /// A task among others; a class that none of them has is the next one.
    pub(super) fn new(
        masks: TaskMasks,
        model: Arc<Model>,
        base: &Task,
        others: &[Arc<Task>],
        mut next: impl FnMut() -> u64,
    ) -> Self {
        let mut task = Task { masks, model, classes: Vec::new() };
        for step in 0..=task.model.layers.len() {
            let mut known = std::iter::once(base).chain(others.iter().map(|other| &**other));
            let same = known.find(|known| task.is_same(known, step)).map(|known| known.classes[step]);
            task.classes.push(same.unwrap_or_else(&mut next));
        }
        task
    }

    /// The mask of a linear layer.
    pub(super) fn mask(&self, linear: &Linear) -> PanelMask<'_> {
        linear.index.map_or(PanelMask::Dense, |index| self.masks.of(index))
    }

    /// Whether both compute the same in the embeddings (step 0) or a layer (1 and on).
    fn is_same(&self, other: &Task, step: usize) -> bool {
        let (ours, theirs) = (&*self.model, &*other.model);
        let is_one_model = Arc::ptr_eq(&self.model, &other.model);
        let Some(layer) = step.checked_sub(1) else { return is_one_model || ours.embeddings == theirs.embeddings };
        let (ours, theirs) = (&ours.layers[layer], &theirs.layers[layer]);
        // Different masks differ early; equal ones are compared to their ends, once.
        ours.linears().all(|linear| self.mask(linear) == other.mask(linear)) && (is_one_model || ours == theirs)
    }
}
