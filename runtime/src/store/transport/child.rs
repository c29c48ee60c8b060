//! A process that is ended when its time is over, whatever its streams are waiting for.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A child with a deadline.
pub(super) struct Watched {
    child: Mutex<Child>,
    /// It leads a process group, whose other members end with it.
    is_leader: bool,
    deadline: Option<Instant>,
    is_late: AtomicBool,
}

impl Watched {
    pub(super) fn new(child: Child, is_leader: bool, deadline: Option<Instant>) -> Self {
        Watched { child: Mutex::new(child), is_leader, deadline, is_late: AtomicBool::new(false) }
    }

    /// Does something with its streams; at the deadline the child is killed, and the streams end.
    pub(super) fn watch<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(deadline) = self.deadline else { return work() };
        thread::scope(|scope| {
            let (done, waiting) = channel::<()>();
            scope.spawn(move || {
                let left = deadline.saturating_duration_since(Instant::now());
                if waiting.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                    self.is_late.store(true, Ordering::Relaxed);
                    self.kill();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Whether it was killed at the deadline, in the midst of the work.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// Ends it now.
    pub(super) fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // The number of one that was waited for may be another's.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        #[cfg(unix)]
        if self.is_leader {
            let group = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = child.kill();
    }

    /// Waits until it ends, which it does at the deadline.
    pub(super) fn wait(&self) -> io::Result<ExitStatus> {
        let Some(deadline) = self.deadline else {
            return self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        };
        loop {
            let ended = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?;
            match ended {
                Some(status) => return Ok(status),
                None if Instant::now() >= deadline => self.kill(),
                None => {}
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn child(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// What it says, whether it was late, and how it ended.
    fn said(script: &str, limit: Duration) -> (String, bool, bool) {
        let mut child = child(script);
        let mut out = child.stdout.take().unwrap();
        let child = Watched::new(child, true, Some(Instant::now() + limit));
        let mut said = String::new();
        child.watch(|| out.read_to_string(&mut said).unwrap());
        (said, child.is_late(), child.wait().unwrap().success())
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_that_it_started() {
        let begin = Instant::now();
        // The inner one would hold the pipe open.
        assert_eq!(said("echo a; sleep 100 & sleep 100", Duration::from_millis(300)), ("a\n".to_owned(), true, false));
        // Its streams have ended, but not itself.
        assert_eq!(said("exec >&-; sleep 100", Duration::from_millis(300)), (String::new(), false, false));
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(said("echo a", Duration::from_secs(60)), ("a\n".to_owned(), false, true));
    }
}
