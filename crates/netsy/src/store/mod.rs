//! The local log: SQLite, one thread that appends with group commit, readers beside it.
//!
//! What `done` has acknowledged is on disk. Records are rows in the datafile's encoding, so every read checks a
//! crc; the log is contiguous above what compaction took. When the disk fails, the store says so to
//! everybody and acknowledges nothing until [`Store::recover`] has seen that everything is there.
//! All calls but `submit`, `meta` and `failure` wait for the disk: not for async tasks.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use rules::revision::{Epoch, Revision};
use rusqlite::Connection;

mod batch;
mod checkpoint;
mod failure;
mod home;
mod install;
mod prune;
mod reader;
mod schema;
mod writer;

pub use batch::Batch;
pub use failure::Failure;
pub use install::Install;
pub use prune::Pruned;

use crate::datafile::Encoded;
use crate::standing::Sizes;
use batch::Tail;
use failure::Attempt;
use home::Home;
use reader::Readers;
use writer::{Job, Queue};

/// Called on the writer's thread when a batch is on disk, with the last Record behind it: be quick there.
pub type Done = Box<dyn FnOnce(Result<Revision, Failure>) + Send>;

/// Whose database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The cluster's name.
    pub cluster_id: String,
    /// The Node's name.
    pub node_id: String,
}

/// What is on disk, Records aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Random name made with the file, 32 hex digits: a Node with another file is another voter.
    pub incarnation: String,
    /// The number of this start.
    pub boot_seq: u64,
    /// The highest epoch promised or seen.
    pub promised: Epoch,
    /// The committed Revision, as far as this Node knew.
    pub committed: Revision,
    /// The last Revision known to be durable in the bucket without a gap.
    pub durable: Revision,
    /// Records at or below may be missing, as compaction or a Snapshot left them. Above, none is.
    pub pruned: Revision,
    /// The last Record.
    pub last: Revision,
    /// The epoch table, ascending: each epoch that an epoch Record opened, and that Record's Revision.
    pub epochs: Vec<(Epoch, Revision)>,
}

/// The local log. Cheap to clone; when the last clone goes, what was submitted is written and it closes.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    _threads: Arc<Threads>,
}

/// What the threads share. Locks are taken in the order queue, disk, meta.
struct Inner {
    queue: Mutex<Queue>,
    /// Work for the writer.
    wake: Condvar,
    /// The writer has finished what it took.
    idle: Condvar,
    readers: Readers,
    /// The writing connection: whoever holds it is the one who writes. Closed after the readers, it
    /// leaves no write-ahead log.
    disk: Mutex<Connection>,
    meta: Mutex<Meta>,
    due: Mutex<checkpoint::Due>,
    due_wake: Condvar,
    identity: StoreIdentity,
    /// A failure for the next commits.
    #[cfg(test)]
    sabotage: Mutex<Option<Failure>>,
    /// Locks the directory until every connection is closed. `None` in memory.
    home: Option<Home>,
}

impl Store {
    /// Opens or creates the database in `dir`, or an empty one in memory. What it shows is on disk.
    /// Records are not read here: [`Store::scan`] checks them at start-up.
    ///
    /// # Errors
    /// `InUse`, `Foreign` or `Newer` if the directory is not for us; `Full`, `Broken` or `Corrupt`.
    pub fn open(dir: Option<&Path>, identity: &StoreIdentity) -> Result<Store, Failure> {
        let home = dir.map(Home::open).transpose()?;
        let (disk, meta) = schema::open(home.as_ref(), identity)?;
        schema::check(&disk)?;
        let inner = Arc::new(Inner {
            queue: Mutex::new(Queue::new(Tail::of(&meta))),
            wake: Condvar::new(),
            idle: Condvar::new(),
            disk: Mutex::new(disk),
            meta: Mutex::new(meta),
            readers: Readers::default(),
            due: Mutex::default(),
            due_wake: Condvar::new(),
            identity: identity.clone(),
            #[cfg(test)]
            sabotage: Mutex::new(None),
            home,
        });
        let threads = Threads::start(&inner)?;
        Ok(Store {
            inner,
            _threads: Arc::new(threads),
        })
    }

    /// Moves the database in `dir`, which no process uses, into a directory beside it, and says where.
    /// The next `open` begins anew, under a new incarnation.
    ///
    /// # Errors
    /// `InUse`, or what the file system says.
    pub fn set_aside(dir: &Path) -> Result<PathBuf, Failure> {
        Home::set_aside(dir)
    }

    /// What is on disk.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.inner.meta()
    }

    /// Why the store acknowledges nothing, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.inner.failure()
    }

    /// Hands a batch to the writer, behind those before it. Never waits for the disk. A batch is on disk
    /// as a whole or not at all, and never before one submitted earlier.
    ///
    /// # Panics
    /// On a gap, a truncation below committed, or a commit above the last Record.
    pub fn submit(&self, batch: Batch, done: Done) {
        let mut queue = self.inner.queue.lock();
        if queue.closing {
            let failure = queue.failed.clone().unwrap_or(Failure::Closed);
            drop(queue);
            return done(Err(failure));
        }
        if queue.failed.is_none() {
            queue.tail.pass(&batch);
        }
        queue.jobs.push_back(Job { batch, done });
        if !queue.busy {
            self.inner.wake.notify_one();
        }
    }

    /// One Record, if it is there.
    ///
    /// # Errors
    /// `Corrupt` if its row is damaged, or what the disk says.
    pub fn get(&self, revision: Revision) -> Result<Option<Encoded>, Failure> {
        Ok(self.inner.get_many(&[revision])?.pop())
    }

    /// Those of the Records asked for that are there, in the order asked.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_many(&self, revisions: &[Revision]) -> Result<Vec<Encoded>, Failure> {
        self.inner.get_many(revisions)
    }

    /// Visits the Records in `(after, upto]` in order, until told to stop. Reads page by page: whoever
    /// truncates meanwhile must expect a mixture.
    ///
    /// # Errors
    /// `Corrupt` naming the first Record that is damaged, or missing above what compaction took.
    pub fn scan(
        &self,
        after: Revision,
        upto: Revision,
        visit: &mut dyn FnMut(Encoded) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        self.inner.scan(after, upto, visit)
    }

    /// Begins to install a Snapshot. One at a time.
    ///
    /// # Errors
    /// The store's failure.
    pub fn install(&self) -> Result<Install, Failure> {
        Install::begin(self.inner.clone())
    }

    /// Deletes compacted Records, in one transaction: a few hundred at a time keep it short. Epoch
    /// Records stay.
    ///
    /// # Errors
    /// The store's failure.
    ///
    /// # Panics
    /// If one of them is not below the committed Revision.
    pub fn delete(&self, revisions: &[Revision]) -> Result<(), Failure> {
        self.inner
            .write("deleting compacted Records", 0, |connection, meta| {
                prune::delete(connection, meta, revisions)
            })?;
        Ok(())
    }

    /// Sizes of the database file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sizes(&self) -> Result<Sizes, Failure> {
        self.inner.sizes()
    }

    /// After a failure: opens the file anew, syncs what it shows, and checks that every Record is whole
    /// and everything acknowledged is there. Then the store works again, and what it returns is the
    /// truth. Takes as long as reading every Record. Truncates nothing.
    ///
    /// # Errors
    /// What is still wrong; the store stays as it was.
    pub fn recover(&self) -> Result<Meta, Failure> {
        self.inner.recover()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store(up to Record {})", self.inner.meta.lock().last)
    }
}

impl Inner {
    fn meta(&self) -> Meta {
        self.meta.lock().clone()
    }

    fn failure(&self) -> Option<Failure> {
        self.queue.lock().failed.clone()
    }

    fn recover(&self) -> Result<Meta, Failure> {
        let queue = self.queue.lock();
        if let (true, Some(failure)) = (queue.closing, &queue.failed) {
            return Err(failure.clone());
        }
        drop(queue);
        let found = self.reopen()?;
        self.scan(Revision::ZERO, found.last, &mut |_| {
            ControlFlow::Continue(())
        })?;
        self.resume(&found);
        Ok(found)
    }

    /// Closes every connection, opens the writing one anew, and believes what it shows if nothing is gone.
    /// All of it with the disk held: a transaction in between would be forgotten.
    fn reopen(&self) -> Result<Meta, Failure> {
        self.readers.clear();
        let mut disk = self.disk.lock();
        let found = self.open_anew(&mut disk)?;
        let mut known = self.meta.lock();
        if found.incarnation != known.incarnation
            || found.promised < known.promised
            || found.last < known.last
            || found.committed < known.committed
        {
            let why = "Records that were acknowledged are gone".to_owned();
            return Err(Failure::Corrupt {
                revision: Some(known.last),
                why,
            });
        }
        found.clone_into(&mut known);
        Ok(found)
    }

    fn open_anew(&self, disk: &mut Connection) -> Result<Meta, Failure> {
        if self.home.is_none() {
            // There is no second chance in memory, and nothing to distrust.
            return schema::read(disk).map(|(_, meta)| meta);
        }
        *disk = Connection::open_in_memory().attempt("closing the database")?;
        let (anew, meta) = schema::open(self.home.as_ref(), &self.identity)?;
        *disk = anew;
        Ok(meta)
    }

    /// Says in the file that it is complete without its write-ahead log.
    fn close(&self) {
        if self.home.is_some()
            && self.queue.lock().failed == Some(Failure::Closed)
            && let Err(error) = schema::close(&self.disk.lock())
        {
            tracing::warn!(reason = %error, "the database was not closed cleanly");
        }
    }

    /// Answers what waits from before, and lets the writer work again.
    fn resume(&self, found: &Meta) {
        let mut queue = self.quiet();
        queue.tail = Tail::of(found);
        queue.failed = None;
    }
}

/// The store's threads, ended and awaited when the last handle goes.
struct Threads {
    inner: Arc<Inner>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(inner: &Arc<Inner>) -> Result<Threads, Failure> {
        let mut threads = Threads {
            inner: inner.clone(),
            running: Vec::new(),
        };
        threads.spawn("store-writer", writer::run)?;
        if inner.home.is_some() {
            threads.spawn("store-checkpoint", checkpoint::run)?;
        }
        Ok(threads)
    }

    fn spawn(&mut self, name: &str, run: fn(&Inner)) -> Result<(), Failure> {
        let inner = self.inner.clone();
        let spawned = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&inner));
        let thread = spawned.map_err(|error| Failure::Broken {
            attempted: "starting the store's threads",
            why: error.to_string(),
        })?;
        self.running.push(thread);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.queue.lock().closing = true;
        self.inner.wake.notify_one();
        self.inner.end_checkpoints();
        for thread in self.running.drain(..) {
            // The last handle may go in a `done`, on the writer itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
        self.inner.close();
    }
}

#[cfg(test)]
mod tests;
