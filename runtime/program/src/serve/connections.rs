//! Which connections are open: no more than so many. Where one more comes, one goes that never asked anything, else that
//! which was idle for longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The connections that are open.
pub(super) struct Connections {
    max: usize,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    /// Counts connections and requests; what happened later has a larger number.
    clock: AtomicU64,
    /// Told when a connection has ended.
    ended: Notify,
}

/// A connection.
pub(super) struct Connection {
    pub(super) number: u64,
    /// When it last had a request.
    last: AtomicU64,
    /// Whether it ever had one.
    has_asked: AtomicBool,
    /// Requests of it that are not answered yet.
    busy: AtomicUsize,
    /// Told when it is to be closed.
    close: Notify,
}

impl Connection {
    /// Whether it ever had a request.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    /// It has one.
    pub(super) fn asks(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }

    /// Waits until it is to be closed.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }
}

/// A connection has a request as long as this is there.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of a new connection.
pub(super) enum Admission {
    /// It is one of those that are open.
    Taken(Arc<Connection>),
    /// The same, and another one is closed for it.
    InPlaceOfAnother(Arc<Connection>),
    /// There are as many as may be, and none is idle.
    Refused,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Connections { max, open: Mutex::default(), clock: AtomicU64::new(1), ended: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a connection in; who does so calls [`Connections::end`] for it.
    pub(super) fn admit(&self) -> Admission {
        let mut open = self.lock();
        let is_full = open.len() >= self.max;
        if is_full {
            let idle = open.values().filter(|connection| connection.busy.load(Ordering::Relaxed) == 0);
            let Some(longest) = idle.min_by_key(|open| (open.has_asked(), open.last.load(Ordering::Relaxed))).cloned()
            else {
                return Admission::Refused;
            };
            open.remove(&longest.number);
            longest.close.notify_one();
        }
        let number = self.tick();
        let connection = Arc::new(Connection {
            number,
            last: AtomicU64::new(number),
            has_asked: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            close: Notify::new(),
        });
        open.insert(number, Arc::clone(&connection));
        match is_full {
            true => Admission::InPlaceOfAnother(connection),
            false => Admission::Taken(connection),
        }
    }

    /// A connection has ended.
    pub(super) fn end(&self, connection: &Connection) {
        self.lock().remove(&connection.number);
        self.ended.notify_waiters();
    }

    /// Marks a connection as one with a request.
    pub(super) fn busy(&self, connection: &Arc<Connection>) -> Busy {
        connection.asks();
        connection.last.store(self.tick(), Ordering::Relaxed);
        connection.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(connection))
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Waits until none is open.
    pub(super) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_gives_way_and_the_busy_stay() {
        let connections = Connections::new(2);
        let admit = || match connections.admit() {
            Admission::Taken(connection) => (connection, false),
            Admission::InPlaceOfAnother(connection) => (connection, true),
            Admission::Refused => panic!("refused"),
        };
        let ((first, _), (second, in_place)) = (admit(), admit());
        assert!(!in_place);
        let is_open = |connection: &Connection| connections.lock().contains_key(&connection.number);
        let busy = connections.busy(&first);
        let (third, in_place) = admit();
        assert!(in_place && !is_open(&second));
        drop(busy);
        // The first is idle for longer, and has asked before.
        let (fourth, in_place) = admit();
        assert!(in_place && is_open(&first) && !is_open(&third));
        drop(connections.busy(&fourth));
        let (fifth, in_place) = admit();
        assert!(in_place && !is_open(&first));
        let _all = [connections.busy(&fourth), connections.busy(&fifth)];
        assert!(matches!(connections.admit(), Admission::Refused));
        connections.end(&second);
        assert_eq!(connections.count(), 2);
    }
}
