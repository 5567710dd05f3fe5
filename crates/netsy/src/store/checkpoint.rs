//! The thread that copies the write-ahead log into the database file, off the commit path.
//!
//! It works whenever a few MiB were written, beside the writer. A log that grows all the while is never
//! copied to its end that way; so beyond a limit the rest, which is small by then, is copied while no
//! transaction runs. SQLite then starts the log from its beginning: it stays bounded, and its blocks are reused.

use rusqlite::{Connection, OpenFlags};

use super::failure::{Attempt, Failure};
use super::{Inner, schema};

/// Bytes written until a checkpoint.
const STEP_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes of write-ahead log beyond which the writer waits for the rest of a checkpoint.
const LIMIT_BYTES: u64 = super::home::WAL_RESERVE * 3 / 4;
/// A page in the write-ahead log.
const FRAME_BYTES: u64 = 4096 + 24;

/// What the checkpointer waits for.
#[derive(Default)]
pub(super) struct Due {
    bytes: u64,
    closing: bool,
}

/// Runs until the store closes.
pub(super) fn run(inner: &Inner) {
    loop {
        {
            let mut due = inner.due.lock();
            while due.bytes < STEP_BYTES && !due.closing {
                inner.due_wake.wait(&mut due);
            }
            if due.closing {
                return;
            }
            due.bytes = 0;
        }
        if inner.failure().is_none()
            && let Err(failure) = inner.checkpoint()
        {
            inner.fail(&failure);
        }
    }
}

impl Inner {
    /// Notes that about `bytes` of Records were written.
    pub(super) fn wrote(&self, bytes: u64) {
        if self.home.is_none() {
            return;
        }
        let mut due = self.due.lock();
        // A commit writes at least a page of the log and one of `meta`.
        due.bytes += bytes + 2 * FRAME_BYTES;
        if due.bytes >= STEP_BYTES {
            self.due_wake.notify_one();
        }
    }

    /// Lets the checkpointer end.
    pub(super) fn end_checkpoints(&self) {
        self.due.lock().closing = true;
        self.due_wake.notify_one();
    }

    fn checkpoint(&self) -> Result<(), Failure> {
        let Some(home) = &self.home else {
            return Ok(());
        };
        let connection = schema::open_file(home, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let frames = copy(&connection)?;
        if frames * FRAME_BYTES > LIMIT_BYTES {
            let _nobody_writes = self.disk.lock();
            copy(&connection)?;
        }
        Ok(())
    }
}

/// Copies what can be copied without waiting for anybody. How many frames the log has.
fn copy(connection: &Connection) -> Result<u64, Failure> {
    let frames: i64 = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
        .attempt("checkpointing the write-ahead log")?;
    Ok(u64::try_from(frames).unwrap_or(0))
}
