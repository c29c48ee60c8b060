//! A bounded cache that drops what was used longest ago.

/// Values that are dear to build, a few of them kept.
pub(super) struct Plans<K, V> {
    /// The one used last is at the end.
    kept: Vec<(K, V)>,
    capacity: usize,
}

impl<K: PartialEq, V: Clone> Plans<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Plans { kept: Vec::with_capacity(capacity), capacity }
    }

    /// The value of a key, built if it is not kept.
    pub(super) fn get_or_build<E>(&mut self, key: K, build: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        if let Some(at) = self.kept.iter().position(|(k, _)| *k == key) {
            self.kept[at..].rotate_left(1);
        } else {
            // Room is made first, so that there are never more than `capacity` in memory.
            if self.kept.len() >= self.capacity {
                self.kept.remove(0);
            }
            let value = build()?;
            self.kept.push((key, value));
        }
        // Either way it is the last one now.
        let last = self.kept.len() - 1;
        Ok(self.kept[last].1.clone())
    }

    /// Drops the values of some keys.
    pub(super) fn remove(&mut self, which: impl Fn(&K) -> bool) {
        self.kept.retain(|(key, _)| !which(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut plans = Plans::new(2);
        let mut built = Vec::new();
        for key in [1, 2, 1, 3, 1, 2] {
            let value = plans.get_or_build(key, || {
                built.push(key);
                Ok::<_, ()>(key * 10)
            });
            assert_eq!(value, Ok(key * 10));
        }
        assert_eq!(built, [1, 2, 3, 2]);
        plans.remove(|k| *k == 1);
        assert_eq!(plans.kept, [(2, 20)]);
        assert_eq!(plans.get_or_build(5, || Err("no")), Err("no"));
        assert_eq!(plans.kept.len(), 1);
    }
}
