//! The threads of an engine.
//!
//! A pass hands out work some forty times, tens of microseconds each, and waking a thread that fell
//! asleep in between takes as long. So while a pass runs, the pool's other threads stay awake for
//! it, and sleep when it is over, each on a processor of its own if there are as many.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, Yield};

use super::places::Places;

/// Threads that passes share; none for a single one, which needs nobody to hand work to.
pub(super) struct Pool {
    threads: Option<ThreadPool>,
    state: Arc<State>,
}

/// What the threads know of each other.
struct State {
    /// Passes that run now.
    running: AtomicUsize,
    places: Places,
}

/// Pauses between two looks for work.
const PAUSES: usize = 16;

/// Looks in vain after which a thread lets others have its core between two.
const PATIENCE: usize = 256;

/// How often a pass lets others have its core before some work, while threads are missing: one may wait for that very
/// core, and moves as soon as it runs.
const YIELDS: usize = 16;

thread_local! {
    /// Whether a pass runs on this thread. While it waits for its parts the thread may take other
    /// work, but must not stay awake for another pass, which may wait for this one.
    static RUNS: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread stays awake already.
    static AWAKE: Cell<bool> = const { Cell::new(false) };
    /// How often the pass that runs on this thread may still let others have its core.
    static YIELDS_LEFT: Cell<usize> = const { Cell::new(0) };
}

impl Pool {
    /// # Errors
    /// When the threads cannot be started.
    pub(super) fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("native-{i}"));
        let state = State { running: AtomicUsize::new(0), places: Places::new(threads) };
        Ok(Pool { threads: (threads > 1).then(|| pool.build()).transpose()?, state: Arc::new(state) })
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Runs a pass, on this thread if there are no others, else on one of the pool.
    pub(super) fn run<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.threads else { return pass() };
        pool.install(|| {
            self.state.running.fetch_add(1, Ordering::AcqRel);
            let _end = OnDrop(|| {
                self.state.running.fetch_sub(1, Ordering::AcqRel);
            });
            let before = RUNS.replace(true);
            let _restore = OnDrop(|| RUNS.set(before));
            let _here = self.state.arrive();
            YIELDS_LEFT.set(YIELDS);
            let state = Arc::clone(&self.state);
            pool.spawn_broadcast(move |_| stay_awake(&state));
            pass()
        })
    }

    /// Calls a function for each of some parts of the pass that runs here, on all threads. A part comes with its lane:
    /// each thread has one of its own, and takes parts of others, from their ends, when that is empty. What was made in a
    /// lane is near to the thread that reads it there.
    pub(super) fn each<T: Send>(&self, parts: impl ExactSizeIterator<Item = (usize, T)>, run: impl Fn(T) + Sync) {
        let helpers = self.threads().min(parts.len()).saturating_sub(1);
        if helpers == 0 {
            return parts.for_each(|(_, part)| run(part));
        }
        if YIELDS_LEFT.get() > 0 && !self.state.places.are_taken() {
            YIELDS_LEFT.set(YIELDS_LEFT.get() - 1);
            std::thread::yield_now();
        }
        let mut lanes: Vec<Vec<T>> = (0..self.threads()).map(|_| Vec::new()).collect();
        parts.for_each(|(lane, part)| lanes[lane].push(part));
        share(helpers, lanes, run);
    }
}

impl State {
    /// Says that this thread of the pool takes part in a pass, until what is returned is dropped.
    fn arrive(&self) -> impl Drop {
        let thread = rayon::current_thread_index().unwrap_or(0);
        self.places.arrive(thread);
        OnDrop(move || self.places.depart(thread))
    }
}

/// Calls a function for each part of some lanes, here and on so many other threads of the pool.
fn share<T: Send>(helpers: usize, lanes: Vec<Vec<T>>, run: impl Fn(T) + Sync) {
    let lanes: Vec<_> = lanes.into_iter().map(|parts| Mutex::new(parts.into_iter())).collect();
    let take = |lane: usize, from: fn(&mut std::vec::IntoIter<T>) -> Option<T>| {
        from(&mut lanes[lane % lanes.len()].lock().unwrap_or_else(PoisonError::into_inner))
    };
    let work = || {
        let own = rayon::current_thread_index().unwrap_or(0);
        let others = || (own + 1..own + lanes.len()).find_map(|other| take(other, DoubleEndedIterator::next_back));
        // The lock of one lane is given back before that of another is taken.
        let next = || take(own, Iterator::next).or_else(others);
        while let Some(part) = next() {
            run(part);
        }
    };
    rayon::scope(|scope| {
        (0..helpers).for_each(|_| scope.spawn(|_| work()));
        work();
    });
}

/// Does what work there is until no pass runs.
///
/// Nothing that this runs ever waits for another thread, but a pass that begins here, and that
/// knows that it runs: so a thread stays awake only where nobody below it on the stack is waited
/// for.
fn stay_awake(state: &State) {
    if AWAKE.replace(true) {
        return;
    }
    let _restore = OnDrop(|| AWAKE.set(false));
    let _here = (!RUNS.get()).then(|| state.arrive());
    let mut idle = 0;
    while state.running.load(Ordering::Acquire) > 0 && !RUNS.get() {
        match rayon::yield_now() {
            Some(Yield::Executed) => idle = 0,
            Some(Yield::Idle) | None if idle < PATIENCE => {
                idle += 1;
                (0..PAUSES).for_each(|_| std::hint::spin_loop());
            }
            Some(Yield::Idle) | None => std::thread::yield_now(),
        }
    }
}

/// Does something at the end, also after a panic.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn many_passes_at_once_all_end_and_a_panic_ends_only_its_own() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            let pass = |fail: bool| {
                let sum = AtomicU64::new(0);
                for _ in 0..40 {
                    let add = |i: u64| {
                        assert!(!fail || i != 17, "a part that fails");
                        sum.fetch_add(i * i, Ordering::Relaxed);
                    };
                    // Also where a thread finds all of its own work with another.
                    let lane = |i: u32| if fail { 0 } else { i as usize % threads };
                    pool.each((0..50u32).map(|i| (lane(i), u64::from(i))), add);
                }
                sum.into_inner()
            };
            std::thread::scope(|scope| {
                let callers: Vec<_> = (0..4)
                    .map(|caller| {
                        let (pool, pass) = (&pool, &pass);
                        scope.spawn(move || {
                            for i in 0..100 {
                                let fail = caller == 0 && i % 25 == 0;
                                let run = std::panic::AssertUnwindSafe(|| pool.run(|| pass(fail)));
                                let found = std::panic::catch_unwind(run);
                                assert_eq!(found.ok(), (!fail).then_some(40 * 40425));
                            }
                        })
                    })
                    .collect();
                callers.into_iter().for_each(|caller| caller.join().unwrap());
            });
        }
    }
}
