//! The folder of a bucket of local files: that it is still the one that was opened, and that what is seen in it
//! stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};

use parking_lot::Mutex;

/// Of tests: the one folder that cannot be made durable.
#[cfg(test)]
pub(super) static FAILS: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The bucket's own folder.
pub(super) struct Folder {
    pub(super) root: PathBuf,
    /// It, held open: nothing that is mounted there can be unmounted under a Node.
    held: File,
    /// Folders in it where a write failed, so that what is seen there may not be durable.
    unsynced: Mutex<BTreeSet<PathBuf>>,
}

impl Folder {
    /// `held` is the folder at `root`.
    pub(super) fn new(root: PathBuf, held: File) -> Folder {
        let unsynced = Mutex::default();
        Folder {
            root,
            held,
            unsynced,
        }
    }

    /// Whether the path still names what was opened: whatever lies there otherwise is another bucket, or none.
    pub(super) fn in_place(&self) -> io::Result<()> {
        let (now, then) = (fs::metadata(&self.root), self.held.metadata()?);
        let same = |now: fs::Metadata| (now.dev(), now.ino()) == (then.dev(), then.ino());
        if now.is_ok_and(same) {
            return Ok(());
        }
        Err(io::Error::other(
            "the bucket's folder was moved, replaced or unmounted while it was used",
        ))
    }

    /// Before an object of this folder is believed: where a write failed it may be seen, and be gone after a loss of
    /// power.
    pub(super) fn settle(&self, folder: &FilePath) -> io::Result<()> {
        let mut unsynced = self.unsynced.lock();
        if unsynced.contains(folder) {
            sync_folder(folder)?;
            unsynced.remove(folder);
        }
        Ok(())
    }

    /// Notes a write that failed for another reason than what is there.
    pub(super) fn note(&self, target: &FilePath, error: &io::Error) {
        let answered = error.kind() == ErrorKind::AlreadyExists || is_mismatch(error);
        if !answered {
            self.unsynced.lock().insert(folder_of(target).to_owned());
        }
    }
}

/// What is there is not what a replace expected.
#[derive(Debug, thiserror::Error)]
#[error("the object there is not the one expected")]
pub(super) struct Mismatch;

pub(super) fn is_mismatch(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Mismatch>())
}

/// Makes what a folder lists durable.
pub(super) fn sync_folder(folder: &FilePath) -> io::Result<()> {
    #[cfg(test)]
    if FAILS.lock().as_deref() == Some(folder) {
        return Err(io::Error::other("on purpose"));
    }
    File::open(folder)?.sync_all()
}

pub(super) fn folder_of(target: &FilePath) -> &FilePath {
    target.parent().unwrap_or(FilePath::new("/"))
}
