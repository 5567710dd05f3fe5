//! The Node's own disk: kept, lost, an older copy, damaged, full. The bucket has what was acknowledged.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use netsy::bucket::Document;
use rustix::process::{Resource, Rlimit, prlimit};

use super::load::{Ledger, Load, history, judge};
use super::node::{Place, until};
use super::process::Process;
use crate::etcd::get;

/// The Node `one` under load until `more` further writes are acknowledged, then killed.
async fn lives(place: &Place, ledger: &Arc<Ledger>, more: usize) {
    let node = place.node("one").start().await;
    node.healthy().await;
    let before = ledger.done();
    let load = Load::start(ledger, &[node.clients], 4);
    until("there is some load", || async {
        ledger.done() >= before + more
    })
    .await;
    node.kill().await;
    load.finish().await;
}

/// The Node on the disk as it now is shows everything.
async fn shows_everything(place: &Place, ledger: &Ledger) {
    let node = place.node("one").start().await;
    node.healthy().await;
    ledger.judge(&history(&node, 1).await);
    node.kill().await;
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}

async fn incarnation(place: &Place) -> String {
    let document = Document::Node("one".to_owned());
    let found = place.bucket().read(&document).await.unwrap().unwrap();
    let node: serde_json::Value = serde_json::from_slice(&found.body).unwrap();
    node["incarnation"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_or_deleted_nothing_is_lost() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    lives(&place, &ledger, 30).await;
    let first = incarnation(&place).await;
    lives(&place, &ledger, 30).await;
    assert_eq!(
        incarnation(&place).await,
        first,
        "a disk that is kept is the same one"
    );
    shows_everything(&place, &ledger).await;
    std::fs::remove_dir_all(place.disk("one")).unwrap();
    lives(&place, &ledger, 30).await;
    assert_ne!(incarnation(&place).await, first);
    shows_everything(&place, &ledger).await;
    judge(&place, &ledger, "one").await;
}

/// The copy of the disk `first` takes the disk's place: the Node does not take it for that, and everything is there.
async fn the_copy_is_set_aside(place: &Place, ledger: &Arc<Ledger>, first: &str) {
    std::fs::remove_dir_all(place.disk("one")).unwrap();
    copy(&place.disk("copy"), &place.disk("one"));
    lives(place, ledger, 20).await;
    assert_ne!(
        incarnation(place).await,
        first,
        "the copy was taken for the disk itself"
    );
    shows_everything(place, ledger).await;
    judge(place, ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_is_noticed_and_set_aside() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    lives(&place, &ledger, 20).await;
    let first = incarnation(&place).await;
    copy(&place.disk("one"), &place.disk("copy"));
    lives(&place, &ledger, 20).await;
    assert_eq!(incarnation(&place).await, first);
    the_copy_is_set_aside(&place, &ledger, &first).await;
}

/// As above, but the Node was on another disk in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h13_an_older_copy_is_noticed_after_another_disk_had_its_name() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    lives(&place, &ledger, 10).await;
    let first = incarnation(&place).await;
    copy(&place.disk("one"), &place.disk("copy"));
    lives(&place, &ledger, 10).await;
    std::fs::remove_dir_all(place.disk("one")).unwrap();
    lives(&place, &ledger, 10).await;
    assert_ne!(incarnation(&place).await, first);
    the_copy_is_set_aside(&place, &ledger, &first).await;
}

/// Flips a bit of the last key in a file of the disk; the first ones may be in a page's waste.
fn spoil(place: &Place, file: &str) {
    let path = place.disk("one").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"load/";
    let at = bytes
        .windows(needle.len())
        .rposition(|window| window == needle);
    bytes[at.expect("it holds a key")] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_in_the_database_is_noticed_and_filled_anew() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    lives(&place, &ledger, 60).await;
    // What the write-ahead log holds would hide what is wrong in the database.
    let database = rusqlite::Connection::open(place.disk("one").join("netsy.db")).unwrap();
    database
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(database);
    let first = incarnation(&place).await;
    spoil(&place, "netsy.db");
    shows_everything(&place, &ledger).await;
    assert_ne!(incarnation(&place).await, first, "the damaged disk went on");
    judge(&place, &ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_database_is_filled_anew() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    lives(&place, &ledger, 20).await;
    let first = incarnation(&place).await;
    std::fs::write(place.disk("one").join("netsy.db"), [7; 10_000]).unwrap();
    shows_everything(&place, &ledger).await;
    assert_ne!(incarnation(&place).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_in_the_write_ahead_log_loses_nothing() {
    let place = Place::on_files();
    let process = Process::start(&place, "one");
    process.ready().await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[process.clients], 4);
    until("there is some load", || async { ledger.done() >= 60 }).await;
    process.signal(rustix::process::Signal::KILL);
    process.ended().await;
    load.finish().await;
    spoil(&place, "netsy.db-wal");
    shows_everything(&place, &ledger).await;
    judge(&place, &ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_acknowledging_and_recovers() {
    let place = Place::on_files();
    // A write beyond what a file may have fails, as on a full disk, instead of ending the process.
    let ignored = "trap '' XFSZ; exec \"$@\"";
    let process = Process::start_under(&place, "one", &["bash", "-c", ignored, "bash"]);
    process.ready().await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[process.clients], 8);
    until("there is some load", || async { ledger.done() >= 40 }).await;
    let limit = |current| {
        let limit = Rlimit {
            current,
            maximum: None,
        };
        prlimit(Some(process.pid()), Resource::Fsize, limit).unwrap();
    };
    limit(Some(8 << 10));
    until("the disk is full", || async {
        process
            .asked()
            .await
            .is_err_and(|said| said.contains("degraded"))
    })
    .await;
    let before = ledger.done();
    assert!(before > 10, "it worked before");
    let mut request = get("k");
    request.serializable = true;
    let read = super::node::kv(process.clients).range(request).await;
    assert!(read.is_ok(), "serializable reads go on: {read:?}");
    limit(None);
    process.ready().await;
    until("writes go on", || async { ledger.done() > before + 20 }).await;
    load.finish().await;
    process.signal(rustix::process::Signal::KILL);
    process.ended().await;
    judge(&place, &ledger, "one").await;
}
