//! What is read from files, and read again when they change: a new version serves only if it is sound.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::serve::{Phase, reached};

pub(crate) struct Reloaded<T, E> {
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, E> + Send + Sync>,
    current: RwLock<Arc<T>>,
    /// How the files stood before they were last read: whether that version was taken or not, it is done with.
    seen: Mutex<Vec<Option<Stamp>>>,
}

/// Differs once a file has been written to, or another one stands in its place, as behind a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);

impl<T, E> Reloaded<T, E> {
    /// `read` takes all of `files` in, again for every version.
    pub(crate) fn new(files: Vec<PathBuf>, read: impl Fn() -> Result<T, E> + Send + Sync + 'static) -> Result<Self, E> {
        let seen = stamps(&files);
        let current = read()?;
        Ok(Self { files, read: Box::new(read), current: RwLock::new(Arc::new(current)), seen: Mutex::new(seen) })
    }

    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there was a new version; the old one stays if the new one is refused.
    pub(crate) fn refresh(&self) -> Result<bool, E> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        let new = Arc::new((self.read)()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }
}

impl<T: Send + Sync + 'static, E: std::error::Error + Send + 'static> Reloaded<T, E> {
    /// Until the phase is `Closing`. `what` the files hold is for the log.
    pub(crate) async fn follow(self: Arc<Self>, what: &'static str, mut phase: watch::Receiver<Phase>) {
        if self.files.is_empty() {
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Closing) => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.refresh()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::info!("new {what} are in use"),
                Ok(Err(error)) => tracing::warn!(%error, "the new {what} are refused: the old ones stay in use"),
                Err(error) => tracing::error!(%error, "the new {what} could not be read: the old ones stay in use"),
            }
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("not a number")]
    struct NotANumber;

    fn number_in(file: &Path) -> Reloaded<u32, NotANumber> {
        let path = file.to_owned();
        let read = move || fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()).ok_or(NotANumber);
        Reloaded::new(vec![file.to_owned()], read).unwrap()
    }

    #[test]
    fn a_version_is_looked_at_once_and_taken_if_it_is_sound() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        fs::write(&file, "1").unwrap();
        let number = number_in(&file);
        assert_eq!((number.refresh(), *number.get()), (Ok(false), 1));
        fs::write(&file, "two").unwrap();
        assert_eq!((number.refresh(), *number.get()), (Err(NotANumber), 1));
        assert_eq!((number.refresh(), *number.get()), (Ok(false), 1));
        fs::remove_file(&file).unwrap();
        assert_eq!((number.refresh(), *number.get()), (Err(NotANumber), 1));
        fs::write(&file, "22").unwrap();
        assert_eq!((number.refresh(), *number.get()), (Ok(true), 22));
    }

    /// As Kubernetes replaces what it mounts.
    #[test]
    fn another_folder_behind_a_symbolic_link_is_a_new_version() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new, link] = ["old", "new", "link"].map(|name| folder.path().join(name));
        for (version, number) in [(&old, "1"), (&new, "2")] {
            fs::create_dir(version).unwrap();
            fs::write(version.join("number"), number).unwrap();
        }
        symlink(&old, &link).unwrap();
        let number = number_in(&link.join("number"));
        symlink(&new, folder.path().join("next")).unwrap();
        fs::rename(folder.path().join("next"), &link).unwrap();
        assert_eq!((number.refresh(), *number.get()), (Ok(true), 2));
    }
}
