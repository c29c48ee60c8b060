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
}
