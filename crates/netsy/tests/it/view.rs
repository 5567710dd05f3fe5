//! What the view costs: nanoseconds of processor time for what every request does.
//!
//! Not a test of anything but speed, so ignored. A build without optimisation tells little:
//! `cargo test --release -p netsy --test it view -- --ignored --nocapture`.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use netsy::view::{RangeQuery, SortOrder, SortTarget, Source, View};
use rules::key::KeyRange;
use rules::record::Record;
use rules::revision::{Epoch, Revision};
use rules::txn::{Change, Meta, Newest};

struct Nowhere;

impl Source for Nowhere {
    fn records(&self, _: &[Revision]) -> Result<Vec<Record>, String> {
        Err("nothing is evicted here".to_owned())
    }

    fn history(&self, _: Revision, _: Revision, _: usize) -> Result<Vec<Record>, String> {
        Err("nothing is evicted here".to_owned())
    }
}

/// As Kubernetes names pods: 45 bytes, in no particular order.
fn key(number: u64) -> Bytes {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "/registry/pods/namespace-{:03}/pod-{:012x}",
        scattered % 97,
        scattered >> 16
    )
    .into()
}

fn put(view: &View, number: u64, value: &Bytes) {
    let key = key(number);
    let prev: Option<Meta> = view.newest().meta(&key);
    let change = Change {
        key,
        value: Some(value.clone()),
        lease: 0,
        prev,
    };
    let record = Record::write(&change, view.last().next(), Epoch(1), Arc::from("n"), 0);
    view.append(&record);
    view.release(view.last());
}

/// Processor time of this thread: what other work on the machine does not change much.
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn time(what: &str, times: u64, mut act: impl FnMut(u64)) {
    let start = spent();
    (0..times).for_each(&mut act);
    let each = (spent() - start).as_nanos() / u128::from(times);
    println!("{what:<44} {each:>12} ns");
}

fn page(limit: i64) -> RangeQuery {
    let pods = KeyRange::from_wire("/registry/pods/".into(), "/registry/pods0".into());
    RangeQuery {
        limit,
        ..RangeQuery::all(pods)
    }
}

/// Walks all pages of 500 at one Revision, as a client does. Returns how many there were.
fn walk_pages(view: &View, revision: Revision) -> u64 {
    let mut query = RangeQuery {
        revision: revision.wire(),
        ..page(500)
    };
    let mut pages = 0;
    loop {
        let answer = view.range(&query, view.committed()).expect("readable");
        pages += 1;
        let last = answer.kvs.last().filter(|_| answer.count > 500);
        let Some(last) = last else { return pages };
        query.range.start = [last.key(), b"\0"].concat().into();
    }
}

/// Prints what everything costs over `keys` keys of 1 KB.
pub(crate) fn run(keys: u64) {
    let view = View::new(Arc::new(Nowhere), usize::MAX);
    let value = Bytes::from(vec![7; 1024]);
    println!("{keys} keys, values of {} bytes", value.len());
    time("insert, decided and released", keys, |number| {
        put(&view, number, &value)
    });
    let loaded = view.last();
    time("update, decided and released", keys, |number| {
        put(&view, number * 7 % keys, &value)
    });
    let get = |number| {
        let range = KeyRange::single(key(number * 31 % keys));
        let answer = view.range(&RangeQuery::all(range), view.committed());
        assert_eq!(answer.expect("readable").count, 1);
    };
    time("get", 200_000, get);
    let read = |query: &RangeQuery| {
        black_box(view.range(query, view.committed()).expect("readable"));
    };
    time("page of 500", 2_000, |_| read(&page(500)));
    time("page of 10,000", 100, |_| read(&page(10_000)));
    time("count_only", 2_000, |_| {
        read(&RangeQuery {
            count_only: true,
            ..page(0)
        })
    });
    time("page of 500, newest by mod_revision", 5, |_| {
        let (order, target) = (SortOrder::Descend, SortTarget::Mod);
        read(&RangeQuery {
            order,
            target,
            ..page(500)
        });
    });
    time("everything", 5, |_| read(&page(0)));
    time("everything, keys_only", 5, |_| {
        read(&RangeQuery {
            keys_only: true,
            ..page(0)
        })
    });
    time("page of 500, one update per key ago", 20, |_| {
        read(&RangeQuery {
            revision: loaded.wire(),
            ..page(500)
        });
    });
    time("all pages of 500, at one Revision", 1, |_| {
        black_box(walk_pages(&view, view.committed()));
    });
    with_readers(&view, keys, &value);
    let superseded = view.last().since(Revision(keys));
    println!("{superseded} superseded versions below the floor:");
    time("raising the floor over all of them", 1, |_| {
        view.set_floor(view.committed())
    });
}

/// What appends cost while another thread reads everything, again and again.
fn with_readers(view: &View, keys: u64, value: &Bytes) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                black_box(view.range(&page(0), view.committed()).expect("readable"));
            }
        });
        let mut waits: Vec<Duration> = Vec::new();
        for number in 0..20_000 {
            let start = Instant::now();
            put(view, number * 13 % keys, value);
            waits.push(start.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        waits.sort();
        let at = |share: f64| waits[(waits.len() as f64 * share) as usize];
        println!(
            "update beside full scans: p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    });
}

#[test]
#[ignore = "a measurement"]
fn what_the_view_costs() {
    run(200_000);
}
