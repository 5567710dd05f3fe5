//! The Ledger: what clients tried, what was acknowledged, and what anybody was ever shown.
//!
//! It holds the promises of all rounds. Whatever contradicts one of them is a Violation, in words: an
//! acknowledged or shown Revision that is gone or holds something else, a write that is there twice, a
//! write nobody made, one that was refused, one that comes back after it was settled as never.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

/// A broken promise.
pub(crate) type Violation = String;

/// What a Revision holds: a key, and the value put or a delete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged at this Revision.
    Acknowledged(i64),
    /// An error or no answer: it may have happened, once.
    Unknown,
    /// The compare failed, so it did not happen.
    Refused,
}

/// One write a client tried. Values are never used twice, and a key is deleted once per life.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) content: Content,
    /// The Revision of the key's last change that the write was conditional on.
    pub(crate) base: i64,
    pub(crate) outcome: Outcome,
}

/// Everything tried, promised and shown, over all rounds.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By content and base, which no two tries share.
    tries: HashMap<(Content, i64), Outcome>,
    /// What each Revision holds, from acknowledgements and watches.
    shown: BTreeMap<i64, Content>,
    /// Tries that have been found in the log.
    landed: HashMap<(Content, i64), i64>,
    /// Tries of rounds whose outcome has been settled by a replay after them.
    settled: HashSet<(Content, i64)>,
    /// Up to here the log has been read and can change no more.
    pub(crate) settled_through: i64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
}

/// One event of a replayed log.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: i64,
    pub(crate) content: Content,
    /// The Revision of the key's last change before it, 0 if it was not there.
    pub(crate) base: i64,
}

impl Ledger {
    /// Notes what a client has done.
    pub(crate) fn note(&mut self, tried: Try) -> Result<(), Violation> {
        match tried.outcome {
            Outcome::Acknowledged(revision) => {
                self.acknowledged += 1;
                self.promise(revision, &tried.content)?;
            }
            Outcome::Unknown => self.unknown += 1,
            Outcome::Refused => {}
        }
        self.tries
            .insert((tried.content, tried.base), tried.outcome);
        Ok(())
    }

    /// Notes that somebody was shown `content` at `revision`.
    pub(crate) fn promise(&mut self, revision: i64, content: &Content) -> Result<(), Violation> {
        match self.shown.get(&revision) {
            Some(before) if before != content => Err(format!(
                "Revision {revision} was reused: it held {}, now it holds {}",
                told(before),
                told(content)
            )),
            Some(_) => Ok(()),
            None => {
                self.shown.insert(revision, content.clone());
                Ok(())
            }
        }
    }

    /// What was promised for `revision`, if anything.
    pub(crate) fn shown_at(&self, revision: i64) -> Option<&Content> {
        self.shown.get(&revision)
    }

    /// What was promised, by Revision.
    pub(crate) fn promised(&self) -> impl Iterator<Item = (&i64, &Content)> {
        self.shown.iter()
    }

    /// Judges the log from `start` to `end`, as a server shows it when it is ready again; no client runs.
    pub(crate) fn judge(&mut self, start: i64, end: i64, events: &[Event]) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut last = start - 1;
        let mut present = HashSet::new();
        for event in events {
            if event.revision <= last {
                violations.push(format!("Revision {} came after {last}", event.revision));
            }
            last = event.revision;
            present.insert(event.revision);
            violations.extend(self.judge_event(event));
        }
        for (revision, content) in self.shown.range(start..=end) {
            if !present.contains(revision) {
                violations.push(format!(
                    "Revision {revision} is lost: it held {}",
                    told(content)
                ));
            }
        }
        if let Some((revision, content)) = self.shown.range(end + 1..).next() {
            violations.push(format!(
                "the log ends at {end}, and {revision} held {}",
                told(content)
            ));
        }
        self.settled_through = end;
        self.settled = self.tries.keys().cloned().collect();
        violations
    }

    /// Where servers live on, a write of unknown outcome may still arrive: none is settled as never.
    pub(crate) fn keep_open(&mut self) {
        self.settled.clear();
    }

    fn judge_event(&mut self, event: &Event) -> Option<Violation> {
        let new = !self.shown.contains_key(&event.revision);
        if let Err(violation) = self.promise(event.revision, &event.content) {
            return Some(violation);
        }
        let revision = event.revision;
        if new && revision <= self.settled_through {
            return Some(format!(
                "Revision {revision} appeared in a log that was settled beyond it"
            ));
        }
        let found = self.find(event);
        let Some((tried, outcome)) = found else {
            return Some(format!(
                "nobody wrote {} at {revision}",
                told(&event.content)
            ));
        };
        if let Some(before) = self.landed.insert(tried.clone(), revision)
            && before != revision
        {
            return Some(format!(
                "{} is there twice: at {before} and {revision}",
                told(&event.content)
            ));
        }
        match outcome {
            Outcome::Acknowledged(promised) if promised != revision => Some(format!(
                "{} was acknowledged at {promised} and is at {revision}",
                told(&event.content)
            )),
            Outcome::Refused => Some(format!(
                "{} was refused and is at {revision}",
                told(&event.content)
            )),
            Outcome::Unknown if new && self.settled.contains(&tried) => Some(format!(
                "{} had been settled as never written and is at {revision}",
                told(&event.content)
            )),
            _ => None,
        }
    }

    /// The try an event comes from: the same content, conditional on the key's last change before it.
    fn find(&self, event: &Event) -> Option<((Content, i64), Outcome)> {
        let tried = (event.content.clone(), event.base);
        self.tries.get(&tried).map(|outcome| (tried, *outcome))
    }
}

/// A content in words: the key and a part of the value, both made up by this harness.
fn told(content: &Content) -> String {
    let key = String::from_utf8_lossy(&content.key);
    match &content.value {
        Some(value) => {
            format!(
                "`{key}` = `{}`",
                String::from_utf8_lossy(&value[..value.len().min(40)])
            )
        }
        None => format!("a delete of `{key}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Content {
        Content {
            key: key.into(),
            value: Some(value.into()),
        }
    }

    fn event(revision: i64, content: Content) -> Event {
        Event {
            revision,
            content,
            base: 0,
        }
    }

    fn ledger(tries: &[(Content, Outcome)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (content, outcome) in tries {
            let (content, outcome) = (content.clone(), *outcome);
            ledger
                .note(Try {
                    content,
                    base: 0,
                    outcome,
                })
                .unwrap();
        }
        ledger
    }

    #[test]
    fn a_log_that_keeps_its_promises_is_good() {
        let (a, b) = (put("a", "1"), put("b", "2"));
        let mut ledger = ledger(&[
            (a.clone(), Outcome::Acknowledged(2)),
            (b.clone(), Outcome::Unknown),
        ]);
        assert!(
            ledger
                .judge(1, 3, &[event(2, a.clone()), event(3, b.clone())])
                .is_empty()
        );
        assert!(ledger.judge(1, 3, &[event(2, a), event(3, b)]).is_empty());
    }

    #[test]
    fn a_lost_write_is_found() {
        let mut ledger = ledger(&[(put("a", "1"), Outcome::Acknowledged(2))]);
        assert_eq!(ledger.judge(1, 5, &[]).len(), 1);
        assert_eq!(
            ledger.judge(1, 1, &[]).len(),
            1,
            "a log that ends too early"
        );
    }

    #[test]
    fn a_reused_revision_is_found() {
        let (a, b) = (put("a", "1"), put("b", "2"));
        let mut ledger = ledger(&[(a, Outcome::Acknowledged(2)), (b.clone(), Outcome::Unknown)]);
        assert_eq!(ledger.judge(1, 2, &[event(2, b.clone())]).len(), 1);
        assert!(
            ledger
                .note(Try {
                    content: b,
                    base: 0,
                    outcome: Outcome::Acknowledged(2)
                })
                .is_err()
        );
    }

    #[test]
    fn a_doubled_refused_moved_or_invented_write_is_found() {
        let a = put("a", "1");
        let twice = [event(2, a.clone()), event(3, a.clone())];
        assert_eq!(
            ledger(&[(a.clone(), Outcome::Unknown)])
                .judge(1, 3, &twice)
                .len(),
            1
        );
        let once = &twice[..1];
        assert_eq!(
            ledger(&[(a.clone(), Outcome::Refused)])
                .judge(1, 2, once)
                .len(),
            1
        );
        assert_eq!(
            ledger(&[(a, Outcome::Acknowledged(3))])
                .judge(1, 3, once)
                .len(),
            2
        );
        assert_eq!(ledger(&[]).judge(1, 2, once).len(), 1);
    }

    #[test]
    fn a_write_that_comes_back_is_found() {
        let a = put("a", "1");
        for revision in [3, 7] {
            let mut ledger = ledger(&[(a.clone(), Outcome::Unknown)]);
            assert!(ledger.judge(1, 5, &[]).is_empty());
            let back = [event(revision, a.clone())];
            assert_eq!(
                ledger.judge(1, 7, &back).len(),
                1,
                "settled through 5, back at {revision}"
            );
        }
    }
}
