//! Which connections are open: no more than so many, and where one more comes, that goes which was idle for longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    /// Requests of it that are not answered yet.
    busy: AtomicUsize,
    /// Told when it is to be closed.
    close: Notify,
}

impl Connection {
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
            let Some(longest) = idle.min_by_key(|connection| connection.last.load(Ordering::Relaxed)).cloned() else {
                return Admission::Refused;
            };
            open.remove(&longest.number);
            longest.close.notify_one();
        }
        let number = self.tick();
        let (last, busy, close) = (AtomicU64::new(number), AtomicUsize::new(0), Notify::new());
        let connection = Arc::new(Connection { number, last, busy, close });
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
        let busy = connections.busy(&first);
        let (third, in_place) = admit();
        assert!(in_place && !connections.lock().contains_key(&second.number));
        drop(busy);
        // It was idle for longer than the first since its last request, although it came later.
        drop(connections.busy(&third));
        let (_, in_place) = admit();
        assert!(in_place && !connections.lock().contains_key(&first.number));
        let open: Vec<_> = connections.lock().values().cloned().collect();
        let _all: Vec<_> = open.iter().map(|connection| connections.busy(connection)).collect();
        assert!(matches!(connections.admit(), Admission::Refused));
        connections.end(&second);
        assert_eq!(connections.count(), 2);
    }
}
