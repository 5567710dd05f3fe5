//! The clients of a round: writers that each own some keys, and a watcher that sees everybody's.
//!
//! A writer knows what its keys hold, because nobody else writes them; a linearizable read that shows
//! anything else is a violation, and so is a Revision that does not lie above every one acknowledged before
//! the write began. A key whose write had no clear answer is never touched again.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::ledger::{Content, Ledger, Outcome, Try, Violation};
use super::replay::{content_of, everything};
use crate::dice::Dice;
use crate::server::Server;
use crate::wire::{Client, delete_if, etcd, get, put_if, revision};

/// What the clients of a round share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) violations: Mutex<Vec<Violation>>,
    pub(crate) over: AtomicBool,
    /// The highest Revision acknowledged so far.
    acknowledged: AtomicI64,
    /// Numbers every try.
    tries: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Arc<Shared> {
        Arc::new(Shared {
            ledger: Mutex::default(),
            violations: Mutex::default(),
            over: AtomicBool::new(false),
            acknowledged: AtomicI64::new(0),
            tries: AtomicU64::new(0),
        })
    }

    /// Looks into the ledger.
    pub(crate) fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a broken promise.
    pub(crate) fn accuse(&self, violation: Violation) {
        self.violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(violation);
    }

    fn note(&self, tried: Try) {
        if let Err(violation) = self.ledger(|ledger| ledger.note(tried)) {
            self.accuse(violation);
        }
    }
}

/// Starts `count` writers; they stop when `shared.over` is set or their server is gone for good.
pub(crate) fn writers(
    server: &Server,
    shared: &Arc<Shared>,
    count: u64,
    round: u64,
    dice: &mut Dice,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    let mut client = server.client()?;
    for number in 0..count {
        if number % 8 == 0 {
            client = server.client()?;
        }
        let mut writer = Writer {
            client: client.clone(),
            shared: shared.clone(),
            dice: Dice::new(dice.next()),
            name: format!("k/{round}/{number}"),
            keys: Vec::new(),
            named: 0,
        };
        tasks.push(tokio::spawn(async move {
            while !writer.shared.over.load(Ordering::Relaxed) {
                writer.act().await;
            }
        }));
    }
    Ok(tasks)
}

/// A key of a writer, and what it holds.
struct Own {
    key: Bytes,
    /// Revision of its last change, 0 if it is not there.
    base: i64,
    value: Option<Bytes>,
}

struct Writer {
    client: Client,
    shared: Arc<Shared>,
    dice: Dice,
    name: String,
    keys: Vec<Own>,
    named: u64,
}

/// How many keys a writer keeps changing.
const KEYS: usize = 12;

impl Writer {
    async fn act(&mut self) {
        let fresh = self.keys.len() < KEYS && (self.keys.is_empty() || self.dice.chance(40));
        if fresh {
            self.named += 1;
            let key = format!("{}/{}", self.name, self.named).into();
            self.keys.push(Own {
                key,
                base: 0,
                value: None,
            });
        }
        let at = if fresh {
            self.keys.len() - 1
        } else {
            self.dice.below(self.keys.len() as u64) as usize
        };
        if self.keys[at].base > 0 && self.dice.chance(15) {
            self.read(at).await;
        } else {
            self.write(at).await;
        }
    }

    async fn write(&mut self, at: usize) {
        let own = &self.keys[at];
        let (key, base) = (own.key.clone(), own.base);
        let number = self.shared.tries.fetch_add(1, Ordering::Relaxed);
        let delete = own.value.is_some() && self.dice.chance(10);
        let padding = self.dice.below(200) as usize;
        let value: Option<Bytes> =
            (!delete).then(|| format!("try {number} {}", "x".repeat(padding)).into());
        let request = match &value {
            Some(value) => put_if(&key, base, value.clone()),
            None => delete_if(&key, base),
        };
        let before = self.shared.acknowledged.load(Ordering::SeqCst);
        let answer = self.client.kv().txn(request).await;
        let outcome = match &answer {
            Ok(answer) if answer.get_ref().succeeded => {
                Outcome::Acknowledged(revision(&answer.get_ref().header))
            }
            Ok(_) => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        let content = Content {
            key: key.clone(),
            value: value.clone(),
        };
        self.shared.note(Try {
            content,
            base,
            outcome,
        });
        match outcome {
            Outcome::Acknowledged(revision) => {
                self.shared
                    .acknowledged
                    .fetch_max(revision, Ordering::SeqCst);
                if revision <= before {
                    self.shared.accuse(format!(
                        "a write was given Revision {revision}, and {before} was acknowledged before it began"
                    ));
                }
                let own = &mut self.keys[at];
                own.base = if delete { 0 } else { revision };
                own.value = value;
            }
            Outcome::Unknown => {
                self.keys.swap_remove(at);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Outcome::Refused => {
                let key = String::from_utf8_lossy(&key).into_owned();
                self.shared.accuse(format!(
                    "`{key}` was not at {base}, where its only writer left it"
                ));
                self.keys.swap_remove(at);
            }
        }
    }

    async fn read(&mut self, at: usize) {
        let own = &self.keys[at];
        let Ok(answer) = self.client.kv().range(get(&own.key)).await else {
            return;
        };
        let answer = answer.into_inner();
        let found = answer
            .kvs
            .first()
            .map_or((0, None), |kv| (kv.mod_revision, Some(&kv.value)));
        if found != (own.base, own.value.as_ref()) {
            let key = String::from_utf8_lossy(&own.key).into_owned();
            self.shared.accuse(format!(
                "a linearizable read showed `{key}` at {}, its only writer left it at {}",
                found.0, own.base
            ));
        }
    }
}

/// Watches everything from `start` until the server is gone; whatever it is shown is a promise.
pub(crate) fn watcher(client: Client, shared: Arc<Shared>, start: i64) -> JoinHandle<()> {
    tokio::spawn(async move {
        let create = etcd::WatchCreateRequest {
            start_revision: start,
            ..everything()
        };
        let Ok(mut stream) = client.open_watch(create).await else {
            return;
        };
        let mut last = start - 1;
        while let Ok(Some(response)) = stream.message().await {
            for event in response.events {
                let (revision, content) = content_of(&event);
                if revision <= last {
                    shared.accuse(format!("a watch was shown {revision} after {last}"));
                }
                last = revision;
                if let Err(violation) = shared.ledger(|ledger| ledger.promise(revision, &content)) {
                    shared.accuse(violation);
                }
            }
        }
    })
}
