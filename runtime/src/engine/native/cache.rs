//! Prefixes of texts that come again: what the base itself gives of a text in its first steps, below the first one that
//! a task touches.
//!
//! The cache holds *states*: the rows of one text after so many steps of the base. A task of which so many steps are
//! the base's own goes on from there. Nothing that a task changed is ever in it, so that it does not matter which tasks
//! come and go. Its lock is held to look up and to put in, never while something is computed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overmask_kernels::Row;
use sha2::{Digest, Sha256};

use super::schedule::{Asked, Source};
use crate::engine::{CacheUse, TokenBatch};

/// The fewest steps that are worth keeping: the embeddings alone are looked up faster than copied twice.
const MIN_DEPTH: usize = 2;

/// A text and a depth.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// SHA-256 of its tokens and segments: clients choose texts, and no text may pass for another one.
    text: [u8; 32],
    /// The number of steps that were done.
    depth: usize,
}

impl Key {
    fn digest(ids: &[u32], segments: &[u32]) -> [u8; 32] {
        // As many segments as tokens: where the ones end, the others begin.
        ids.iter()
            .chain(segments)
            .fold(Sha256::new(), |hash, number| hash.chain_update(number.to_le_bytes()))
            .finalize()
            .into()
    }
}

/// Rows in panels, [width / 32, tokens, 32].
type State = Arc<[Row]>;

/// A bounded cache of states, of which the least recently used goes first.
pub(super) struct Cache {
    capacity: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    states: HashMap<Key, (State, u64)>,
    /// Keys by the time of their last use.
    uses: BTreeMap<u64, Key>,
    time: u64,
    bytes: usize,
    hits: u64,
    misses: u64,
}

impl Cache {
    /// A cache of so many states; none of 0.
    pub(super) fn new(capacity: usize) -> Option<Self> {
        (capacity > 0).then(|| Cache { capacity, held: Mutex::default() })
    }

    /// What it holds, and how often that was of use.
    pub(super) fn used(&self) -> CacheUse {
        let Held { states, bytes, hits, misses, .. } = &*self.held();
        CacheUse { hits: *hits, misses: *misses, texts: states.len(), bytes: *bytes }
    }

    /// Nothing that is done under the lock is left half done.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, states: Vec<(Key, State)>) {
        let mut held = self.held();
        for (key, state) in states {
            held.put(key, state);
            while held.states.len() > self.capacity {
                held.drop_oldest();
            }
        }
    }
}

impl Held {
    /// A state, which is used with this.
    fn get(&mut self, key: &Key) -> Option<State> {
        let (state, used) = self.states.get_mut(key)?;
        self.time += 1;
        self.uses.remove(used);
        self.uses.insert(self.time, *key);
        *used = self.time;
        Some(Arc::clone(state))
    }

    fn put(&mut self, key: Key, state: State) {
        self.time += 1;
        self.bytes += size_of_val(&*state);
        self.uses.insert(self.time, key);
        if let Some((old, used)) = self.states.insert(key, (state, self.time)) {
            self.bytes -= size_of_val(&*old);
            self.uses.remove(&used);
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.uses.pop_first().and_then(|(_, key)| self.states.remove(&key));
        self.bytes -= oldest.map_or(0, |(state, _)| size_of_val(&*state));
    }
}

/// The prefixes of a plan: those that are known, and those that are to be kept.
#[derive(Default)]
pub(super) struct Prefixes<'a> {
    cache: Option<&'a Cache>,
    /// Digests of texts of which some prefix matters.
    digests: BTreeMap<usize, [u8; 32]>,
    /// By text and depth.
    known: BTreeMap<(usize, usize), State>,
    wanted: BTreeSet<(usize, usize)>,
    kept: Vec<(Key, State)>,
}

impl<'a> Prefixes<'a> {
    /// Looks the texts of some tasks up.
    pub(super) fn find(cache: Option<&'a Cache>, texts: &TokenBatch, asked: &[Asked<'_>]) -> Self {
        let mut all = Prefixes { cache, ..Default::default() };
        let Some(cache) = cache else { return all };
        let deep = asked.iter().map(|asked| (asked.prefix(), asked.texts)).filter(|(depth, _)| *depth >= MIN_DEPTH);
        all.wanted = deep.flat_map(|(depth, texts)| texts.iter().map(move |text| (*text, depth))).collect();
        for (text, _) in &all.wanted {
            let (ids, segments) = texts.row(*text);
            all.digests.entry(*text).or_insert_with(|| Key::digest(ids, segments));
        }
        let mut held = cache.held();
        let Prefixes { digests, known, wanted, .. } = &mut all;
        wanted.retain(|(text, wanted)| {
            // As deep as the task's own, else what is held of it.
            let depths = (MIN_DEPTH..=*wanted).rev();
            let mut found = depths.map(|depth| (depth, Key { text: digests[text], depth }));
            let found = found.find_map(|(depth, key)| held.get(&key).map(|state| (depth, state)));
            let is_hit = found.as_ref().is_some_and(|(depth, _)| depth == wanted);
            *(if is_hit { &mut held.hits } else { &mut held.misses }) += 1;
            known.extend(found.map(|(depth, state)| ((*text, depth), state)));
            !is_hit
        });
        drop(held);
        all
    }

    /// Where each text of each task comes in: behind the deepest known prefix that is no deeper than the task's own.
    pub(super) fn sources(&self, asked: &[Asked<'_>]) -> Vec<Vec<Source>> {
        let source = |text: usize, depth: usize| {
            let known = self.known.range((text, 0)..=(text, depth)).next_back();
            Source::Enters(known.map_or(0, |((_, depth), _)| *depth))
        };
        asked.iter().map(|asked| asked.texts.iter().map(|text| source(*text, asked.prefix())).collect()).collect()
    }

    /// A panel of a text that comes in at a step, [tokens, 32].
    pub(super) fn panel(&self, text: usize, step: usize, panel: usize, tokens: usize) -> &[Row] {
        &self.known[&(text, step)][panel * tokens..][..tokens]
    }

    /// Keeps what the base gave of a text, if that is wanted: the text's rows of each panel.
    pub(super) fn keep<'b>(&mut self, text: usize, depth: usize, panels: impl Iterator<Item = &'b [Row]>) {
        if self.wanted.remove(&(text, depth)) {
            let state = panels.flatten().copied().collect::<Vec<Row>>();
            self.kept.push((Key { text: self.digests[&text], depth }, state.into()));
        }
    }

    /// Puts what was kept into the cache.
    pub(super) fn put(self) {
        if let (Some(cache), [_, ..]) = (self.cache, &self.kept[..]) {
            cache.put(self.kept);
        }
    }
}
