//! Session: one gRPC stream of watches, from its first request to its end.
//!
//! Everything the client is told goes through one outbox, in the order it became true. Events enter it
//! only when it is empty, so a client that does not read leaves its events in the mailbox, and when that
//! is full, in history. History is read one portion at a time, off the task; while the last portion of a
//! watch that has just rejoined is on its way, the mailbox stays shut, because what is in there comes
//! after it. Requests are answered all the while.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use rules::refusal::Refusal;
use rules::revision::Revision;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::{Status, Streaming};

use super::WatchLimits;
use super::history::{self, Portion};
use super::wanted::{Page, Wanted};
use crate::api::proto::etcdserverpb::{WatchRequest, WatchResponse};
use crate::api::{Door, status};
use crate::view::watchers::Stream;
use crate::view::{Change, Delivery};

mod requests;
#[cfg(test)]
mod twins;

/// Requests are left unread while this many answers wait for the client.
const UNREAD_ANSWERS: usize = 1024;
/// The id that stands for no watch, or for all of them.
const NO_WATCH: i64 = -1;

type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

/// One stream of watches.
pub(super) struct Session {
    door: Door,
    stream: Stream,
    /// By the hub's number.
    watches: BTreeMap<u64, Watching>,
    /// The hub's number of each id in use.
    ids: BTreeMap<i64, u64>,
    next_id: i64,
    outbox: VecDeque<WatchResponse>,
    /// The numbers of watches that wait for history to be read, and of some that are no more.
    behind: VecDeque<u64>,
    reading: Option<Reading>,
    asked: Asked,
}

struct Watching {
    wanted: Wanted,
    /// The Revision told as current when it began.
    begun: Revision,
    state: State,
    /// Whether it was told something since the last tick.
    told: bool,
    /// Whether a progress mark for it lies in the mailbox.
    marked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    InStep,
    /// Everything before `next` was told; `fence` says that it has rejoined from there on.
    Behind {
        next: Revision,
        fence: Option<Revision>,
    },
}

/// A portion of history on its way.
struct Reading {
    watch: u64,
    /// The hub's Revision when it set out, or the fence.
    current: Revision,
    portion: Pin<Box<dyn Future<Output = Result<Portion, Refusal>> + Send>>,
}

/// Whether the client waits to be told how far the whole stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// The mark lies in the mailbox.
    Once,
    /// The same, and the client has asked again since.
    Again,
}

impl Session {
    pub(super) fn new(door: Door) -> Session {
        let stream = door.handle.view.hub().open(door.limits.watch.mailbox);
        Session {
            door,
            stream,
            watches: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            outbox: VecDeque::new(),
            behind: VecDeque::new(),
            reading: None,
            asked: Asked::No,
        }
    }

    /// Serves the stream until the client is gone, the Node closes, or, with `leaderless`, there has
    /// been no Primary for too long.
    pub(super) async fn run(
        self,
        requests: Streaming<WatchRequest>,
        answers: Answers,
        leaderless: Option<watch::Receiver<bool>>,
    ) {
        let Ok(last_word) = answers.clone().reserve_owned().await else {
            return;
        };
        if let Err(refusal) = self.serve(requests, answers, leaderless).await {
            last_word.send(Err(status::of(&refusal)));
        }
    }

    async fn serve(
        mut self,
        mut requests: Streaming<WatchRequest>,
        answers: Answers,
        leaderless: Option<watch::Receiver<bool>>,
    ) -> Result<(), Refusal> {
        let closing = self.door.handle.closing.clone();
        let mut no_leader = std::pin::pin!(outlasted(leaderless));
        let every = with_jitter(self.limits().progress_every);
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A client that has said all it wanted to say goes on listening.
        let mut speaks = true;
        loop {
            self.fill_outbox();
            self.read_history();
            tokio::select! {
                biased;
                () = closing.cancelled() => {
                    return Err(Refusal::Unavailable("etcdserver: server stopped".into()));
                }
                () = &mut no_leader => return Err(Refusal::NoLeader),
                () = answers.closed() => return Ok(()),
                request = requests.message(), if speaks && self.outbox.len() < UNREAD_ANSWERS => {
                    match request {
                        Ok(Some(request)) => self.request(request),
                        Ok(None) => speaks = false,
                        Err(_) => return Ok(()),
                    }
                }
                place = answers.reserve(), if !self.outbox.is_empty() => {
                    if let (Ok(place), Some(answer)) = (place, self.outbox.pop_front()) {
                        place.send(Ok(answer));
                    }
                }
                arrived = arrival(&mut self.reading) => self.history(arrived)?,
                _ = ticks.tick() => self.tick(),
                () = self.stream.ready() => {}
            }
        }
    }

    fn limits(&self) -> &WatchLimits {
        &self.door.limits.watch
    }

    /// Forgets a watch. What is still under way for it finds nobody.
    fn end(&mut self, number: u64) -> Option<i64> {
        self.stream.cancel(number);
        let id = self.watches.remove(&number)?.wanted.id;
        self.ids.remove(&id);
        Some(id)
    }

    fn answer(&self, revision: Revision) -> WatchResponse {
        WatchResponse {
            header: self.door.header(revision),
            ..WatchResponse::default()
        }
    }

    // ---- What the hub delivers

    /// Takes from the mailbox until there is something to tell.
    fn fill_outbox(&mut self) {
        while self.outbox.is_empty() && !self.is_shut() {
            match self.stream.take() {
                None => return,
                Some(Delivery::Changes { watch, batch }) => {
                    let mut changes = batch.changes.len();
                    let mut batches = vec![batch];
                    while changes < self.limits().page.changes
                        && let Some(more) = self.stream.take_more(watch)
                    {
                        changes += more.changes.len();
                        batches.push(more);
                    }
                    self.tell(watch, batches.iter().flat_map(|batch| &batch.changes), None);
                }
                Some(Delivery::Behind { watch, from }) => {
                    if let Some(watching) = self.watches.get_mut(&watch) {
                        watching.state = State::Behind {
                            next: from,
                            fence: None,
                        };
                        self.behind.push_back(watch);
                    }
                }
                Some(Delivery::Progress {
                    watch: Some(watch),
                    revision,
                }) => {
                    self.progress_of_one(watch, revision);
                }
                Some(Delivery::Progress {
                    watch: None,
                    revision,
                }) => {
                    self.progress_of_all(revision);
                }
            }
        }
    }

    /// Whether the mailbox has to wait for the last portion of a watch that has rejoined.
    fn is_shut(&self) -> bool {
        let reading = self.reading.as_ref().map(|reading| &reading.watch);
        reading
            .or(self.behind.front())
            .and_then(|number| self.watches.get(number))
            .is_some_and(|watching| matches!(watching.state, State::Behind { fence: Some(_), .. }))
    }

    /// Tells a watch of `changes`; with the Revision of the last one in the header, unless one is given.
    fn tell<'a>(
        &mut self,
        number: u64,
        changes: impl IntoIterator<Item = &'a Arc<Change>>,
        revision: Option<Revision>,
    ) {
        let page = self.limits().page;
        let Some(watching) = self.watches.get_mut(&number) else {
            return;
        };
        for Page { events, last } in watching.wanted.pages(page, changes) {
            watching.told = true;
            let header = self.door.header(revision.unwrap_or(last));
            self.outbox.extend(watching.wanted.respond(header, events));
        }
    }

    // ---- History

    /// Sets out for the next portion of history, if somebody needs one and the client keeps up.
    fn read_history(&mut self) {
        let page = self.limits().page;
        while self.reading.is_none() && self.outbox.is_empty() {
            let Some(watch) = self.behind.pop_front() else {
                return;
            };
            let Some(watching) = self.watches.get_mut(&watch) else {
                continue;
            };
            let State::Behind { next, fence } = watching.state else {
                continue;
            };
            let fence = fence.or_else(|| self.stream.rejoin(watch, next, page.changes as u64));
            if fence.is_some_and(|fence| next > fence) {
                watching.state = State::InStep;
                continue;
            }
            watching.state = State::Behind { next, fence };
            let current = fence.unwrap_or_else(|| self.stream.revision());
            let (view, wanted) = (Arc::clone(&self.door.handle.view), watching.wanted.clone());
            let read = move || history::read(&view, &wanted, next, current, page);
            let portion = tokio::task::spawn_blocking(read).map(|read| {
                let fault = || Refusal::Unavailable("netsy: history could not be read".into());
                read.unwrap_or_else(|_| Err(fault()))
            });
            self.reading = Some(Reading {
                watch,
                current,
                portion: Box::pin(portion),
            });
        }
    }

    /// Tells what a portion of history holds; then its watch is in step, or still behind.
    fn history(&mut self, arrived: Arrived) -> Result<(), Refusal> {
        let Arrived {
            watch,
            current,
            portion,
        } = arrived;
        let Some(watching) = self.watches.get_mut(&watch) else {
            return Ok(());
        };
        let State::Behind { fence, .. } = watching.state else {
            return Ok(());
        };
        let Portion { changes, upto } = match portion {
            Ok(portion) => portion,
            Err(Refusal::Compacted { floor }) => {
                self.compacted(watch, floor);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        watching.state = State::Behind {
            next: upto.next(),
            fence,
        };
        match fence {
            Some(fence) if upto >= fence => watching.state = State::InStep,
            Some(_) => self.behind.push_front(watch),
            None => self.behind.push_back(watch),
        }
        self.tell(watch, &changes, Some(current));
        Ok(())
    }

    /// Ends a watch whose history is gone. The header says nothing, so that nobody resumes from it.
    fn compacted(&mut self, number: u64, floor: Revision) {
        let Some(watch_id) = self.end(number) else {
            return;
        };
        let answer = WatchResponse {
            watch_id,
            canceled: true,
            compact_revision: floor.wire(),
            ..self.answer(Revision::ZERO)
        };
        self.outbox.push_back(answer);
    }

    // ---- Progress

    /// Every watch that asked for it and heard nothing since the last tick is told how far it is.
    fn tick(&mut self) {
        for (number, watching) in &mut self.watches {
            let quiet = !std::mem::replace(&mut watching.told, false);
            if watching.wanted.progress_notify && quiet && !watching.marked {
                watching.marked = self.stream.progress(Some(*number));
            }
        }
    }

    fn progress_of_one(&mut self, number: u64, revision: Revision) {
        let Some(watching) = self.watches.get_mut(&number) else {
            return;
        };
        watching.marked = false;
        let watch_id = watching.wanted.id;
        let answer = WatchResponse {
            watch_id,
            ..self.answer(revision)
        };
        self.outbox.push_back(answer);
    }

    /// Tells the whole stream how far it is, unless a watch has begun since the mark was set.
    fn progress_of_all(&mut self, revision: Revision) {
        let again = std::mem::replace(&mut self.asked, Asked::No) == Asked::Again;
        let far =
            |it: &Watching| it.state == State::InStep && it.wanted.start.max(it.begun) <= revision;
        if self.watches.values().all(far) && !self.watches.is_empty() {
            let answer = WatchResponse {
                watch_id: NO_WATCH,
                ..self.answer(revision)
            };
            self.outbox.push_back(answer);
        }
        if again {
            self.ask_progress();
        }
    }
}

/// What came of [`Reading`].
struct Arrived {
    watch: u64,
    current: Revision,
    portion: Result<Portion, Refusal>,
}

/// Waits for the portion that is on its way; for ever if none is. Cancel safe.
async fn arrival(reading: &mut Option<Reading>) -> Arrived {
    let Some(Reading {
        watch,
        current,
        portion,
    }) = reading
    else {
        return std::future::pending().await;
    };
    let arrived = Arrived {
        watch: *watch,
        current: *current,
        portion: portion.await,
    };
    *reading = None;
    arrived
}

/// Waits until there has been no Primary for too long; for ever if nobody minds.
async fn outlasted(leaderless: Option<watch::Receiver<bool>>) {
    if let Some(mut leaderless) = leaderless
        && leaderless.wait_for(|leaderless| *leaderless).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// `every`, and up to a tenth more.
fn with_jitter(every: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    every + every.mul_f64(0.1 * (random as f64 / u64::MAX as f64))
}
