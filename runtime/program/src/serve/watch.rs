//! Notices that another generation may have become the active one: a thread that sleeps until the store's directory
//! changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// How often the store is looked at where the system does not tell of changes.
const LOOK: Duration = Duration::from_secs(1);

/// Tells whenever the pointer to the active generation of a store may have changed.
///
/// # Errors
/// When no thread can be started.
pub(super) fn watch(dir: &Path) -> std::io::Result<Arc<Notify>> {
    let changed = Arc::new(Notify::new());
    let (tell, dir) = (Arc::clone(&changed), dir.to_owned());
    // The thread ends with the process.
    std::thread::Builder::new().name("watch".to_owned()).stack_size(64 << 10).spawn(move || {
        #[cfg(target_os = "linux")]
        if let Err(error) = told(&dir, &tell) {
            log::info!("the store is looked at each second, as inotify fails: {error}");
        }
        let _ = dir;
        loop {
            std::thread::sleep(LOOK);
            tell.notify_one();
        }
    })?;
    Ok(changed)
}

/// Tells as often as Linux does.
#[cfg(target_os = "linux")]
fn told(dir: &Path, tell: &Notify) -> std::io::Result<()> {
    use std::mem::MaybeUninit;

    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

    let inotify = init(CreateFlags::CLOEXEC)?;
    // The pointer `current` is replaced by a rename. A store that is removed and made again is another directory.
    add_watch(&inotify, dir, WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF)?;
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    loop {
        let event = reader.next()?;
        if !event.events().contains(rustix::fs::inotify::ReadFlags::MOVED_TO) {
            return Err(std::io::Error::other("the directory was moved or removed"));
        }
        tell.notify_one();
    }
}
