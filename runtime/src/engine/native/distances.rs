//! What the distance between two tokens adds to their score of attention.

use std::ops::Range;

use overmask_kernels::{NR, Row};

use crate::base::family::MASKED_SCORE;
use crate::base::family::encoder::bucket;

/// Added to scores before they are scaled: a learnt number for each head and distance, and what puts out tokens that are
/// farther away than a window reaches.
#[derive(Debug, PartialEq)]
pub(super) struct Distances {
    /// For each head, or for all of them, a value for each distance from the farthest behind to the farthest ahead.
    heads: Vec<Vec<f32>>,
    /// Where distance 0 is.
    centre: usize,
    window: Option<usize>,
}

impl Distances {
    /// For texts of up to so many positions and heads `d` wide. The learnt numbers are [buckets, heads]. None where
    /// distances add nothing.
    pub(super) fn new(
        positions: usize,
        d: usize,
        heads: usize,
        table: Option<&[f32]>,
        window: Option<usize>,
    ) -> Option<Self> {
        if table.is_none() && window.is_none() {
            return None;
        }
        let centre = positions.saturating_sub(1);
        // A row of a panel may reach a panel's width past the last distance.
        let distances = (0..2 * centre + 1 + NR).map(|i| i as i64 - centre as i64);
        let value = |head: usize, distance: i64| {
            let is_far = window.is_some_and(|window| distance.unsigned_abs() as usize > window);
            let learnt = table.map_or(0.0, |table| table[bucket(distance, table.len() / heads) * heads + head]);
            if is_far { MASKED_SCORE } else { learnt * (d as f32).sqrt() }
        };
        let of_head = |head| distances.clone().map(|distance| value(head, distance)).collect();
        let heads = (0..if table.is_some() { heads } else { 1 }).map(of_head).collect();
        Some(Distances { heads, centre, window })
    }

    /// The keys, of so many tokens, that some queries look at.
    pub(super) fn reach(&self, queries: &Range<usize>, tokens: usize) -> Range<usize> {
        let window = self.window.unwrap_or(tokens);
        queries.start.saturating_sub(window)..(queries.end.saturating_add(window)).min(tokens)
    }

    /// Adds to the scores of a query and of 32 keys, the first of which is `key`.
    pub(super) fn add(&self, head: usize, query: usize, key: usize, scores: &mut Row) {
        let of_head = &self.heads[head % self.heads.len()];
        let values = &of_head[self.centre + key - query..];
        scores.iter_mut().zip(values).for_each(|(score, value)| *score += value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_of_distances_within_the_window() {
        // Two heads, four buckets: behind at 0 and farther, ahead likewise.
        let table: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let distances = Distances::new(10, 4, 2, Some(&table), Some(3)).unwrap();
        let added = |head, query, key| {
            let mut row = [0.0; NR];
            distances.add(head, query, key, &mut row);
            row
        };
        assert_eq!(added(0, 5, 0)[..4], [MASKED_SCORE, MASKED_SCORE, 4.0, 4.0]);
        assert_eq!(added(1, 5, 0)[2..10], [6.0, 6.0, 6.0, 2.0, 14.0, 14.0, 14.0, MASKED_SCORE]);
        assert_eq!(added(1, 0, 0)[..2], [2.0, 14.0]);
        assert_eq!(distances.reach(&(5..6), 10), 2..9);
        assert_eq!(distances.reach(&(0..10), 10), 0..10);
        assert!(Distances::new(10, 4, 2, None, None).is_none());
    }

    #[test]
    fn a_window_alone_is_the_same_for_all_heads() {
        let distances = Distances::new(40, 4, 2, None, Some(1)).unwrap();
        for (head, key) in [(0, 0), (1, 32)] {
            let mut row = [1.0; NR];
            distances.add(head, 33, key, &mut row);
            let near: Vec<usize> = (0..NR).filter(|i| row[*i] == 1.0).map(|i| key + i).collect();
            assert_eq!(near, [&[32usize, 33, 34][usize::from(key == 0) * 3..]].concat());
        }
    }
}
