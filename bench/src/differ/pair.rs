//! Two fresh servers that get the same Steps: the reference and the subject.
//! A difference names the step and shows both sides.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tempfile::TempDir;

use super::compare::{agree, normal};
use super::drive::{Deliveries, Driven};
use super::generate::Known;
use super::step::{Answer, Delivery, Step};
use super::{PATIENCE, brief};
use crate::server::{Kind, Server};
use crate::wire::etcd;

/// Both servers, and the drivers of both.
pub(crate) struct Pair {
    reference: Driven,
    subject: Driven,
    servers: [Server; 2],
    _dirs: [TempDir; 2],
}

/// The first place where the two disagree.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Index of the step after which it showed.
    pub(crate) at: usize,
    what: String,
    reference: String,
    subject: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {}\n  reference: {}\n  subject:   {}",
            self.what, self.reference, self.subject
        )
    }
}

/// How long watches may take to deliver the same.
const SETTLE: Duration = Duration::from_secs(4);
/// Watches are compared at least this often, in steps.
const SETTLE_EVERY: usize = 40;

impl Pair {
    /// Starts both on empty directories.
    pub(crate) async fn start(kinds: &[Kind; 2]) -> Result<Pair> {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        let (reference, subject) = tokio::try_join!(
            Server::start(&kinds[0], dirs[0].path(), PATIENCE),
            Server::start(&kinds[1], dirs[1].path(), PATIENCE)
        )?;
        Ok(Pair {
            reference: Driven::new(reference.client()?),
            subject: Driven::new(subject.client()?),
            servers: [reference, subject],
            _dirs: dirs,
        })
    }

    /// The version the reference tells in Status.
    pub(crate) async fn reference_version(&self) -> Result<String> {
        let mut maintenance = self.servers[0].client()?.maintenance();
        Ok(maintenance
            .status(etcd::StatusRequest {})
            .await?
            .into_inner()
            .version)
    }

    /// Learns what the reference holds now.
    pub(crate) async fn look(&self, known: &mut Known) -> Result<()> {
        let all = Bytes::from_static(b"\0");
        let request = etcd::RangeRequest {
            key: all.clone(),
            range_end: all,
            ..Default::default()
        };
        let Answer::Range(range) = self.reference.apply(&Step::Range(request)).await else {
            bail!(
                "the reference does not answer: {}",
                self.servers[0].log_end()
            );
        };
        known.revision = range.header.context("an answer without a header")?.revision;
        known.kvs = range.kvs;
        known.watches = self
            .reference
            .deliveries()
            .keys()
            .copied()
            .filter(|(_, id)| *id >= 0)
            .collect();
        Ok(())
    }

    /// Sends one step to both; the reference's answer if they agree.
    pub(crate) async fn step(
        &mut self,
        at: usize,
        step: &Step,
    ) -> Result<Result<Answer, Difference>> {
        let quiet = matches!(step, Step::Cancel(..) | Step::Progress(_));
        if (quiet || at % SETTLE_EVERY == SETTLE_EVERY - 1)
            && let Err(difference) = self.settle(at).await
        {
            return Ok(Err(difference));
        }
        let replies = self.reference.replies();
        let (reference, subject) =
            tokio::join!(self.reference.apply(step), self.subject.apply(step));
        if let Some(status) = self.servers[1].ended() {
            return Ok(Err(Difference {
                at,
                what: brief(step),
                reference: brief(&reference),
                subject: format!(
                    "the process ended with {status}:\n{}",
                    self.servers[1].log_end()
                ),
            }));
        }
        if !agree(step, &reference, &subject) {
            return Ok(Err(Difference {
                at,
                what: brief(step),
                reference: brief(&normal(step, reference)),
                subject: brief(&normal(step, subject)),
            }));
        }
        self.await_reply(step, replies).await;
        Ok(Ok(reference))
    }

    /// After a create, or the cancel of a watch that is there, waits until both have answered it. What is
    /// not answered in time shows when the logs are compared.
    async fn await_reply(&self, step: &Step, before: usize) {
        let answered = match step {
            Step::Watch(..) => true,
            Step::Cancel(stream, cancel) => {
                let log = self.reference.deliveries();
                let of_watch = log.get(&(*stream, cancel.watch_id));
                let last = of_watch.and_then(|of_watch| {
                    of_watch
                        .iter()
                        .rev()
                        .find(|delivery| !matches!(delivery, Delivery::Event { .. }))
                });
                matches!(last, Some(Delivery::Created { .. }))
            }
            _ => false,
        };
        if answered {
            tokio::join!(
                self.reference.replied(before + 1),
                self.subject.replied(before + 1)
            );
        }
    }

    /// Events that the reference's watches delivered.
    pub(crate) fn events(&self) -> usize {
        let deliveries = self.reference.deliveries();
        let all = deliveries.values().flatten();
        all.filter(|delivery| matches!(delivery, Delivery::Event { .. }))
            .count()
    }

    /// Waits until the watches of both have delivered the same.
    pub(crate) async fn settle(&self, at: usize) -> Result<(), Difference> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let (reference, subject) = (self.reference.deliveries(), self.subject.deliveries());
            if reference == subject {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(watch_difference(at, &reference, &subject));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Runs `steps` on a fresh pair; the difference, if one shows.
pub(crate) async fn replay(kinds: &[Kind; 2], steps: &[Step]) -> Result<Option<Difference>> {
    let mut pair = Pair::start(kinds).await?;
    for (at, step) in steps.iter().enumerate() {
        if let Err(difference) = pair.step(at, step).await? {
            return Ok(Some(difference));
        }
    }
    Ok(pair.settle(steps.len()).await.err())
}

/// The first watch whose log differs, from where it does.
fn watch_difference(at: usize, reference: &Deliveries, subject: &Deliveries) -> Difference {
    let empty = Vec::new();
    let watches = reference.keys().chain(subject.keys());
    for (stream, id) in watches {
        let key = &(*stream, *id);
        let (right, got) = (
            reference.get(key).unwrap_or(&empty),
            subject.get(key).unwrap_or(&empty),
        );
        if right == got {
            continue;
        }
        let same = right
            .iter()
            .zip(got)
            .take_while(|(right, got)| right == got)
            .count();
        return Difference {
            at,
            what: format!("watch {id} of stream {stream}, after {same} equal deliveries"),
            reference: brief(&right[same..].iter().take(3).collect::<Vec<_>>()),
            subject: brief(&got[same..].iter().take(3).collect::<Vec<_>>()),
        };
    }
    let what = "watches that agree after all".to_owned();
    Difference {
        at,
        what,
        reference: String::new(),
        subject: String::new(),
    }
}
