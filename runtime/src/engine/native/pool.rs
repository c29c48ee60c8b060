//! The threads of an engine.
//!
//! A pass hands out work some forty times, tens of microseconds each, and waking a thread that fell
//! asleep in between takes as long. So while a pass runs, the pool's other threads stay awake for
//! it, and sleep when it is over.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, Yield};

/// Threads that passes share; none for a single one, which needs nobody to hand work to.
pub(super) struct Pool(Option<ThreadPool>);

/// Pauses between two looks for work.
const PAUSES: usize = 16;

thread_local! {
    /// Whether a pass runs on this thread. While it waits for its parts the thread may take other
    /// work, but must not wait for another pass, which may wait for this one.
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// # Errors
    /// When the threads cannot be started.
    pub(super) fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("native-{i}"));
        Ok(Pool((threads > 1).then(|| pool.build()).transpose()?))
    }

    pub(super) fn threads(&self) -> usize {
        self.0.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Runs a pass, on this thread if there are no others, else on one of the pool.
    pub(super) fn run<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.0 else { return pass() };
        pool.install(|| {
            let over = Arc::new(AtomicBool::new(false));
            let _end = OnDrop(|| over.store(true, Ordering::Release));
            let before = RUNS.replace(true);
            let _restore = OnDrop(|| RUNS.set(before));
            let seen = Arc::clone(&over);
            pool.spawn_broadcast(move |_| stay_awake(&seen));
            pass()
        })
    }
}

/// Does what work there is until a pass is over.
fn stay_awake(over: &AtomicBool) {
    while !over.load(Ordering::Acquire) && !RUNS.get() {
        if let Some(Yield::Idle) | None = rayon::yield_now() {
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
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
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn many_passes_at_once_all_end_and_a_panic_ends_only_its_own() {
        let pool = Pool::new(3).unwrap();
        let pass = |fail: bool| {
            let sums = (0..20).map(|_| (0..50u64).into_par_iter().map(|i| i * i).sum::<u64>());
            let sum = sums.sum::<u64>();
            assert!(!fail, "a pass that fails");
            sum
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let pool = &pool;
                    scope.spawn(move || {
                        for i in 0..200 {
                            let fail = thread == 0 && i % 50 == 0;
                            let run = || pool.run(|| pass(fail));
                            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                            assert_eq!(found.ok(), (!fail).then_some(20 * 40425));
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        assert_eq!(Pool::new(1).unwrap().run(|| 7), 7);
    }
}
