//! The store against a model, a full disk, a crash, and other people's directories.
//!
//! Two are ignored: a measurement, and one that needs a small file system of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::datafile::tests::{opening, sized, write};

fn identity() -> StoreIdentity {
    StoreIdentity {
        cluster_id: "blue".to_owned(),
        node_id: "node-a".to_owned(),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(Some(dir), &identity()).unwrap()
}

/// Submits and waits.
fn commit(store: &Store, batch: Batch) -> Result<Revision, Failure> {
    let (sender, receiver) = mpsc::channel();
    store.submit(batch, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

fn append(records: impl IntoIterator<Item = Encoded>) -> Batch {
    Batch {
        append: records.into_iter().collect(),
        ..Batch::default()
    }
}

fn log(store: &Store) -> Vec<Encoded> {
    let mut all = Vec::new();
    let last = store.meta().last;
    store
        .scan(Revision::ZERO, last, &mut |record| {
            all.push(record);
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

fn install(store: &Store, records: &[Encoded]) -> Result<Meta, Failure> {
    let mut install = store.install()?;
    for part in records.chunks(2) {
        install.push(part)?;
    }
    install.finish()
}

/// What happens to a store, in terms of where it stands.
#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, new_epoch: bool },
    Truncate { back: u64 },
    Commit { ahead: u64 },
    Delete { below: u64 },
    Install { ahead: u64 },
    Reopen,
    Recover,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..20_u64, any::<bool>()).prop_map(|(count, new_epoch)| Step::Append { count, new_epoch }),
        2 => (0..30_u64).prop_map(|back| Step::Truncate { back }),
        3 => (0..30_u64).prop_map(|ahead| Step::Commit { ahead }),
        1 => (0..40_u64).prop_map(|below| Step::Delete { below }),
        1 => (1..10_u64).prop_map(|ahead| Step::Install { ahead }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Recover),
    ]
}

/// The store as a map, by hand.
#[derive(Default)]
struct Model {
    log: BTreeMap<u64, Encoded>,
    epochs: Vec<(Epoch, Revision)>,
    epoch: u64,
    last: u64,
    committed: u64,
    durable: u64,
    pruned: u64,
}

impl Model {
    fn step(&mut self, step: &Step, store: &Store) {
        match *step {
            Step::Append { count, new_epoch } => {
                let mut batch = Vec::new();
                for index in 0..count {
                    self.last += 1;
                    let record = if index == 0 && (new_epoch || self.epoch == 0) {
                        self.epoch += 1;
                        self.epochs.push((Epoch(self.epoch), Revision(self.last)));
                        opening(self.last, self.epoch)
                    } else {
                        write(self.last, self.epoch)
                    };
                    self.log.insert(self.last, record.clone());
                    batch.push(record);
                }
                assert_eq!(commit(store, append(batch)), Ok(Revision(self.last)));
            }
            Step::Truncate { back } => {
                let to = self.last.saturating_sub(back).max(self.committed);
                self.last = to;
                self.log.retain(|revision, _| *revision <= to);
                self.epochs.retain(|(_, first)| first.0 <= to);
                let batch = Batch {
                    truncate_above: Some(Revision(to)),
                    ..Batch::default()
                };
                assert_eq!(commit(store, batch), Ok(Revision(to)));
            }
            Step::Commit { ahead } => {
                self.committed = (self.committed + ahead).min(self.last);
                self.durable = self.durable.max(self.committed / 2);
                let batch = Batch {
                    committed: Some(Revision(self.committed)),
                    durable: Some(Revision(self.committed / 2)),
                    ..Batch::default()
                };
                commit(store, batch).unwrap();
            }
            Step::Delete { below } => {
                let firsts: Vec<u64> = self.epochs.iter().map(|(_, first)| first.0).collect();
                let doomed: Vec<_> = (1..self.committed.min(below))
                    .filter(|revision| revision % 3 == 0)
                    .collect();
                self.pruned = self.pruned.max(doomed.last().copied().unwrap_or(0));
                self.log
                    .retain(|r, _| !doomed.contains(r) || firsts.contains(r));
                let doomed: Vec<_> = doomed.into_iter().map(Revision).collect();
                store.delete(&doomed).unwrap();
            }
            Step::Install { ahead } => {
                // A Snapshot of this very log, a little further on.
                self.last += ahead;
                self.epoch = self.epoch.max(1);
                self.log.insert(self.last, write(self.last, self.epoch));
                self.log
                    .retain(|r, _| *r == self.last || r % 2 == 0 || *r > self.committed);
                for (epoch, first) in &self.epochs {
                    self.log.insert(first.0, opening(first.0, epoch.0));
                }
                let records: Vec<_> = self.log.values().cloned().collect();
                (self.committed, self.pruned) = (self.last, self.last);
                self.durable = self.last;
                install(store, &records).unwrap();
            }
            Step::Reopen | Step::Recover => {}
        }
    }

    fn compare(&self, store: &Store) {
        let meta = store.meta();
        let numbers = [meta.last.0, meta.committed.0, meta.durable.0, meta.pruned.0];
        assert_eq!(
            numbers,
            [self.last, self.committed, self.durable, self.pruned]
        );
        assert_eq!(meta.epochs, self.epochs);
        let all = log(store);
        assert!(
            all.iter().eq(self.log.values()),
            "{} and {}",
            all.len(),
            self.log.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_store_is_a_map(steps in vec(any_step(), 1..25), on_disk in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let place = on_disk.then_some(dir.path());
        let mut store = Store::open(place, &identity()).unwrap();
        let mut model = Model::default();
        let incarnation = store.meta().incarnation;
        for step in &steps {
            model.step(step, &store);
            match step {
                Step::Reopen if on_disk => {
                    drop(store);
                    store = open(dir.path());
                }
                Step::Recover => {
                    store.recover().unwrap();
                }
                _ => {}
            }
            model.compare(&store);
        }
        prop_assert_eq!(store.meta().incarnation, incarnation);
    }
}

#[test]
fn numbers_and_names_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let fresh = store.meta();
    assert_eq!(fresh.incarnation.len(), 32);
    commit(
        &store,
        Batch {
            append: vec![opening(1, 4), write(2, 4)],
            promised: Some(Epoch(9)),
            committed: Some(Revision(2)),
            durable: Some(Revision(77)),
            boot_seq: Some(3),
            ..Batch::default()
        },
    )
    .unwrap();
    // Numbers never fall.
    let lower = Batch {
        promised: Some(Epoch(5)),
        boot_seq: Some(1),
        ..Batch::default()
    };
    commit(&store, lower).unwrap();
    drop(store);
    let expected = Meta {
        incarnation: fresh.incarnation,
        boot_seq: 3,
        promised: Epoch(9),
        committed: Revision(2),
        durable: Revision(77),
        pruned: Revision::ZERO,
        last: Revision(2),
        epochs: vec![(Epoch(4), Revision(1))],
    };
    assert_eq!(open(dir.path()).meta(), expected);
}

#[test]
fn a_record_of_a_higher_epoch_raises_the_promise() {
    let store = Store::open(None, &identity()).unwrap();
    commit(&store, append([opening(1, 4)])).unwrap();
    assert_eq!(store.meta().promised, Epoch(4));
}

#[test]
fn records_are_found_one_by_one_and_a_scan_stops_when_told() {
    let store = Store::open(None, &identity()).unwrap();
    commit(&store, append((1..=5).map(|revision| write(revision, 0)))).unwrap();
    assert_eq!(store.get(Revision(3)).unwrap(), Some(write(3, 0)));
    assert_eq!(store.get(Revision(6)).unwrap(), None);
    let found = store
        .get_many(&[Revision(5), Revision(9), Revision(1)])
        .unwrap();
    assert_eq!(found, [write(5, 0), write(1, 0)]);
    let mut seen = Vec::new();
    store
        .scan(Revision(1), Revision(4), &mut |record| {
            seen.push(record.record.revision.0);
            if seen.len() == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert_eq!(seen, [2, 3]);
}

#[test]
fn submissions_are_acknowledged_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (sender, receiver) = mpsc::channel();
    for revision in 1..=500 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Revision, Failure>| sender.send(result).unwrap());
        store.submit(append([write(revision, 0)]), done);
    }
    for revision in 1..=500 {
        assert_eq!(receiver.recv().unwrap(), Ok(Revision(revision)));
    }
}

#[test]
#[should_panic(expected = "Record 3 after Record 1")]
fn a_gap_is_a_fault() {
    let store = Store::open(None, &identity()).unwrap();
    store.submit(append([write(1, 0)]), Box::new(|_| ()));
    store.submit(append([write(3, 0)]), Box::new(|_| ()));
}

#[test]
#[should_panic(expected = "truncating to 1, and 2 is committed")]
fn truncating_committed_records_is_a_fault() {
    let store = Store::open(None, &identity()).unwrap();
    let both = Batch {
        committed: Some(Revision(2)),
        ..append([write(1, 0), write(2, 0)])
    };
    store.submit(both, Box::new(|_| ()));
    store.submit(
        Batch {
            truncate_above: Some(Revision(1)),
            ..Batch::default()
        },
        Box::new(|_| ()),
    );
}

#[test]
fn a_directory_serves_one_node_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let store = open(&path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    for name in ["netsy.db", "netsy.db-wal", "lock"] {
        let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let held = Store::open(Some(&path), &identity()).unwrap_err();
    assert_eq!(
        held.to_string(),
        format!(
            "data directory `{}` is in use by another process (pid {}); it serves one Node",
            path.display(),
            std::process::id()
        )
    );
    drop(store);
    let other = StoreIdentity {
        node_id: "node-b".to_owned(),
        ..identity()
    };
    let foreign = Store::open(Some(&path), &other).unwrap_err();
    assert_eq!(
        foreign.to_string(),
        format!(
            "data directory `{}` belongs to Node `node-a` of cluster `blue`, and this is Node \
             `node-b` of cluster `blue`; correct the configuration or use another directory",
            path.display()
        )
    );
    drop(open(&path));
}

#[test]
fn a_newer_or_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let raw = Connection::open(dir.path().join("netsy.db")).unwrap();
    raw.pragma_update(None, "user_version", 2).unwrap();
    drop(raw);
    let newer = Store::open(Some(dir.path()), &identity()).unwrap_err();
    assert!(
        matches!(
            newer,
            Failure::Newer {
                found: 2,
                ours: 1,
                ..
            }
        ),
        "{newer}"
    );

    let other = tempfile::tempdir().unwrap();
    let raw = Connection::open(other.path().join("netsy.db")).unwrap();
    raw.execute_batch("CREATE TABLE else_whats(x)").unwrap();
    drop(raw);
    let foreign = Store::open(Some(other.path()), &identity()).unwrap_err();
    assert!(
        foreign.to_string().contains("not a database of Netsy"),
        "{foreign}"
    );

    fs::write(other.path().join("netsy.db"), vec![7; 8192]).unwrap();
    let noise = Store::open(Some(other.path()), &identity()).unwrap_err();
    assert!(matches!(noise, Failure::Corrupt { .. }), "{noise:?}");
    let aside = Store::set_aside(other.path()).unwrap();
    assert!(aside.join("netsy.db").exists());
    assert_eq!(open(other.path()).meta().last, Revision::ZERO);
}

/// Changes one row behind the store's back.
fn damage(dir: &Path, sql: &str) {
    let raw = Connection::open(dir.join("netsy.db")).unwrap();
    raw.execute_batch(sql).unwrap();
}

fn first_corrupt(dir: &Path) -> Option<Revision> {
    let store = match Store::open(Some(dir), &identity()) {
        Ok(store) => store,
        Err(Failure::Corrupt { revision, .. }) => return revision,
        Err(other) => panic!("{other}"),
    };
    let scanned = store.scan(Revision::ZERO, store.meta().last, &mut |_| {
        ControlFlow::Continue(())
    });
    match scanned {
        Err(Failure::Corrupt { revision, .. }) => revision,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_scan_names_the_record_that_is_damaged_or_missing() {
    let flip =
        "UPDATE records SET record = replace(record, 'registry', 'regisTry') WHERE revision = 7";
    for (sql, revision) in [
        (flip, 7),
        (
            "UPDATE records SET record = (SELECT record FROM records WHERE revision = 5) WHERE revision = 6",
            6,
        ),
        ("DELETE FROM records WHERE revision = 8", 8),
        ("DELETE FROM records WHERE revision = 1", 1),
        ("DELETE FROM records WHERE revision > 3", 4),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let all = append((1..=9).map(|revision| write(revision, 0)));
        commit(
            &store,
            Batch {
                committed: Some(Revision(5)),
                ..all
            },
        )
        .unwrap();
        drop(store);
        damage(dir.path(), sql);
        assert_eq!(first_corrupt(dir.path()), Some(Revision(revision)), "{sql}");
    }
}

#[test]
fn a_snapshot_replaces_the_log_up_to_its_last_record() {
    let store = Store::open(None, &identity()).unwrap();
    let snapshot = [opening(1, 1), opening(5, 2), write(8, 2), write(10, 2)];
    // Into an empty store, and the log goes on behind it.
    let meta = install(&store, &snapshot).unwrap();
    assert_eq!(
        (meta.last, meta.committed, meta.durable),
        (Revision(10), Revision(10), Revision(10))
    );
    assert_eq!(
        meta.epochs,
        [(Epoch(1), Revision(1)), (Epoch(2), Revision(5))]
    );
    assert_eq!(meta.promised, Epoch(2));
    commit(&store, append([write(11, 2), write(12, 2)])).unwrap();
    assert_eq!(log(&store).len(), 6);

    // Records behind it stay if they are of its epoch there.
    let longer = [opening(1, 1), opening(5, 2), write(11, 2)];
    let meta = install(&store, &longer).unwrap();
    assert_eq!((meta.last, meta.committed), (Revision(12), Revision(11)));
    assert_eq!(log(&store), [&longer[..], &[write(12, 2)]].concat());

    // They go if they are of another.
    let other = [opening(1, 1), opening(5, 2), opening(12, 3)];
    commit(&store, append([write(13, 2)])).unwrap();
    let meta = install(&store, &other).unwrap();
    assert_eq!((meta.last, meta.promised), (Revision(12), Epoch(3)));
    assert_eq!(log(&store), other);
    commit(&store, append([write(13, 3)])).unwrap();
}

#[test]
fn a_snapshot_never_forgets_a_committed_record() {
    let store = Store::open(None, &identity()).unwrap();
    let all = append([opening(1, 1), write(2, 1), write(3, 1)]);
    commit(
        &store,
        Batch {
            committed: Some(Revision(3)),
            ..all
        },
    )
    .unwrap();
    let failure = install(&store, &[opening(1, 1), opening(2, 2)]).unwrap_err();
    assert!(
        matches!(
            failure,
            Failure::Corrupt {
                revision: Some(Revision(2)),
                ..
            }
        ),
        "{failure}"
    );
    assert_eq!(log(&store).len(), 3);
    assert_eq!(store.failure(), None);
}

#[test]
fn an_unfinished_install_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, append([opening(1, 1), write(2, 1)])).unwrap();
    let mut unfinished = store.install().unwrap();
    unfinished.push(&[opening(1, 1), write(9, 1)]).unwrap();
    drop(unfinished);
    drop(store);
    let store = open(dir.path());
    assert_eq!(log(&store), [opening(1, 1), write(2, 1)]);
    install(&store, &[opening(1, 1), write(5, 1)]).unwrap();
    assert_eq!(log(&store), [opening(1, 1), write(5, 1)]);
}

/// Lets the database file grow by about `pages` more.
fn limit(store: &Store, pages: i64) {
    let disk = store.inner.disk.lock();
    let now: i64 = disk
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    disk.pragma_update(None, "max_page_count", now + pages)
        .unwrap();
}

#[test]
fn a_full_disk_stops_the_store_until_it_is_recovered() {
    for on_disk in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(on_disk.then_some(dir.path()), &identity()).unwrap();
        commit(&store, append([opening(1, 1), write(2, 1)])).unwrap();
        limit(&store, 3);
        let large = || append((3..=40).map(|revision| sized(revision, 1, 1000)));
        let failure = commit(&store, large()).unwrap_err();
        assert!(matches!(failure, Failure::Full { .. }), "{failure:?}");
        // Nothing more is acknowledged, small as it may be; reads go on.
        assert_eq!(commit(&store, append([write(3, 1)])).unwrap_err(), failure);
        assert_eq!(store.delete(&[Revision(1)]).unwrap_err(), failure);
        assert_eq!(store.install().unwrap_err(), failure);
        assert_eq!(store.failure(), Some(failure));
        assert_eq!(log(&store), [opening(1, 1), write(2, 1)]);

        limit(&store, 1_000_000);
        assert_eq!(store.recover().unwrap().last, Revision(2));
        assert_eq!(commit(&store, large()), Ok(Revision(40)));
        assert_eq!(log(&store).len(), 40);
    }
}

#[test]
fn what_waits_behind_a_failure_fails_with_it_and_recover_starts_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, append([opening(1, 1)])).unwrap();
    let broken = Failure::Broken {
        attempted: "committing Records",
        why: "an I/O error".to_owned(),
    };
    *store.inner.sabotage.lock() = Some(broken.clone());
    let (sender, receiver) = mpsc::channel();
    for revision in 2..=20 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Revision, Failure>| sender.send(result).unwrap());
        store.submit(append([write(revision, 1)]), done);
    }
    for _ in 2..=20 {
        assert_eq!(receiver.recv().unwrap(), Err(broken.clone()));
    }
    *store.inner.sabotage.lock() = None;
    assert_eq!(commit(&store, append([write(2, 1)])), Err(broken));
    let meta = store.recover().unwrap();
    assert_eq!(meta.last, Revision(1));
    assert_eq!(commit(&store, append([write(2, 1)])), Ok(Revision(2)));
}

#[test]
fn a_database_that_was_taken_away_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, append([opening(1, 1)])).unwrap();
    fs::rename(dir.path().join("netsy.db"), dir.path().join("elsewhere")).unwrap();
    let failure = commit(&store, append([write(2, 1)])).unwrap_err();
    assert!(matches!(failure, Failure::Broken { .. }), "{failure:?}");
    assert!(matches!(store.recover(), Err(Failure::Broken { .. })));
    fs::rename(dir.path().join("elsewhere"), dir.path().join("netsy.db")).unwrap();
    store.recover().unwrap();
    commit(&store, append([write(2, 1)])).unwrap();
}

#[test]
fn what_was_acknowledged_and_is_gone_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, append([opening(1, 1), write(2, 1)])).unwrap();
    store.inner.fail(&Failure::Broken {
        attempted: "testing",
        why: "on purpose".to_owned(),
    });
    let known = store.meta();
    store.inner.meta.lock().last = Revision(3);
    let gone = store.recover().unwrap_err();
    assert_eq!(
        gone.to_string(),
        "the local database is corrupt at Record 3: Records that were acknowledged are gone"
    );
    assert!(store.failure().is_some());
    *store.inner.meta.lock() = known;
    store
        .inner
        .disk
        .lock()
        .execute_batch("DELETE FROM records WHERE revision = 2")
        .unwrap();
    let gone = store.recover().unwrap_err();
    assert!(
        matches!(
            gone,
            Failure::Corrupt {
                revision: Some(Revision(2)),
                ..
            }
        ),
        "{gone}"
    );
}

/// Whatever is flipped, cut or emptied: an error, or what was written.
#[test]
fn a_damaged_file_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let all = append(
        [opening(1, 3)]
            .into_iter()
            .chain((2..40).map(|r| sized(r, 3, 900))),
    );
    commit(
        &store,
        Batch {
            committed: Some(Revision(20)),
            ..all
        },
    )
    .unwrap();
    let (meta, records) = (store.meta(), log(&store));
    drop(store);
    let path = dir.path().join("netsy.db");
    let good = fs::read(&path).unwrap();
    let mut harmless = 0;
    let mut judge = |bad: &[u8], what: &str| {
        fs::write(&path, bad).unwrap();
        let _ = fs::remove_file(dir.path().join("netsy.db-wal"));
        let Ok(store) = Store::open(Some(dir.path()), &identity()) else {
            return;
        };
        // A file of nothing is a new Node, under a new incarnation.
        if store.meta().incarnation != meta.incarnation {
            assert!(bad.len() < 100, "{what}");
            return;
        }
        let mut found = Vec::new();
        let scan = store.scan(Revision::ZERO, store.meta().last, &mut |record| {
            found.push(record);
            ControlFlow::Continue(())
        });
        if scan.is_ok() {
            assert!(store.meta() == meta && found == records, "{what}");
            harmless += 1;
        }
    };
    for place in (0..good.len()).step_by(good.len() / 150) {
        let mut bad = good.clone();
        bad[place] ^= 1 << (place % 8);
        judge(&bad, &format!("byte {place}"));
    }
    for length in [
        0,
        1,
        99,
        4096,
        8192,
        good.len() / 2,
        good.len() - 4096,
        good.len() - 1,
    ] {
        judge(&good[..length], &format!("{length} bytes"));
    }
    assert!(harmless < 60, "{harmless}");
}

#[test]
fn a_crashed_database_is_not_believed_without_its_write_ahead_log() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    commit(&store, append([opening(1, 1), write(2, 1)])).unwrap();
    // What a crash would leave, without its log.
    let left = ["netsy.db", "netsy.db-wal"];
    for name in left {
        fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    assert_eq!(log(&open(copy.path())).len(), 2);
    fs::copy(dir.path().join(left[0]), copy.path().join(left[0])).unwrap();
    let failure = Store::open(Some(copy.path()), &identity()).unwrap_err();
    assert!(
        failure
            .to_string()
            .ends_with("its write-ahead log is missing"),
        "{failure}"
    );
    // A closed one needs none.
    drop(store);
    assert!(!dir.path().join(left[1]).exists());
    assert_eq!(log(&open(dir.path())).len(), 2);
}

#[test]
fn a_failed_store_is_not_marked_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, append([opening(1, 1)])).unwrap();
    store.inner.fail(&Failure::Broken {
        attempted: "testing",
        why: "on purpose".to_owned(),
    });
    drop(store);
    assert!(dir.path().join("netsy.db-wal").exists());
    // Nor does a refused start take the log away.
    let other = StoreIdentity {
        node_id: "node-b".to_owned(),
        ..identity()
    };
    Store::open(Some(dir.path()), &other).unwrap_err();
    assert_eq!(log(&open(dir.path())).len(), 1);
}

#[test]
fn a_scan_beside_truncations_never_cries_wolf() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, append((1..=400).map(|revision| write(revision, 0)))).unwrap();
    let reader = store.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = stop.clone();
    let scans = thread::spawn(move || {
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            let last = reader.meta().last;
            reader
                .scan(Revision::ZERO, last, &mut |_| ControlFlow::Continue(()))
                .unwrap();
        }
    });
    for round in 0..40 {
        let back = Batch {
            truncate_above: Some(Revision(200 + round)),
            ..Batch::default()
        };
        commit(&store, back).unwrap();
        commit(&store, append((201 + round..=400).map(|r| write(r, 0)))).unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    scans.join().unwrap();
}

#[test]
fn a_store_whose_writer_dies_fails_and_does_not_hang() {
    let store = Store::open(None, &identity()).unwrap();
    store.submit(
        append([opening(1, 1)]),
        Box::new(|_| panic!("a fault of the caller, on purpose")),
    );
    let failure = commit(&store, append([write(2, 1)])).unwrap_err();
    assert!(
        failure.to_string().ends_with("the writer thread has died"),
        "{failure}"
    );
    assert!(matches!(store.recover(), Err(Failure::Broken { .. })));
}

/// Mount a file system of some 20 MiB, then:
/// `NETSY_SMALL_DIR=/mnt/small cargo test -p netsy --lib store::tests::a_really_full -- --ignored`
#[test]
#[ignore = "needs a small file system of its own"]
fn a_really_full_disk_stops_the_store_until_there_is_space() {
    let root = std::env::var_os("NETSY_SMALL_DIR").expect("NETSY_SMALL_DIR names a directory");
    let dir = tempfile::tempdir_in(root).unwrap();
    let store = open(dir.path());
    let ballast = dir.path().join("ballast");
    fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let mut last = 0;
    let failure = loop {
        match commit(&store, append([sized(last + 1, 0, 100_000)])) {
            Ok(revision) => last = revision.0,
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, Failure::Full { .. }), "{failure:?}");
    assert!(matches!(store.recover().unwrap_err(), Failure::Full { .. }));
    assert_eq!(log(&store).len() as u64, last);
    fs::remove_file(&ballast).unwrap();
    let found = store.recover().unwrap().last.0;
    assert!(found == last || found == last + 1, "{found} and {last}");
    commit(&store, append([write(found + 1, 0)])).unwrap();
    drop(store);
    assert_eq!(log(&open(dir.path())).len() as u64, found + 1);
}

#[test]
fn the_write_ahead_log_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (sender, receiver) = mpsc::sync_channel(8);
    let mut waiting = 0;
    for round in 0..600_u64 {
        let records = (1..=100).map(|n| sized(round * 100 + n, 0, 1000));
        let sender = sender.clone();
        store.submit(
            append(records),
            Box::new(move |result| sender.send(result).unwrap()),
        );
        waiting += 1;
        while waiting > 4 {
            receiver.recv().unwrap().unwrap();
            waiting -= 1;
        }
    }
    for _ in 0..waiting {
        receiver.recv().unwrap().unwrap();
    }
    let wal = fs::metadata(dir.path().join("netsy.db-wal")).unwrap().len();
    assert!(wal < 24 << 20, "{wal} bytes after 60 MB");
    assert_eq!(store.meta().last, Revision(60_000));
}

#[test]
fn the_last_handle_may_go_while_the_writer_answers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (sender, receiver) = mpsc::channel();
    let handle = store.clone();
    store.submit(
        append([opening(1, 1)]),
        Box::new(move |result| {
            drop(handle);
            sender.send(result).unwrap();
        }),
    );
    drop(store);
    assert_eq!(receiver.recv().unwrap(), Ok(Revision(1)));
}

const CRASH_DIR: &str = "NETSY_TEST_CRASH_DIR";

/// Not a test of its own: what the next test starts as a process, and kills.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CRASH_DIR) else {
        return;
    };
    let store = open(Path::new(&dir));
    for revision in store.meta().last.0 + 1.. {
        let committed = Some(Revision(revision));
        let batch = Batch {
            committed,
            ..append([sized(revision, 0, 700)])
        };
        println!("acknowledged {}", commit(&store, batch).unwrap());
    }
}

#[test]
fn a_killed_process_keeps_what_it_acknowledged() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::crash_child", "--nocapture"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let goal = acknowledged + 30 * round;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse().unwrap();
            }
            if acknowledged >= goal {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(dir.path());
        let last = store.meta().last.0;
        assert!(last >= acknowledged, "{last} of {acknowledged}");
        assert_eq!(log(&store).len() as u64, last);
        acknowledged = last;
    }
}

/// `cargo test --release -p netsy --lib store::tests::latency -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn latency() {
    let root = std::env::var_os("NETSY_BENCH_DIR").unwrap_or_else(|| ".".into());
    for (count, rounds) in [(1, 3000), (64, 600)] {
        let dir = tempfile::tempdir_in(&root).unwrap();
        let store = open(dir.path());
        let mut last = 0;
        let mut times = Vec::new();
        for _ in 0..rounds {
            let batch = append((1..=count).map(|n| sized(last + n, 0, 1000)));
            last += count;
            let start = std::time::Instant::now();
            commit(&store, batch).unwrap();
            times.push(start.elapsed().as_micros());
        }
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let [p10, p50, p90, p99] = [0.1, 0.5, 0.9, 0.99].map(at);
        println!("{count} Records of 1 KB: p10 {p10} p50 {p50} p90 {p90} p99 {p99} us");
    }
}

#[test]
fn nothing_of_a_record_is_shown() {
    let store = Store::open(None, &identity()).unwrap();
    let batch = append([write(1, 0)]);
    let shown = format!("{store:?} {batch:?}");
    assert!(!shown.contains("registry"), "{shown}");
}

/// Updates of `keys` keys, one after another, from Revision 2 on.
fn updates(keys: u64, count: u64) -> Vec<Encoded> {
    let update = |revision: u64| {
        let prev = revision.checked_sub(keys).filter(|prev| *prev >= 2);
        let mut record = sized(revision, 1, 512).record;
        record.prev_revision = Revision(prev.unwrap_or(0));
        record.created = prev.is_none();
        Encoded::new(record)
    };
    std::iter::once(opening(1, 1))
        .chain((2..=count).map(update))
        .collect()
}

/// Deletes to the end.
fn prune(store: &Store, after: u64, floor: u64, durable: u64) {
    let (floor, durable) = (Revision(floor), Revision(durable));
    let mut after = Revision(after);
    while let Pruned::Upto(at) = store.prune(after, floor, durable).unwrap() {
        assert!(at > after);
        after = at;
    }
}

#[test]
fn pruning_keeps_the_newest_of_each_key_and_everything_from_the_floor_on() {
    let store = Store::open(None, &identity()).unwrap();
    let mut records = updates(10, 100);
    let born_or_dead = |revision: u64, prev: u64| {
        let mut record = write(revision, 1).record;
        (record.deleted, record.prev_revision) = (prev > 0, Revision(prev));
        Encoded::new(record)
    };
    // The keys of 51 and 60 die, one below the floor, one exactly there, and come to life again.
    for (revision, prev) in [(61, 51), (71, 0), (70, 60), (80, 0)] {
        records[revision as usize - 1] = born_or_dead(revision, prev);
    }
    commit(&store, append(records)).unwrap();
    prune(&store, 0, 70, 80);
    let left: Vec<u64> = log(&store)
        .iter()
        .map(|one| one.record.revision.0)
        .collect();
    let expected: Vec<u64> = [1].into_iter().chain(62..=100).collect();
    assert_eq!(left, expected);
    let meta = store.meta();
    assert_eq!((meta.durable, meta.committed), (Revision(80), Revision(70)));
    // The tombstone that was exactly at the floor goes with the next one.
    prune(&store, 69, 100, 100);
    let left: Vec<u64> = log(&store)
        .iter()
        .map(|one| one.record.revision.0)
        .collect();
    assert!(!left.contains(&70) && !left.contains(&71), "{left:?}");
    assert_eq!(left.len(), 1 + 10, "{left:?}");
}

#[test]
fn nothing_is_pruned_before_the_disk_holds_what_the_bucket_does() {
    let store = Store::open(None, &identity()).unwrap();
    commit(&store, append(updates(10, 100))).unwrap();
    let pruned = store.prune(Revision::ZERO, Revision(50), Revision(101));
    assert_eq!(pruned, Ok(Pruned::NotYet));
    assert_eq!(log(&store).len(), 100);
}

#[test]
fn the_file_shrinks_when_much_was_pruned_and_its_log_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for batch in updates(100, 20_000).chunks(1000) {
        commit(&store, append(batch.iter().cloned())).unwrap();
    }
    let before = store.sizes().unwrap();
    prune(&store, 0, 19_000, 20_000);
    while store.shrink().unwrap() {}
    let after = store.sizes().unwrap();
    assert!(after.total * 5 < before.total, "{before:?} {after:?}");
    assert!(after.total < after.in_use * 2, "{after:?}");
    let kept = log(&store);
    assert!(kept.len() <= 1_200, "{}", kept.len());
    drop(store);
    let length = fs::metadata(dir.path().join("netsy.db")).unwrap().len();
    assert_eq!(length, after.total);
    let store = open(dir.path());
    assert_eq!(log(&store), kept);
    assert_eq!(store.recover().unwrap().last, Revision(20_000));
    commit(&store, append([write(20_001, 1)])).unwrap();
}

/// A row that is gone has no crc that could be wrong: one bit in the number of a page's cells hides two of them.
#[test]
fn rows_that_are_gone_without_a_trace_are_noticed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let records = (1..=200).map(|revision| write(revision, 1));
    commit(&store, append(records)).unwrap();
    drop(store);
    let path = dir.path().join("netsy.db");
    let mut bytes = fs::read(&path).unwrap();
    const PAGE: usize = 4096;
    // A leaf of a table, full of Records.
    let leaf = (1..bytes.len() / PAGE)
        .map(|page| page * PAGE)
        .find(|at| bytes[*at] == 0x0d && bytes[at + 4] > 8)
        .unwrap();
    bytes[leaf + 4] ^= 4;
    fs::write(&path, bytes).unwrap();
    let refused = Store::open(Some(dir.path()), &identity());
    assert!(
        matches!(refused, Err(Failure::Corrupt { .. })),
        "{refused:?}"
    );
}
