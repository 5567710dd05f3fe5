//! What readers and watchers were shown, held against the log as it turned out to be.
//!
//! Every answer names the Revision it is as of, so a read is right when it shows exactly what the log says of
//! its keys at that Revision, and a watch when it showed exactly the events of its stretch. How fresh an
//! answer must be is judged when it comes; what it must say is judged here, afterwards.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use prost::Message as _;

use crate::kill::ledger::Violation;
use crate::wire::mvccpb;

/// A key's state, as a reader is shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    created: i64,
    pub(super) changed: i64,
    version: i64,
    value: u64,
}

impl Held {
    pub(super) fn of(kv: &mvccpb::KeyValue) -> Held {
        Held {
            created: kv.create_revision,
            changed: kv.mod_revision,
            version: kv.version,
            value: digest(&kv.value),
        }
    }
}

/// One key in an answer.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) node: usize,
    /// What was asked, for whoever reads the verdict.
    pub(super) what: &'static str,
    pub(super) key: Bytes,
    /// The Revision the answer is as of.
    pub(super) header: i64,
    pub(super) found: Option<Held>,
}

/// What one watch was shown in one go, resumed or not.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) name: String,
    /// The first Revision it asked for.
    pub(super) start: i64,
    /// Up to here everything was delivered: the last event, or a progress notification.
    pub(super) through: i64,
    /// Revision and digest of each event, in order of arrival.
    pub(super) events: Vec<(i64, u64)>,
}

impl Seen {
    /// Notes an event; in words what is wrong with its place.
    pub(super) fn event(&mut self, event: &mvccpb::Event) -> Option<Violation> {
        let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let wrong = revision <= self.through || revision < self.start;
        let violation = wrong.then(|| {
            format!(
                "{} was shown {revision} after it had everything through {}",
                self.name, self.through
            )
        });
        self.through = self.through.max(revision);
        self.events.push((revision, digest(&event.encode_to_vec())));
        violation
    }
}

/// The log, as replays have read it.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The states of each key, by the Revision they began at; None is a delete.
    keys: HashMap<Bytes, Vec<(i64, Option<Held>)>>,
    events: BTreeMap<i64, u64>,
    /// It has been read up to here.
    pub(super) end: i64,
}

impl Log {
    /// Takes the events of a replay up to `end`; those that are known must be the same.
    pub(super) fn extend(&mut self, events: &[mvccpb::Event], end: i64) -> Vec<Violation> {
        let mut violations = Vec::new();
        for event in events {
            let kv = event.kv.clone().unwrap_or_default();
            let (revision, digest) = (kv.mod_revision, digest(&event.encode_to_vec()));
            if revision <= self.end {
                if self.events.get(&revision) != Some(&digest) {
                    violations.push(format!("the event at {revision} is not what it was before"));
                }
                continue;
            }
            self.events.insert(revision, digest);
            let deleted = event.r#type == i32::from(mvccpb::event::EventType::Delete);
            let state = (!deleted).then(|| Held::of(&kv));
            self.keys.entry(kv.key).or_default().push((revision, state));
        }
        self.end = end;
        violations
    }

    /// What `key` was at `revision`.
    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<Held> {
        let states = self.keys.get(key)?;
        let after = states.partition_point(|(began, _)| *began <= revision);
        states[..after].last().and_then(|(_, state)| *state)
    }

    /// How many keys there are at the end.
    pub(super) fn live(&self) -> usize {
        let last = self.keys.values().filter_map(|states| states.last());
        last.filter(|(_, state)| state.is_some()).count()
    }

    /// In words what is wrong with a read.
    pub(super) fn judge_read(&self, read: &Read) -> Option<Violation> {
        let key = String::from_utf8_lossy(&read.key);
        let Read {
            node, what, header, ..
        } = read;
        if *header > self.end {
            return Some(format!(
                "node-{} answered a {what} as of {header}, and the log ends at {}",
                node + 1,
                self.end
            ));
        }
        let expected = self.at(&read.key, *header);
        (expected != read.found).then(|| {
            format!(
                "node-{} answered a {what} of `{key}` as of {header} with {:?}, the log says {expected:?}",
                node + 1,
                read.found
            )
        })
    }

    /// In words what is wrong with a watch.
    pub(super) fn judge_watch(&self, seen: &Seen) -> Option<Violation> {
        if seen.through < seen.start {
            return seen.events.first().map(|(revision, _)| {
                format!("{} was shown {revision} before its start", seen.name)
            });
        }
        let mut expected = self.events.range(seen.start..=seen.through);
        let mut shown = seen.events.iter();
        loop {
            return match (expected.next(), shown.next()) {
                (None, None) => None,
                (Some((revision, digest)), Some((at, what))) if revision == at => {
                    if digest == what {
                        continue;
                    }
                    Some(format!(
                        "{} was shown another event or prev_kv at {at} than the log has",
                        seen.name
                    ))
                }
                (expected, shown) => Some(format!(
                    "{} from {} through {}: the log goes on with {:?}, it was shown {:?}",
                    seen.name,
                    seen.start,
                    seen.through,
                    expected.map(|(revision, _)| revision),
                    shown.map(|(revision, _)| revision),
                )),
            };
        }
    }

    /// In words how a Node's events from `start` to the end differ from the log.
    pub(super) fn judge_events(
        &self,
        name: &str,
        start: i64,
        events: &[mvccpb::Event],
    ) -> Option<Violation> {
        let mut seen = Seen {
            name: format!("the log of {name}"),
            start,
            through: start - 1,
            events: Vec::new(),
        };
        let wrong = events.iter().filter_map(|event| seen.event(event)).next();
        seen.through = self.end;
        wrong.or_else(|| self.judge_watch(&seen))
    }

    /// In words how a Node's list of everything at the end differs from the log.
    pub(super) fn judge_state(
        &self,
        name: &str,
        held: &BTreeMap<Bytes, mvccpb::KeyValue>,
    ) -> Option<Violation> {
        if held.len() != self.live() {
            return Some(format!(
                "{name} lists {} keys as of {}, the log says {}",
                held.len(),
                self.end,
                self.live()
            ));
        }
        let wrong = held
            .iter()
            .find(|(key, kv)| self.at(key, self.end) != Some(Held::of(kv)))?;
        Some(format!(
            "{name} lists `{}` as of {} otherwise than the log says",
            String::from_utf8_lossy(wrong.0),
            self.end
        ))
    }
}

/// A short stand-in for bytes that are only compared.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &'static str, changed: i64, value: Option<&'static str>) -> mvccpb::Event {
        let kv = mvccpb::KeyValue {
            key: key.into(),
            mod_revision: changed,
            create_revision: changed,
            version: 1,
            value: value.unwrap_or_default().into(),
            ..Default::default()
        };
        mvccpb::Event {
            r#type: i32::from(value.is_none()),
            kv: Some(kv),
            prev_kv: None,
        }
    }

    fn history() -> Vec<mvccpb::Event> {
        vec![
            event("a", 2, Some("1")),
            event("b", 3, Some("2")),
            event("a", 5, None),
            event("b", 6, Some("3")),
        ]
    }

    fn log() -> Log {
        let mut log = Log::default();
        assert!(log.extend(&history(), 7).is_empty());
        log
    }

    fn read(key: &'static str, header: i64, from: Option<usize>) -> Read {
        Read {
            node: 0,
            what: "read",
            key: key.into(),
            header,
            found: from.map(|at| Held::of(history()[at].kv.as_ref().unwrap())),
        }
    }

    fn seen(start: i64, through: i64, events: &[mvccpb::Event]) -> (Seen, usize) {
        let mut seen = Seen {
            name: "a watch".into(),
            start,
            through: start - 1,
            events: Vec::new(),
        };
        let flaws = events.iter().filter_map(|event| seen.event(event)).count();
        seen.through = through;
        (seen, flaws)
    }

    #[test]
    fn right_answers_pass() {
        let log = log();
        let right = [
            read("a", 1, None),
            read("a", 2, Some(0)),
            read("a", 4, Some(0)),
            read("a", 5, None),
            read("b", 7, Some(3)),
            read("c", 7, None),
        ];
        for read in right {
            assert_eq!(log.judge_read(&read), None);
        }
        for (seen, flaws) in [
            seen(1, 7, &history()),
            seen(3, 4, &history()[1..2]),
            seen(7, 7, &[]),
        ] {
            assert_eq!((log.judge_watch(&seen), flaws), (None, 0));
        }
    }

    #[test]
    fn a_falsified_read_is_found() {
        let wrong = [
            read("a", 2, None),
            read("a", 5, Some(0)),
            read("a", 1, Some(0)),
            read("b", 6, Some(1)),
            read("c", 7, Some(1)),
            read("b", 8, Some(3)),
        ];
        for read in wrong {
            assert!(log().judge_read(&read).is_some(), "not found: {read:?}");
        }
    }

    #[test]
    fn a_falsified_watch_is_found() {
        let mut missing = history();
        missing.remove(1);
        let mut other = history();
        other[3].prev_kv = Some(mvccpb::KeyValue::default());
        for (seen, _) in [
            seen(1, 7, &missing),
            seen(1, 7, &other),
            seen(1, 6, &history()[..3]),
            seen(1, 7, &[]),
            seen(1, 4, &history()),
        ] {
            assert!(log().judge_watch(&seen).is_some(), "not found: {seen:?}");
        }
        let mut swapped = history();
        swapped.swap(1, 2);
        let mut twice = history();
        twice.insert(1, history()[0].clone());
        for events in [swapped, twice] {
            let (seen, flaws) = seen(1, 7, &events);
            assert!(flaws > 0 && log().judge_watch(&seen).is_some());
        }
        assert_eq!(seen(3, 7, &history()).1, 1, "an event before the start");
    }

    #[test]
    fn a_log_that_changes_is_found() {
        let mut log = log();
        let mut other = history();
        other[1] = event("b", 3, Some("x"));
        assert_eq!(log.extend(&other, 7).len(), 1);
        assert!(log.judge_state("a Node", &BTreeMap::new()).is_some());
    }
}
