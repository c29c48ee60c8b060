//! Which texts share a plan.

/// Texts in a group, at most.
const MAX_TEXTS: usize = 32;

/// Tokens in a group with its padding, at most (but always one text).
const MAX_TOKENS: usize = 2048;

/// Groups texts, shortest first. Those of a group are of similar length where the engine pads, so that it loses little:
/// padding is at most an eighth of a text and one token.
pub(super) fn groups(lengths: &[usize], pads: bool) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| (lengths[*i], *i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        let fits = |group: &Vec<usize>| {
            let shortest = lengths[group[0]];
            let is_similar = lengths[i] <= shortest + shortest / 8 + 1;
            group.len() < MAX_TEXTS && (group.len() + 1) * lengths[i] <= MAX_TOKENS && (is_similar || !pads)
        };
        match groups.last_mut() {
            Some(group) if fits(group) => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_group(lengths in prop::collection::vec(1usize..513, 0..200), pads: bool) {
            let groups = groups(&lengths, pads);
            let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                prop_assert!(group.len() <= MAX_TEXTS);
                let longest = group.iter().map(|i| lengths[*i]).max().unwrap();
                let shortest = group.iter().map(|i| lengths[*i]).min().unwrap();
                prop_assert!(!pads || longest <= shortest + shortest / 8 + 1);
                prop_assert!(group.len() == 1 || group.len() * longest <= MAX_TOKENS);
            }
        }
    }
}
