//! On which processors the threads of a pool are.
//!
//! A thread that is woken may be put on the processor of the one that wakes it while another processor is idle: some
//! kernels, those of small virtual machines among them, look no further, and their next balance is milliseconds away,
//! which is as long as a whole pass. So threads of a pool say where they are, and one that comes to where another works
//! moves on. Nothing is pinned: a thread may run where its process may, before and after.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The processor of each thread that takes part in a pass.
pub(super) struct Places(Vec<AtomicUsize>);

/// Of a thread that takes no part.
const NOWHERE: usize = usize::MAX;

impl Places {
    pub(super) fn new(threads: usize) -> Self {
        Places((0..threads).map(|_| AtomicUsize::new(NOWHERE)).collect())
    }

    /// Says that a thread takes part from now on, and moves it if it is where another one is.
    pub(super) fn arrive(&self, thread: usize) {
        let here = current();
        self.0[thread].store(here, Ordering::Relaxed);
        let others: Vec<usize> = self.of_others(thread).collect();
        if others.contains(&here) && leave(&others) {
            self.0[thread].store(current(), Ordering::Relaxed);
        }
    }

    pub(super) fn depart(&self, thread: usize) {
        self.0[thread].store(NOWHERE, Ordering::Relaxed);
    }

    /// Whether all threads take part.
    pub(super) fn are_taken(&self) -> bool {
        self.0.iter().all(|place| place.load(Ordering::Relaxed) != NOWHERE)
    }

    fn of_others(&self, thread: usize) -> impl Iterator<Item = usize> {
        let others = self.0.iter().enumerate().filter(move |(other, _)| *other != thread);
        others.map(|(_, place)| place.load(Ordering::Relaxed)).filter(|place| *place != NOWHERE)
    }
}

/// The processor that this thread is on.
#[cfg(target_os = "linux")]
fn current() -> usize {
    rustix::thread::sched_getcpu()
}

/// Moves this thread to a processor that is none of these; returns whether it did.
#[cfg(target_os = "linux")]
fn leave(taken: &[usize]) -> bool {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    // Where it fails, threads share a processor until the kernel sees it: slow, and nothing else.
    let Ok(allowed) = sched_getaffinity(None) else { return false };
    let mut free = allowed;
    taken.iter().filter(|processor| **processor < CpuSet::MAX_CPU).for_each(|processor| free.unset(*processor));
    if free.count() == 0 || sched_setaffinity(None, &free).is_err() {
        return false;
    }
    // It stays there, but need not.
    let _ = sched_setaffinity(None, &allowed);
    true
}

/// Elsewhere nobody says where a thread is.
#[cfg(not(target_os = "linux"))]
fn current() -> usize {
    0
}

#[cfg(not(target_os = "linux"))]
fn leave(_: &[usize]) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_and_left() {
        let places = Places::new(2);
        places.arrive(0);
        assert!(!places.are_taken());
        places.arrive(1);
        assert!(places.are_taken());
        places.depart(0);
        assert!(!places.are_taken());
        assert_eq!(places.of_others(0).count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_leaves_for_another_processor_and_may_run_where_it_could_before() {
        use rustix::thread::sched_getaffinity;
        let list = |set: rustix::thread::CpuSet| (0..rustix::thread::CpuSet::MAX_CPU).filter(move |i| set.is_set(*i));
        let before: Vec<usize> = list(sched_getaffinity(None).unwrap()).collect();
        let (first, others) = before.split_first().unwrap();
        assert_eq!(leave(&[*first]), !others.is_empty());
        assert!(!leave(&before), "there is no other");
        let after: Vec<usize> = list(sched_getaffinity(None).unwrap()).collect();
        assert_eq!(before, after);
    }
}
