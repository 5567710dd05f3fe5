//! The clients of a storm. All write the same keys, each through one Node at a time; on trouble, and now and
//! then, they move to another. A client that is refused learns from the answer where the key stands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::history::{Held, Read};
use super::shared::{Before, GROUP, Shared, key};
use crate::dice::Dice;
use crate::kill::ledger::{Content, Outcome, Try};
use crate::wire::etcd::response_op::Response;
use crate::wire::{Client, delete_if, etcd, get, prefix_end, put_if, revision};

/// How long a client waits for an answer; a paused Node never gives one.
const PATIENCE: Duration = Duration::from_secs(4);

/// Starts `count` clients over `connections`, a few of each Node; they stop when `shared.over` is set.
pub(super) fn clients(
    connections: &[Vec<Client>],
    shared: &Arc<Shared>,
    count: usize,
    dice: &mut Dice,
) -> Vec<JoinHandle<()>> {
    let start = |number: usize| {
        let mut one = One {
            number,
            count,
            nodes: connections
                .iter()
                .map(|several| several[number % several.len()].clone())
                .collect(),
            node: number % connections.len(),
            shared: shared.clone(),
            dice: Dice::new(dice.next()),
            deleted: HashMap::new(),
        };
        tokio::spawn(async move {
            while !one.shared.over.load(Ordering::Relaxed) {
                one.act().await;
            }
        })
    };
    (0..count).map(start).collect()
}

struct One {
    number: usize,
    count: usize,
    /// A connection to each Node.
    nodes: Vec<Client>,
    /// The Node it speaks to.
    node: usize,
    shared: Arc<Shared>,
    dice: Dice,
    /// The life of a key that it last tried to end: a life is ended by one try only.
    deleted: HashMap<usize, i64>,
}

impl One {
    async fn act(&mut self) {
        if self.dice.chance(2) {
            self.node = self.dice.below(self.nodes.len() as u64) as usize;
        }
        let at = self.dice.below(self.shared.beliefs.len() as u64) as usize;
        let answered = match self.dice.weighted(&[45, 25, 20, 5, 5]) {
            0 => self.write(at).await,
            1 => self.get(at, false).await,
            2 => self.get(at, true).await,
            3 => self.list(at / GROUP, false).await,
            _ => self.list(at / GROUP, true).await,
        };
        if !answered {
            self.node = self.dice.below(self.nodes.len() as u64) as usize;
            tokio::time::sleep(Duration::from_millis(5 + self.dice.below(20))).await;
        }
    }

    /// One Txn; false if there was no clear answer.
    async fn write(&mut self, at: usize) -> bool {
        let key = key(at);
        let base = self.shared.beliefs[at].load(Ordering::Relaxed);
        let mine = at % self.count == self.number;
        let delete =
            base > 0 && mine && self.dice.chance(40) && self.deleted.get(&at) != Some(&base);
        let value: Option<Bytes> = (!delete).then(|| {
            let padding = self.dice.below(200) as usize;
            format!("try {} {}", self.shared.number(), "x".repeat(padding)).into()
        });
        let request = match &value {
            Some(value) => put_if(&key, base, value.clone()),
            None => delete_if(&key, base),
        };
        if delete {
            self.deleted.insert(at, base);
        }
        let before = self.shared.before(self.node);
        let mut kv = self.nodes[self.node].kv();
        let answer = tokio::time::timeout(PATIENCE, kv.txn(request)).await;
        let answer = answer
            .ok()
            .and_then(Result::ok)
            .map(tonic::Response::into_inner);
        let outcome = match &answer {
            Some(answer) if answer.succeeded => Outcome::Acknowledged(revision(&answer.header)),
            Some(_) => Outcome::Refused,
            None => Outcome::Unknown,
        };
        let content = Content {
            key: key.clone(),
            value,
        };
        self.shared.note(Try {
            content,
            base,
            outcome,
        });
        match (outcome, answer) {
            (Outcome::Acknowledged(revision), _) => {
                // Strictly above: another write cannot have had the same Revision.
                self.shared.fresh(&before, revision - 1, "Txn");
                self.shared.local(&before, revision, "Txn");
                self.shared.beliefs[at].store(if delete { 0 } else { revision }, Ordering::Relaxed);
                true
            }
            (_, Some(answer)) => {
                self.refused(at, key, base, &before, answer);
                true
            }
            _ => false,
        }
    }

    /// A compare that failed is a linearizable read, and must have been right to fail.
    fn refused(
        &self,
        at: usize,
        key: Bytes,
        base: i64,
        before: &Before,
        answer: etcd::TxnResponse,
    ) {
        self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        let header = revision(&answer.header);
        let read = answer
            .responses
            .into_iter()
            .next()
            .and_then(|op| op.response);
        let Some(Response::ResponseRange(read)) = read else {
            return self
                .shared
                .accuse(format!("a refused Txn at {header} carried no read"));
        };
        let found = read.kvs.first().map(Held::of);
        let changed = found.map_or(0, |held| held.changed);
        if changed == base {
            self.shared.accuse(format!(
                "a Txn was refused at {header}, though its key was at {base} as it asked"
            ));
        }
        self.shared.fresh(before, header, "refused Txn");
        self.shared.beliefs[at].store(changed, Ordering::Relaxed);
        self.shared.read(Read {
            node: self.node,
            what: "refused Txn",
            key,
            header,
            found,
        });
    }

    async fn get(&mut self, at: usize, serializable: bool) -> bool {
        let key = key(at);
        let what = if serializable {
            "serializable read"
        } else {
            "linearizable read"
        };
        let request = etcd::RangeRequest {
            serializable,
            ..get(&key)
        };
        let counts = &self.shared.counts;
        let count = if serializable {
            &counts.serializable
        } else {
            &counts.linearizable
        };
        let Some((header, kvs)) = self.range(request, what).await else {
            return false;
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut found = kvs.first().map(Held::of);
        if self.shared.sabotage && self.dice.below(20_000) == 0 {
            found = None;
        }
        if !serializable {
            let changed = found.map_or(0, |held| held.changed);
            self.shared.beliefs[at].store(changed, Ordering::Relaxed);
        }
        self.shared.read(Read {
            node: self.node,
            what,
            key,
            header,
            found,
        });
        true
    }

    /// A whole group in one answer, each key of it as of one Revision.
    async fn list(&mut self, group: usize, serializable: bool) -> bool {
        let prefix = format!("s/{group:03}/");
        let request = etcd::RangeRequest {
            key: prefix.clone().into(),
            range_end: prefix_end(prefix.as_bytes()),
            serializable,
            ..Default::default()
        };
        let what = if serializable {
            "serializable list"
        } else {
            "linearizable list"
        };
        let Some((header, kvs)) = self.range(request, what).await else {
            return false;
        };
        self.shared.counts.lists.fetch_add(1, Ordering::Relaxed);
        for at in group * GROUP..(group + 1) * GROUP {
            let key = key(at);
            let found = kvs.iter().find(|kv| kv.key == key).map(Held::of);
            self.shared.read(Read {
                node: self.node,
                what,
                key,
                header,
                found,
            });
        }
        true
    }

    /// Sends a read and judges how fresh the answer is.
    async fn range(
        &self,
        request: etcd::RangeRequest,
        what: &str,
    ) -> Option<(i64, Vec<crate::wire::mvccpb::KeyValue>)> {
        let before = self.shared.before(self.node);
        let linearizable = !request.serializable;
        let mut kv = self.nodes[self.node].kv();
        let answer = tokio::time::timeout(PATIENCE, kv.range(request)).await;
        let Ok(Ok(answer)) = answer else {
            self.shared
                .counts
                .failed_reads
                .fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let answer = answer.into_inner();
        let header = revision(&answer.header);
        self.shared.local(&before, header, what);
        if linearizable {
            self.shared.fresh(&before, header, what);
        }
        Some((header, answer.kvs))
    }
}
