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
//!
//! A text whose first steps are known from before comes in where they end.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a task asks for: its class in each step, and its texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) classes: &'a [u64],
    /// Numbers of texts, which increase.
    pub(super) texts: &'a [usize],
}

impl Asked<'_> {
    /// The number of first steps that are the base's own.
    pub(super) fn prefix(&self) -> usize {
        self.classes.iter().take_while(|class| **class == 0).count()
    }
}

/// Where the rows of a text come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// It comes in at this step: at 0 as tokens, at another one as the base gave it in the steps before.
    Enters(usize),
    /// It goes on from this stream of the step before.
    Stream(usize),
}

impl Source {
    /// Whether a text from there takes part in a step.
    fn has_begun(self, step: usize) -> bool {
        match self {
            Self::Enters(first) => first <= step,
            Self::Stream(_) => true,
        }
    }
}

/// The rows of a step; none before the first text comes in.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    /// The streams: texts that go through this step with the weights of some class.
    pub(super) streams: Vec<Stream>,
    /// Neighbouring streams of one class.
    pub(super) groups: Vec<Group>,
}

/// A text on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stream {
    /// The text.
    pub(super) text: usize,
    /// What it goes on from.
    pub(super) from: Source,
    /// Its rows.
    pub(super) rows: Range<usize>,
    /// Whether this step and all before it are the base's own.
    pub(super) is_base: bool,
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

    /// The streams of a group.
    pub(super) fn streams_of(&self, group: &Group) -> impl Iterator<Item = &Stream> {
        let (start, end) = (group.rows.start, group.rows.end);
        self.streams.iter().filter(move |stream| start <= stream.rows.start && stream.rows.end <= end)
    }
}

/// The steps of some tasks.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) steps: Vec<Step>,
    /// For each task and each of its texts, where its rows are at the end.
    pub(super) ends: Vec<Vec<Source>>,
}

impl Schedule {
    /// The steps with these numbers. `from` says for each task and each of its texts where it comes from: tasks that
    /// share a step get the text there from one source. The texts have so many rows.
    pub(super) fn new(asked: &[Asked<'_>], from: Vec<Vec<Source>>, steps: Range<usize>, lengths: &[usize]) -> Self {
        let mut ends = from;
        let order = order(asked);
        let mut made = Vec::new();
        for step in steps.clone() {
            let path = |task: &usize| &asked[*task].classes[steps.start..=step];
            let mut next = Step::default();
            let mut row = 0;
            for tasks in order.chunk_by(|a, b| path(a) == path(b)) {
                let (start, is_base) = (row, asked[tasks[0]].prefix() > step);
                // Texts of these tasks that are on their way, each once.
                let sources = tasks.iter().flat_map(|task| asked[*task].texts.iter().zip(&ends[*task]));
                let here: BTreeMap<usize, Source> =
                    sources.filter(|(_, from)| from.has_begun(step)).map(|(text, from)| (*text, *from)).collect();
                let mut place: BTreeMap<usize, usize> = BTreeMap::new();
                for (text, from) in here {
                    place.insert(text, next.streams.len());
                    let rows = row..row + lengths[text];
                    row = rows.end;
                    next.streams.push(Stream { text, from, rows, is_base });
                }
                for task in tasks {
                    let ends = asked[*task].texts.iter().zip(&mut ends[*task]);
                    ends.filter(|(_, end)| end.has_begun(step))
                        .for_each(|(text, end)| *end = Source::Stream(place[text]));
                }
                let class = |task: usize| asked[task].classes[step];
                match next.groups.last_mut() {
                    _ if row == start => {}
                    Some(group) if class(group.task) == class(tasks[0]) => group.rows.end = row,
                    _ => next.groups.push(Group { rows: start..row, task: tasks[0] }),
                }
            }
            made.push(next);
        }
        Schedule { steps: made, ends }
    }
}

/// What all tasks share, for each text once.
#[derive(Debug)]
pub(super) struct Trunk {
    pub(super) steps: Vec<Step>,
    /// Where each text is at the end.
    ends: BTreeMap<usize, Source>,
}

impl Trunk {
    /// Of tasks whose texts come from these sources. A text that comes in within the trunk does so for all of its tasks
    /// at once.
    pub(super) fn new(asked: &[Asked<'_>], from: &[Vec<Source>], lengths: &[usize]) -> Self {
        let mut first: BTreeMap<usize, Source> = BTreeMap::new();
        for (text, from) in asked.iter().zip(from).flat_map(|(asked, from)| asked.texts.iter().zip(from)) {
            first.entry(*text).and_modify(|first| *first = *from.min(first)).or_insert(*from);
        }
        let (texts, from): (Vec<usize>, Vec<Source>) = first.into_iter().unzip();
        let all: Vec<Asked<'_>> = asked.first().map(|first| Asked { texts: &texts, ..*first }).into_iter().collect();
        let Schedule { steps, ends } = Schedule::new(&all, vec![from], 0..shared(asked), lengths);
        let ends = texts.iter().copied().zip(ends.into_iter().flatten()).collect();
        Trunk { steps, ends }
    }

    /// Where texts of a task go on from: the trunk, but for those that come in later.
    pub(super) fn leads_to(&self, asked: &Asked<'_>, from: &[Source]) -> Vec<Source> {
        let of_text = |(text, from): (&usize, &Source)| match *from {
            Source::Enters(step) if step >= self.steps.len() => *from,
            _ => self.ends[text],
        };
        asked.texts.iter().zip(from).map(of_text).collect()
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

    /// All texts from the start.
    fn tokens(asked: &[Asked<'_>]) -> Vec<Vec<Source>> {
        asked.iter().map(|asked| vec![Source::Enters(0); asked.texts.len()]).collect()
    }

    #[test]
    fn rows_branch_where_classes_part() {
        let asked = [
            Asked { classes: &[0, 0, 1, 3], texts: &[0] },
            Asked { classes: &[0, 0, 2, 4], texts: &[0, 1] },
            Asked { classes: &[0, 0, 2, 5], texts: &[1] },
        ];
        assert_eq!(shared(&asked), 2);
        let schedule = Schedule::new(&asked, tokens(&asked), 0..4, &LENGTHS);
        let rows: Vec<usize> = schedule.steps.iter().map(Step::rows).collect();
        assert_eq!(rows, [7, 7, 9, 14]);
        let groups: Vec<usize> = schedule.steps.iter().map(|step| step.groups.len()).collect();
        assert_eq!(groups, [1, 1, 2, 3]);
        let ends = [vec![0], vec![1, 2], vec![3]].map(|ends| ends.into_iter().map(Source::Stream).collect::<Vec<_>>());
        assert_eq!(schedule.ends, ends);
    }

    #[test]
    fn neighbours_of_one_class_are_a_group_again() {
        let asked = [Asked { classes: &[0, 1, 0], texts: &[0] }, Asked { classes: &[0, 2, 0], texts: &[0] }];
        let schedule = Schedule::new(&asked, tokens(&asked), 0..3, &LENGTHS);
        let groups: Vec<usize> = schedule.steps.iter().map(|step| step.groups.len()).collect();
        assert_eq!(groups, [1, 2, 1]);
        assert_eq!(schedule.steps[2].rows(), 4);
    }

    #[test]
    fn a_text_comes_in_where_it_is_known() {
        // The first text is known after three steps, the second one after one.
        let asked =
            [Asked { classes: &[0, 0, 0, 1], texts: &[0, 1, 2] }, Asked { classes: &[0, 0, 2, 3], texts: &[0, 1] }];
        let from = [vec![3, 1, 0], vec![0, 1]].map(|from| from.into_iter().map(Source::Enters).collect::<Vec<_>>());
        let trunk = Trunk::new(&asked, &from, &LENGTHS);
        let streams = |step: &Step| step.streams.iter().map(|stream| (stream.text, stream.from)).collect::<Vec<_>>();
        assert_eq!(trunk.steps.len(), 2);
        assert_eq!(streams(&trunk.steps[0]), [(0, Source::Enters(0)), (2, Source::Enters(0))]);
        let of_second = [(0, Source::Stream(0)), (1, Source::Enters(1)), (2, Source::Stream(1))];
        assert_eq!(streams(&trunk.steps[1]), of_second);
        let goes_on: Vec<Vec<Source>> =
            asked.iter().zip(&from).map(|(asked, from)| trunk.leads_to(asked, from)).collect();
        assert_eq!(
            goes_on,
            [vec![Source::Enters(3), Source::Stream(1), Source::Stream(2)], vec![Source::Stream(0), Source::Stream(1)]]
        );
        let rest = Schedule::new(&asked, goes_on, 2..4, &LENGTHS);
        assert_eq!(rest.steps.iter().map(Step::rows).collect::<Vec<_>>(), [8 + 7, 10 + 7]);
        assert_eq!(streams(&rest.steps[1])[0], (0, Source::Enters(3)));
        let is_base: Vec<bool> = rest.steps[0].streams.iter().map(|stream| stream.is_base).collect();
        assert_eq!(is_base, [true, true, false, false]);
    }

    #[test]
    fn what_is_known_to_its_end_takes_no_step() {
        let asked = [Asked { classes: &[0, 0], texts: &[1] }];
        let from = vec![vec![Source::Enters(2)]];
        let trunk = Trunk::new(&asked, &from, &LENGTHS);
        assert!(trunk.steps.iter().all(|step| step == &Step::default()), "{trunk:?}");
        assert_eq!(trunk.leads_to(&asked[0], &from[0]), from[0]);
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
            let schedule = Schedule::new(&asked, tokens(&asked), first..4, &LENGTHS);
            // What each stream was: the text, and the classes that it went through.
            let mut ways: Vec<(usize, Vec<u64>)> = Vec::new();
            for (step, number) in schedule.steps.iter().zip(first..) {
                let mut next = Vec::new();
                for (place, stream) in step.streams.iter().enumerate() {
                    prop_assert_eq!(stream.rows.start, place.checked_sub(1).map_or(0, |last| step.streams[last].rows.end));
                    let (text, mut way) = match stream.from {
                        Source::Stream(from) => ways[from].clone(),
                        Source::Enters(_) => (stream.text, Vec::new()),
                    };
                    prop_assert_eq!(stream.text, text);
                    prop_assert_eq!(matches!(stream.from, Source::Enters(_)), number == first);
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
                    let Source::Stream(end) = end else { panic!("text {text} has not begun") };
                    prop_assert_eq!(&ways[*end], &(*text, asked.classes[first..].to_vec()));
                }
            }
        }
    }
}
