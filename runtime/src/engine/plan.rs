//! What one call computes: texts, and for each text its tasks.

use super::{TaskId, TokenBatch};

/// Texts as tokens, and for each text the tasks that it is for. What an engine can share among tasks, it may
/// compute once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    texts: TokenBatch,
    /// Each task that there is, with the numbers of its texts.
    tasks: Vec<(TaskId, Vec<usize>)>,
}

impl Plan {
    /// A plan for some texts; `tasks` has a list for each of them.
    ///
    /// # Panics
    /// When there are not as many lists as texts.
    pub fn new<T: AsRef<[TaskId]>>(texts: TokenBatch, tasks: &[T]) -> Self {
        assert_eq!(texts.len(), tasks.len(), "each text has a list of tasks");
        let mut by_task: Vec<(TaskId, Vec<usize>)> = Vec::new();
        for (text, tasks) in tasks.iter().enumerate() {
            for task in tasks.as_ref() {
                match by_task.iter_mut().find(|(id, _)| id == task) {
                    // A task that comes twice is computed once.
                    Some((_, of)) if of.last() == Some(&text) => {}
                    Some((_, of)) => of.push(text),
                    None => by_task.push((*task, vec![text])),
                }
            }
        }
        Plan { texts, tasks: by_task }
    }

    /// All texts for one task.
    pub fn single(texts: TokenBatch, task: TaskId) -> Self {
        let all = (0..texts.len()).collect();
        Plan { texts, tasks: vec![(task, all)] }
    }

    /// The texts.
    pub fn texts(&self) -> &TokenBatch {
        &self.texts
    }

    /// Each task once, with the numbers of its texts, which increase.
    pub fn tasks(&self) -> &[(TaskId, Vec<usize>)] {
        &self.tasks
    }
}

/// What tasks have in common, on one text: for the embeddings and each layer, which of them it is computed once for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing(Vec<Vec<Vec<TaskId>>>);

impl Sharing {
    /// Of the classes of some tasks, for the embeddings and each layer: tasks whose classes are equal up to some step
    /// have that step in common.
    ///
    /// # Panics
    /// When a task has fewer classes than the first.
    pub fn new(tasks: &[TaskId], classes: &[&[u64]]) -> Self {
        let steps = classes.first().map_or(0, |classes| classes.len());
        let of_step = |step: usize| {
            let mut groups: Vec<(&[u64], Vec<TaskId>)> = Vec::new();
            for (task, classes) in tasks.iter().zip(classes) {
                let path = &classes[..=step];
                match groups.iter_mut().find(|(other, _)| *other == path) {
                    Some((_, tasks)) => tasks.push(*task),
                    None => groups.push((path, vec![*task])),
                }
            }
            groups.into_iter().map(|(_, tasks)| tasks).collect()
        };
        Sharing((0..steps).map(of_step).collect())
    }

    /// The groups of tasks that have their embeddings in common.
    pub fn embeddings(&self) -> &[Vec<TaskId>] {
        self.0.first().map_or(&[], Vec::as_slice)
    }

    /// The same for each layer: tasks of a group have this layer and all below it in common.
    pub fn layers(&self) -> &[Vec<Vec<TaskId>>] {
        self.0.get(1..).unwrap_or_default()
    }

    /// How many layers are computed for a text, all tasks together.
    pub fn computed_layers(&self) -> usize {
        self.layers().iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_its_texts_once() {
        let mut texts = TokenBatch::new(0);
        (0..3).for_each(|text| texts.push(&[text], &[0]));
        let [a, b] = [TaskId(1), TaskId(2)];
        let plan = Plan::new(texts.clone(), &[vec![b, a, b], vec![], vec![a]]);
        assert_eq!(plan.tasks(), [(b, vec![0]), (a, vec![0, 2])]);
        assert_eq!(Plan::single(texts, a).tasks(), [(a, vec![0, 1, 2])]);
    }

    #[test]
    fn tasks_share_what_is_alike_from_the_start() {
        let tasks = [TaskId(1), TaskId(2), TaskId(3)];
        let sharing = Sharing::new(&tasks, &[&[0, 0, 1, 0], &[0, 0, 2, 0], &[0, 0, 2, 3]]);
        assert_eq!(sharing.embeddings(), [tasks.to_vec()]);
        let [a, b, c] = tasks;
        assert_eq!(sharing.layers(), [vec![vec![a, b, c]], vec![vec![a], vec![b, c]], vec![vec![a], vec![b], vec![c]]]);
        assert_eq!(sharing.computed_layers(), 6);
        assert_eq!(Sharing::new(&[], &[]).layers(), [] as [Vec<Vec<TaskId>>; 0]);
    }
}
