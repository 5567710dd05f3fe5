//! The one thread that appends: it takes everything that waits, makes it durable in one transaction with
//! one fsync, and then calls each `done`.
//!
//! While it syncs, the next group gathers; there are no timers. After a failure it answers everything with
//! that failure, until the store is recovered.

use std::collections::VecDeque;
use std::thread;

use super::batch::{Batch, Tail};
use super::failure::{Attempt, Failure};
use super::{Done, Inner, Meta, schema};

const COMMITTING: &str = "committing Records";

/// A batch that waits, and who wants to know.
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) done: Done,
}

/// What stands between those who submit and the writer.
pub(super) struct Queue {
    pub(super) jobs: VecDeque<Job>,
    /// Where the log ends once `jobs` and those at work are done.
    pub(super) tail: Tail,
    /// Whether the writer is at work on what it took.
    pub(super) busy: bool,
    /// Why nothing is written any more.
    pub(super) failed: Option<Failure>,
    pub(super) closing: bool,
}

impl Queue {
    pub(super) fn new(tail: Tail) -> Queue {
        Queue { jobs: VecDeque::new(), tail, busy: true, failed: None, closing: false }
    }
}

/// Runs until the store closes and nothing waits.
pub(super) fn run(inner: &Inner) {
    let mut work = Work { inner, jobs: VecDeque::new() };
    loop {
        let failed = {
            let mut queue = inner.queue.lock();
            queue.busy = false;
            inner.idle.notify_all();
            while queue.jobs.is_empty() {
                if queue.closing {
                    return;
                }
                inner.wake.wait(&mut queue);
            }
            queue.busy = true;
            std::mem::swap(&mut queue.jobs, &mut work.jobs);
            queue.failed.clone()
        };
        let outcome = match failed {
            Some(failure) => Err(failure),
            None => inner.transact(&work.jobs).inspect_err(|failure| inner.fail(failure)),
        };
        answer(&mut work.jobs, outcome);
    }
}

/// Tells each job where the log ended behind it, or why it failed.
fn answer(jobs: &mut VecDeque<Job>, outcome: Result<Tail, Failure>) {
    match outcome {
        Ok(mut tail) => {
            while let Some(job) = jobs.pop_front() {
                tail.pass(&job.batch);
                (job.done)(Ok(tail.last));
            }
        }
        Err(failure) => {
            while let Some(job) = jobs.pop_front() {
                (job.done)(Err(failure.clone()));
            }
        }
    }
}

impl Inner {
    /// Makes `jobs` durable together. Returns where the log ended before them.
    fn transact(&self, jobs: &VecDeque<Job>) -> Result<Tail, Failure> {
        let mut before = None;
        self.transact_alone(COMMITTING, |transaction, meta| {
            before = Some(Tail::of(meta));
            jobs.iter().try_for_each(|job| job.batch.apply(transaction, meta)).attempt(COMMITTING)
        })?;
        self.wrote(jobs.iter().map(|job| job.batch.weight()).sum());
        Ok(before.expect("the transaction has run"))
    }

    /// Runs one more writing transaction on the caller's thread, between those of the writer.
    pub(super) fn write(
        &self,
        attempted: &'static str,
        weight: u64,
        work: impl FnOnce(&rusqlite::Transaction<'_>, &mut Meta) -> Result<(), Failure>,
    ) -> Result<Meta, Failure> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let after =
            self.transact_alone(attempted, work).inspect_err(|failure| self.fail(failure))?;
        self.wrote(weight);
        Ok(after)
    }

    /// One transaction, whatever the state of the store, which the caller has to look after.
    pub(super) fn transact_alone(
        &self,
        attempted: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>, &mut Meta) -> Result<(), Failure>,
    ) -> Result<Meta, Failure> {
        let mut disk = self.disk.lock();
        let before = self.meta.lock().clone();
        let mut after = before.clone();
        let transaction = schema::begin(&mut disk, attempted)?;
        work(&transaction, &mut after)?;
        if after != before {
            schema::write(&transaction, &self.identity, &after).attempt(attempted)?;
        }
        if let Some(home) = &self.home {
            home.check_in_place()?;
        }
        #[cfg(test)]
        self.sabotage.lock().clone().map_or(Ok(()), Err)?;
        transaction.commit().attempt(attempted)?;
        *self.meta.lock() = after.clone();
        Ok(after)
    }

    /// The queue, when nothing waits and nothing is at work.
    pub(super) fn quiet(&self) -> parking_lot::MutexGuard<'_, Queue> {
        let mut queue = self.queue.lock();
        while queue.busy || !queue.jobs.is_empty() {
            self.idle.wait(&mut queue);
        }
        queue
    }

    /// Stops acknowledging, for the first reason there is.
    pub(super) fn fail(&self, failure: &Failure) {
        let mut queue = self.queue.lock();
        if queue.failed.is_none() {
            tracing::error!(reason = %failure, "the store stops acknowledging");
            queue.failed = Some(failure.clone());
        }
    }
}

/// What the writer has taken. A writer that dies leaves a store that fails, not one that waits for ever.
struct Work<'i> {
    inner: &'i Inner,
    jobs: VecDeque<Job>,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let mut queue = self.inner.queue.lock();
        if thread::panicking() {
            let why = "the writer thread has died".to_owned();
            queue.failed = Some(Failure::Broken { attempted: COMMITTING, why });
        }
        let why = queue.failed.get_or_insert(Failure::Closed).clone();
        queue.closing = true;
        queue.busy = false;
        self.jobs.append(&mut queue.jobs);
        drop(queue);
        self.inner.idle.notify_all();
        answer(&mut self.jobs, Err(why));
    }
}
