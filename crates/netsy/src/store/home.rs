//! The data directory: who may use it, and the files in it.
//!
//! One process holds it by a lock on the file `lock`. Everything in it is for the Node's own user only:
//! values are secrets.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::failure::Failure;

const DATABASE: &str = "netsy.db";

/// The write-ahead log is made this large at once: overwriting needs no new blocks at each commit.
pub(super) const WAL_RESERVE: u64 = 8 * 1024 * 1024;

/// A locked data directory.
pub(super) struct Home {
    pub(super) dir: PathBuf,
    inode: u64,
    _lock: File,
}

impl Home {
    /// Creates what is missing, and locks the directory until this is dropped.
    pub(super) fn open(dir: &Path) -> Result<Home, Failure> {
        create_dir(dir).map_err(|error| failed("creating the data directory", dir, &error))?;
        let lock = take_lock(dir)?;
        let database = dir.join(DATABASE);
        let inode = create_database(dir, &database)
            .map_err(|error| failed("creating the database", &database, &error))?;
        Ok(Home { dir: dir.to_owned(), inode, _lock: lock })
    }

    /// Moves the database of a directory nobody uses into a new directory beside it, and says where.
    pub(super) fn set_aside(dir: &Path) -> Result<PathBuf, Failure> {
        let _lock = take_lock(dir)?;
        let aside = (1..)
            .map(|number| dir.join(format!("damaged-{number}")))
            .find(|path| !path.exists())
            .expect("some number is free");
        let moved = || -> io::Result<()> {
            DirBuilder::new().mode(0o700).create(&aside)?;
            for name in [DATABASE.to_owned(), format!("{DATABASE}-wal")] {
                match fs::rename(dir.join(&name), aside.join(&name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            let _ = fs::remove_file(dir.join(format!("{DATABASE}-shm")));
            File::open(dir)?.sync_all()
        };
        moved().map_err(|error| failed("setting the database aside", dir, &error))?;
        Ok(aside)
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    fn wal(&self) -> PathBuf {
        self.dir.join(format!("{DATABASE}-wal"))
    }

    /// Whether there is a write-ahead log.
    pub(super) fn has_wal(&self) -> bool {
        self.wal().exists()
    }

    /// Whether the file that is written is still the one the path names.
    pub(super) fn check_in_place(&self) -> Result<(), Failure> {
        let path = self.database();
        let attempted = "looking at the database file";
        let found = fs::metadata(&path).map_err(|error| failed(attempted, &path, &error))?;
        if found.ino() == self.inode {
            return Ok(());
        }
        let why = format!("`{}` was replaced while this Node runs", path.display());
        Err(Failure::Broken { attempted, why })
    }

    /// Fills the empty write-ahead log with zeros, which are no frames to SQLite. It is also the proof
    /// that there is space again.
    pub(super) fn reserve_wal(&self) -> Result<(), Failure> {
        let path = self.wal();
        let fill = || -> io::Result<()> {
            let mut wal = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            if wal.metadata()?.len() > 0 {
                return Err(io::Error::other("the write-ahead log is not empty"));
            }
            let zeros = vec![0; 1 << 20];
            for _ in 0..WAL_RESERVE / zeros.len() as u64 {
                wal.write_all(&zeros)?;
            }
            wal.sync_all()
        };
        fill().map_err(|error| failed("reserving space for the write-ahead log", &path, &error))
    }
}

fn failed(attempted: &'static str, path: &Path, error: &io::Error) -> Failure {
    Failure::of_file(attempted, path, error)
}

fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) if parent.is_dir() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn take_lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join("lock");
    let attempted = "locking the data directory";
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed(attempted, &path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut text);
            return Err(Failure::InUse { dir: dir.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(error) => return Err(failed(attempted, &path, &error.into())),
    }
    // Only for the message above: a full disk may keep it from being written.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Creates the database file before SQLite does, which would let others read it. Its inode number.
fn create_database(dir: &Path, path: &Path) -> io::Result<u64> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => File::open(dir)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
        }
        Err(error) => return Err(error),
    }
    Ok(fs::metadata(path)?.ino())
}
