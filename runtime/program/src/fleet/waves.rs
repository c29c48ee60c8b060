//! Which device is flashed when: some first, so many at once, and no more once too many have failed. What flashing one
//! is, the caller says.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// A number of devices, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Share {
    Count(usize),
    Percent(f64),
}

impl Share {
    /// The most devices that are no more than this, of so many.
    pub(super) fn at_most(self, all: usize) -> usize {
        match self {
            Share::Count(count) => count.min(all),
            Share::Percent(percent) => (all as f64 * percent / 100.0).floor() as usize,
        }
    }

    /// The fewest devices that are no fewer than this, of so many.
    pub(super) fn at_least(self, all: usize) -> usize {
        match self {
            Share::Count(count) => count.min(all),
            Share::Percent(percent) => (all as f64 * percent / 100.0).ceil() as usize,
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a number of devices, as in 2, nor a share of them, as in 5%");
        match text.strip_suffix('%') {
            Some(number) => match number.parse() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Share::Percent(percent)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Share::Count).map_err(|_| wrong()),
        }
    }
}

/// Devices that are flashed before those of the next wave begin.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wave {
    /// Which are to be flashed, by number.
    pub(super) devices: Vec<usize>,
    /// How many others of the wave need not be flashed.
    pub(super) had: usize,
}

/// What happens on the way.
pub(super) enum Event<T, E> {
    Begun(usize),
    Ended(usize, Result<T, E>),
    /// Nothing, for a while.
    Waiting,
}

/// Why devices were left out.
#[derive(Debug, PartialEq)]
pub(super) enum Stop {
    /// More failed than may, of those of this wave and of the waves before it.
    Failures { failed: usize, most: usize, of: usize },
    /// The caller had enough.
    Asked,
}

/// How often the caller is told that nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Flashes devices wave by wave, `parallel` at once. What happens is told to `tell`, which says whether to go on; what
/// is running then still ends, and is told.
pub(super) fn run<T: Send, E: Send>(
    waves: &[Wave],
    parallel: usize,
    most: Share,
    flash: impl Fn(usize) -> Result<T, E> + Sync,
    mut tell: impl FnMut(Event<T, E>) -> bool,
) -> Option<Stop> {
    let (mut failed, mut of, mut stop) = (0, 0, None);
    let (send, ended) = channel();
    let flash = &flash;
    thread::scope(|scope| {
        for wave in waves {
            of += wave.devices.len() + wave.had;
            let mut waiting = VecDeque::from_iter(&wave.devices);
            let mut running = 0;
            loop {
                while stop.is_none() && running < parallel.max(1) {
                    let Some(&device) = waiting.pop_front() else { break };
                    running += 1;
                    if !tell(Event::Begun(device)) {
                        stop = Some(Stop::Asked);
                    }
                    let send = send.clone();
                    scope.spawn(move || {
                        let result = catch_unwind(AssertUnwindSafe(|| flash(device)));
                        // Whoever listens does so until all have ended.
                        let _ = send.send((device, result));
                    });
                }
                if running == 0 {
                    break;
                }
                let (event, has_failed) = match ended.recv_timeout(TICK) {
                    Ok((device, Ok(result))) => {
                        running -= 1;
                        let has_failed = result.is_err();
                        (Event::Ended(device, result), has_failed)
                    }
                    Ok((_, Err(panic))) => resume_unwind(panic),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => (Event::Waiting, false),
                };
                failed += usize::from(has_failed);
                let goes_on = tell(event);
                if stop.is_none() && failed > most.at_most(of) {
                    stop = Some(Stop::Failures { failed, most: most.at_most(of), of });
                }
                if stop.is_none() && !goes_on {
                    stop = Some(Stop::Asked);
                }
            }
            if stop.is_some() {
                break;
            }
        }
    });
    // Those that ended after the first too many are counted, too.
    if let Some(Stop::Failures { failed: told, .. }) = &mut stop {
        *told = failed;
    }
    stop
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn wave(devices: impl IntoIterator<Item = usize>) -> Wave {
        Wave { devices: devices.into_iter().collect(), had: 0 }
    }

    /// Runs it with these that fail; which began and which ended, in this order, and why it stopped.
    fn ran(waves: &[Wave], parallel: usize, most: Share, bad: &[usize]) -> (Vec<usize>, Vec<usize>, Option<Stop>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        let flash = |device: usize| if bad.contains(&device) { Err(device) } else { Ok(device) };
        let stop = run(waves, parallel, most, flash, |event| {
            match event {
                Event::Begun(device) => begun.push(device),
                Event::Ended(device, Ok(found) | Err(found)) => {
                    assert_eq!(device, found);
                    ended.push(device);
                }
                Event::Waiting => {}
            }
            true
        });
        (begun, ended, stop)
    }

    #[test]
    fn shares_are_numbers_or_percents() {
        let share = |text: &str| text.parse::<Share>();
        assert_eq!(
            (share("3"), share("5%"), share("2.5%")),
            (Ok(Share::Count(3)), Ok(Share::Percent(5.0)), Ok(Share::Percent(2.5)))
        );
        for wrong in ["", "%", "-1", "101%", "-1%", "5 %", "NaN%", "inf%", "1.5", "five"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        let five = Share::Percent(5.0);
        assert_eq!(
            [0, 1, 19, 20, 40].map(|all| (five.at_most(all), five.at_least(all))),
            [(0, 0), (0, 1), (0, 1), (1, 1), (2, 2)]
        );
        assert_eq!((Share::Count(9).at_most(4), Share::Count(9).at_least(4)), (4, 4));
    }

    #[test]
    fn each_is_flashed_once_and_no_more_than_so_many_at_once() {
        let (now, most, seen) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
        let flash = |device: usize| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            now.fetch_sub(1, Ordering::SeqCst);
            assert!(seen.lock().unwrap().insert(device));
            Ok::<_, ()>(())
        };
        assert_eq!(run(&[wave(0..40)], 4, Share::Count(0), flash, |_| true), None);
        assert_eq!((seen.lock().unwrap().len(), most.load(Ordering::SeqCst)), (40, 4));
        assert_eq!(run(&[], 4, Share::Count(0), |_| Ok::<(), ()>(()), |_| true), None);
    }

    #[test]
    fn a_wave_begins_when_the_one_before_has_ended() {
        let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let flash = |device: usize| {
            let first = begun.fetch_add(1, Ordering::SeqCst);
            if device >= 3 {
                assert!(first >= 3 && ended.load(Ordering::SeqCst) >= 3);
            }
            thread::sleep(Duration::from_millis(5));
            ended.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        };
        assert_eq!(run(&[wave(0..3), wave(3..20)], 8, Share::Count(0), flash, |_| true), None);
        assert_eq!(ended.load(Ordering::SeqCst), 20);
    }

    #[test]
    fn too_many_failures_end_it() {
        let failures = |failed, most, of| Some(Stop::Failures { failed, most, of });
        // The first ones: nobody else is tried.
        let (begun, _, stop) = ran(&[wave(0..2), wave(2..40)], 1, Share::Percent(10.0), &[0]);
        assert_eq!((begun, stop), (vec![0], failures(1, 0, 2)));
        // One of the first may fail.
        let (begun, _, stop) = ran(&[wave(0..2), wave(2..40)], 1, Share::Count(1), &[1]);
        assert_eq!((begun.len(), stop), (40, None));
        // Failures of all waves count.
        let (begun, ended, stop) = ran(&[wave(0..10), wave(10..20)], 1, Share::Percent(10.0), &[3, 11, 13, 15]);
        assert_eq!((begun.last(), stop), (Some(&13), failures(3, 2, 20)));
        assert_eq!(begun, ended);
        // Those that had it already count for the share.
        let (begun, _, stop) = ran(&[Wave { devices: vec![0, 1, 2], had: 17 }], 1, Share::Percent(5.0), &[0]);
        assert_eq!((begun.len(), stop), (3, None));
    }

    #[test]
    fn what_runs_ends_and_is_told_when_it_stops() {
        let (mut begun, mut ended) = (0, 0);
        let flash = |device: usize| {
            thread::sleep(Duration::from_millis(if device == 0 { 5 } else { 50 }));
            if device == 0 { Err(()) } else { Ok(()) }
        };
        let stop = run(&[wave(0..10)], 4, Share::Count(0), flash, |event| {
            match event {
                Event::Begun(_) => begun += 1,
                Event::Ended(..) => ended += 1,
                Event::Waiting => {}
            }
            true
        });
        assert_eq!((begun, ended, stop), (4, 4, Some(Stop::Failures { failed: 1, most: 0, of: 10 })));
    }

    #[test]
    fn the_caller_can_end_it_while_nothing_happens() {
        let (mut ended, mut ticks) = (0, 0);
        let flash = |_| {
            thread::sleep(Duration::from_millis(500));
            Ok::<_, ()>(())
        };
        let stop = run(&[wave(0..10), wave(10..12)], 2, Share::Count(0), flash, |event| match event {
            Event::Begun(_) => true,
            Event::Ended(..) => {
                ended += 1;
                true
            }
            Event::Waiting => {
                ticks += 1;
                false
            }
        });
        assert!(ticks >= 1);
        assert_eq!((ended, stop), (2, Some(Stop::Asked)));
    }

    #[test]
    fn a_panic_hangs_nothing() {
        let flash = |device: usize| if device == 1 { panic!("at {device}") } else { Ok::<_, ()>(()) };
        let caught = catch_unwind(AssertUnwindSafe(|| run(&[wave(0..3)], 1, Share::Count(0), flash, |_| true)));
        assert!(caught.is_err());
    }
}
