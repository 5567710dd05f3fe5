//! Replay: reads the whole log of a server that is ready again, and what it holds now.
//!
//! A marker key is created first, so that the reader knows where to stop; the watch from the start then
//! gives every event, each with the state before it, and the pages of a list must agree with their sum.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;

use super::ledger::{Content, Event, Ledger, Outcome, Try, Violation};
use crate::wire::{Client, etcd, mvccpb, put_if, revision};

/// How long a replay may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a replay found.
pub(crate) struct Replayed {
    /// The marker's Revision: the end of what was read.
    pub(crate) end: i64,
    pub(crate) events: usize,
    /// The events themselves.
    pub(crate) log: Vec<mvccpb::Event>,
    pub(crate) violations: Vec<Violation>,
}

/// A watch of every key with previous values.
pub(crate) fn everything() -> etcd::WatchCreateRequest {
    let all = Bytes::from_static(b"\0");
    etcd::WatchCreateRequest {
        key: all.clone(),
        range_end: all,
        prev_kv: true,
        ..Default::default()
    }
}

/// The Revision and content of an event.
pub(crate) fn content_of(event: &mvccpb::Event) -> (i64, Content) {
    let kv = event.kv.as_ref();
    let key = kv.map_or_else(Bytes::new, |kv| kv.key.clone());
    let deleted = event.r#type == i32::from(mvccpb::event::EventType::Delete);
    let value = kv.filter(|_| !deleted).map(|kv| kv.value.clone());
    (kv.map_or(0, |kv| kv.mod_revision), Content { key, value })
}

/// Writes a marker, reads the log from `start` up to it, and judges it by the ledger.
pub(crate) async fn replay(
    client: &Client,
    ledger: &mut Ledger,
    start: i64,
    marker: &str,
) -> Result<Replayed> {
    let end = mark(client, ledger, marker).await?;
    let raw = read_log(client, start, end).await?;
    let mut violations = Vec::new();
    let mut events = Vec::with_capacity(raw.len());
    for event in &raw {
        violations.extend(flaws(event, ledger));
        let (revision, content) = content_of(event);
        let base = event.prev_kv.as_ref().map_or(0, |prev| prev.mod_revision);
        events.push(Event {
            revision,
            content,
            base,
        });
    }
    violations.extend(ledger.judge(start, end, &events));
    if start == 1 {
        violations.extend(compare_state(client, &raw, end).await?);
    }
    Ok(Replayed {
        end,
        events: events.len(),
        log: raw,
        violations,
    })
}

/// Creates the marker; trying again is safe, since each try has a name of its own.
async fn mark(client: &Client, ledger: &mut Ledger, marker: &str) -> Result<i64> {
    let mut refusal = None;
    for number in 0..20 {
        let key: Bytes = format!("{marker}/{number}").into();
        let content = Content {
            key: key.clone(),
            value: Some(key.clone()),
        };
        let answer = client.kv().txn(put_if(&key, 0, key.clone())).await;
        let outcome = match &answer {
            Ok(answer) if answer.get_ref().succeeded => {
                Outcome::Acknowledged(revision(&answer.get_ref().header))
            }
            Ok(_) => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        ledger
            .note(Try {
                content,
                base: 0,
                outcome,
            })
            .map_err(anyhow::Error::msg)?;
        match (outcome, answer) {
            (Outcome::Acknowledged(revision), _) => return Ok(revision),
            (_, Err(status)) => refusal = Some(status),
            _ => bail!("the marker {marker} was there already"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    bail!("no marker could be written: {refusal:?}")
}

/// Every event from `start` through the one at `end`.
pub(crate) async fn read_log(client: &Client, start: i64, end: i64) -> Result<Vec<mvccpb::Event>> {
    let create = etcd::WatchCreateRequest {
        start_revision: start,
        ..everything()
    };
    let stream = tokio::time::timeout(PATIENCE, client.open_watch(create)).await;
    let mut stream = stream.context("the watch was not opened in time")??;
    let mut events = Vec::new();
    loop {
        let response = tokio::time::timeout(PATIENCE, stream.message()).await;
        let response = response.context("the watch stood still before the marker")??;
        let response = response.context("the watch ended before the marker")?;
        ensure!(
            !response.canceled,
            "the watch was cancelled: {}",
            response.cancel_reason
        );
        events.extend(response.events);
        if events
            .last()
            .is_some_and(|event| content_of(event).0 >= end)
        {
            return Ok(events);
        }
    }
}

/// What is wrong with an event by itself, and with the state before it.
fn flaws(event: &mvccpb::Event, ledger: &Ledger) -> Option<Violation> {
    let (revision, content) = content_of(event);
    let kv = event.kv.clone().unwrap_or_default();
    let expected = match (&event.prev_kv, &content.value) {
        (None, Some(_)) => (revision, 1),
        (Some(prev), Some(_)) => (prev.create_revision, prev.version + 1),
        (Some(_), None) => (0, 0),
        (None, None) => {
            return Some(format!(
                "the delete at {revision} tells nothing of what it deleted"
            ));
        }
    };
    if (kv.create_revision, kv.version) != expected {
        return Some(format!(
            "the event at {revision} has create_revision {} and version {}, not {} and {}",
            kv.create_revision, kv.version, expected.0, expected.1
        ));
    }
    let prev = event.prev_kv.as_ref()?;
    let before = Content {
        key: prev.key.clone(),
        value: Some(prev.value.clone()),
    };
    let held = ledger.shown_at(prev.mod_revision);
    if held.is_some_and(|held| *held != before) {
        return Some(format!(
            "prev_kv of the event at {revision} is not what {} held",
            prev.mod_revision
        ));
    }
    None
}

/// Lists everything as of `end` and holds it against the sum of the events.
async fn compare_state(
    client: &Client,
    events: &[mvccpb::Event],
    end: i64,
) -> Result<Vec<Violation>> {
    let mut sum = BTreeMap::new();
    for event in events {
        let kv = event.kv.clone().unwrap_or_default();
        if event.r#type == i32::from(mvccpb::event::EventType::Delete) {
            sum.remove(&kv.key);
        } else {
            sum.insert(kv.key.clone(), kv);
        }
    }
    let held = listed(client, end).await?;
    let differing = sum
        .keys()
        .chain(held.keys())
        .find(|key| sum.get(*key) != held.get(*key));
    Ok(differing
        .map(|key| {
            format!(
                "`{}` is not what its events say",
                String::from_utf8_lossy(key)
            )
        })
        .into_iter()
        .collect())
}

/// Every key as of `end`, page by page.
pub(crate) async fn listed(client: &Client, end: i64) -> Result<BTreeMap<Bytes, mvccpb::KeyValue>> {
    let mut held = BTreeMap::new();
    let mut next = Bytes::from_static(b"\0");
    loop {
        let page = etcd::RangeRequest {
            key: next,
            range_end: Bytes::from_static(b"\0"),
            limit: 1000,
            revision: end,
            ..Default::default()
        };
        let page = client.kv().range(page).await?.into_inner();
        next = page
            .kvs
            .last()
            .map_or_else(Bytes::new, |kv| [&kv.key[..], b"\0"].concat().into());
        held.extend(page.kvs.into_iter().map(|kv| (kv.key.clone(), kv)));
        if !page.more {
            return Ok(held);
        }
    }
}
