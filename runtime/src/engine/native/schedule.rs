//! Which rows of which tasks go through an encoder's steps together.
//!
//! A step is the embeddings, or a layer. For each step a task has a class; what tasks of one class compute there of the
//! same input is the same. So tasks whose classes are equal from the first step on share their rows, and where the
//! classes part, the rows branch:
//!
//! ```text
//! step     0    1    2    3         a text for the tasks a, b, c with the classes
//!                   ┌──── a        a 0 0 1 3
//!         ──────────┤              b 0 0 2 4
//!                   └──┬─ b        c 0 0 2 5
//!                      └─ c
//! ```
//!
//! Rows of one class lie side by side where that is possible, so that a product goes over all of them at once.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a task asks for: its class in each step, and its texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) classes: &'a [u64],
    /// Numbers of texts, which increase.
    pub(super) texts: &'a [usize],
}

/// The rows of a step.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// The streams: texts that go through this step with the weights of some class.
    pub(super) streams: Vec<Stream>,
    /// Neighbouring streams of one class.
    pub(super) groups: Vec<Group>,
}

/// A text on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stream {
    /// The stream that it goes on from, of the step before; in the first one the text.
    pub(super) from: usize,
    /// Its rows.
    pub(super) rows: Range<usize>,
}

/// Rows of one class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) rows: Range<usize>,
    /// A task of this class, as its place among those that ask.
    pub(super) task: usize,
}

impl Step {
    /// The number of rows.
    pub(super) fn rows(&self) -> usize {
        self.streams.last().map_or(0, |stream| stream.rows.end)
    }
}

/// The steps of some tasks.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) steps: Vec<Step>,
    /// For each task, the stream of each of its texts at the end.
    pub(super) ends: Vec<Vec<usize>>,
}

impl Schedule {
    /// The steps with these numbers, for texts of so many rows: before them, each text is a stream.
    pub(super) fn new(asked: &[Asked<'_>], steps: Range<usize>, lengths: &[usize]) -> Self {
        let mut lengths = lengths.to_vec();
        let mut ends: Vec<Vec<usize>> = asked.iter().map(|asked| asked.texts.to_vec()).collect();
        let order = order(asked);
        let mut made = Vec::new();
        for step in steps.clone() {
            let path = |task: &usize| &asked[*task].classes[steps.start..=step];
            let mut next = Step { streams: Vec::new(), groups: Vec::new() };
            let mut next_lengths = Vec::new();
            let mut row = 0;
            for tasks in order.chunk_by(|a, b| path(a) == path(b)) {
                let start = row;
                // Texts of these tasks, each once, by the stream that it comes from.
                let from = tasks.iter().flat_map(|task| &ends[*task]);
                let mut here: BTreeMap<usize, usize> = from.map(|from| (*from, 0)).collect();
                for (from, stream) in &mut here {
                    *stream = next.streams.len();
                    next.streams.push(Stream { from: *from, rows: row..row + lengths[*from] });
                    next_lengths.push(lengths[*from]);
                    row += lengths[*from];
                }
                for task in tasks {
                    ends[*task].iter_mut().for_each(|end| *end = here[end]);
                }
                let class = |task: usize| asked[task].classes[step];
                match next.groups.last_mut() {
                    Some(group) if class(group.task) == class(tasks[0]) => group.rows.end = row,
                    _ => next.groups.push(Group { rows: start..row, task: tasks[0] }),
                }
            }
            lengths = next_lengths;
            made.push(next);
        }
        Schedule { steps: made, ends }
    }
}

/// The tasks in an order in which those that share steps are neighbours.
pub(super) fn order(asked: &[Asked<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|task| asked[*task].classes);
    order
}

/// The number of steps that all tasks share.
pub(super) fn shared(asked: &[Asked<'_>]) -> usize {
    let Some((first, others)) = asked.split_first() else { return 0 };
    let with = |other: &Asked<'_>| first.classes.iter().zip(other.classes).take_while(|(a, b)| a == b).count();
    others.iter().map(with).min().unwrap_or(first.classes.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LENGTHS: [usize; 3] = [2, 5, 3];

    #[test]
    fn rows_branch_where_classes_part() {
        let asked = [
            Asked { classes: &[0, 0, 1, 3], texts: &[0] },
            Asked { classes: &[0, 0, 2, 4], texts: &[0, 1] },
            Asked { classes: &[0, 0, 2, 5], texts: &[1] },
        ];
        assert_eq!(shared(&asked), 2);
        let schedule = Schedule::new(&asked, 0..4, &LENGTHS);
        let rows: Vec<usize> = schedule.steps.iter().map(Step::rows).collect();
        assert_eq!(rows, [7, 7, 9, 14]);
        let groups: Vec<usize> = schedule.steps.iter().map(|step| step.groups.len()).collect();
        assert_eq!(groups, [1, 1, 2, 3]);
        assert_eq!(schedule.ends, [vec![0], vec![1, 2], vec![3]]);
    }

    #[test]
    fn neighbours_of_one_class_are_a_group_again() {
        let asked = [Asked { classes: &[0, 1, 0], texts: &[0] }, Asked { classes: &[0, 2, 0], texts: &[0] }];
        let schedule = Schedule::new(&asked, 0..3, &LENGTHS);
        let groups: Vec<usize> = schedule.steps.iter().map(|step| step.groups.len()).collect();
        assert_eq!(groups, [1, 2, 1]);
        assert_eq!(schedule.steps[2].rows(), 4);
    }

    proptest! {
        #[test]
        fn every_text_goes_its_tasks_way_and_no_way_twice(
            tasks in prop::collection::vec((prop::collection::vec(0u64..3, 4), prop::collection::btree_set(0usize..3, 1..4)), 1..7),
            first in 0usize..3,
        ) {
            let texts: Vec<Vec<usize>> = tasks.iter().map(|(_, texts)| texts.iter().copied().collect()).collect();
            let asked: Vec<Asked> = tasks.iter().zip(&texts).map(|((classes, _), texts)| Asked { classes, texts }).collect();
            let first = first.min(shared(&asked));
            let schedule = Schedule::new(&asked, first..4, &LENGTHS);
            // What each stream was: the text, and the classes that it went through.
            let mut ways: Vec<(usize, Vec<u64>)> = (0..3).map(|text| (text, Vec::new())).collect();
            for (step, number) in schedule.steps.iter().zip(first..) {
                let mut next = Vec::new();
                for (place, stream) in step.streams.iter().enumerate() {
                    prop_assert_eq!(stream.rows.start, place.checked_sub(1).map_or(0, |last| step.streams[last].rows.end));
                    let (text, mut way) = ways[stream.from].clone();
                    prop_assert_eq!(stream.rows.len(), LENGTHS[text]);
                    let within = |group: &&Group| group.rows.start <= stream.rows.start && stream.rows.end <= group.rows.end;
                    let group = step.groups.iter().find(within).unwrap();
                    way.push(asked[group.task].classes[number]);
                    next.push((text, way));
                }
                prop_assert_eq!(next.iter().collect::<BTreeSet<_>>().len(), next.len());
                ways = next;
            }
            for (asked, ends) in asked.iter().zip(&schedule.ends) {
                for (text, end) in asked.texts.iter().zip(ends) {
                    prop_assert_eq!(&ways[*end], &(*text, asked.classes[first..].to_vec()));
                }
            }
        }
    }
}
