//! Keys whose lease has run out: deleted late and never early, by whoever is Primary, and only where
//! `leases.expire` is on.
//!
//! That nothing went early is shown by the clients' own clocks: from before a key was written until a watch was
//! told that it is gone. That something stays is shown beside a key that was written later, and went.

use std::time::{Duration, Instant};

use futures::StreamExt;
use netsy::api::lease;
use netsy::api::proto::etcdserverpb::lease_client::LeaseClient;
use netsy::api::proto::etcdserverpb::request_op::Request as Op;
use netsy::api::proto::etcdserverpb::watch_client::WatchClient;
use netsy::api::proto::etcdserverpb::watch_request::RequestUnion;
use netsy::api::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, PutRequest, TxnRequest, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use netsy::bucket::faults::Fault;
use netsy::view::KeyValue;
use rules::expiry;
use tonic::Streaming;

use super::compaction::given;
use super::node::{PATIENCE, Place, Running, Setup, channel, until};
use crate::etcd::{bytes, get, op, prefix, revision};

/// The shortest there is, in seconds.
const TTL: i64 = 2;
/// Long enough for a few calls on a machine that is busy with other things.
const LONGER: i64 = 8;

fn expiring(setup: Setup) -> Setup {
    setup.with(|config| config.leases.expire = true)
}

async fn granted(node: &Running, ttl: i64, id: i64) -> LeaseGrantResponse {
    let mut leases = LeaseClient::new(channel(node.clients));
    let granted = leases.lease_grant(LeaseGrantRequest { ttl, id }).await;
    granted.unwrap().into_inner()
}

/// The id of a lease of `ttl` seconds.
async fn grant(node: &Running, ttl: i64) -> i64 {
    granted(node, ttl, 0).await.id
}

/// Puts with a lease. When that began, and the Revision.
async fn write(node: &Running, key: &str, lease: i64) -> (Instant, i64) {
    let began = Instant::now();
    let put = PutRequest {
        key: bytes(key),
        value: bytes("v"),
        lease,
        ..PutRequest::default()
    };
    let request = TxnRequest {
        success: vec![op(Op::RequestPut(put))],
        ..TxnRequest::default()
    };
    (began, revision(&node.kv().txn(request).await.unwrap()))
}

/// What a watch was told of a key that is gone.
struct Gone {
    key: String,
    at: Instant,
    revision: i64,
    before: KeyValue,
}

impl Gone {
    /// It was there for at least `seconds` since `began`.
    fn lived(&self, began: Instant, seconds: i64) {
        let lived = self.at - began;
        let least = Duration::from_secs(seconds.unsigned_abs());
        assert!(lived >= least, "`{}` went after {lived:?}", self.key);
    }
}

/// A watch of all keys that is told of deletes alone.
struct Deletes {
    answers: Streaming<WatchResponse>,
    told: std::vec::IntoIter<Gone>,
}

impl Deletes {
    async fn from(node: &Running) -> Deletes {
        let create = WatchCreateRequest {
            key: bytes("\0"),
            range_end: bytes("\0"),
            start_revision: 1,
            filters: vec![0],
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let requests = futures::stream::iter([request]).chain(futures::stream::pending());
        let mut client = WatchClient::new(channel(node.clients));
        let mut answers = client.watch(requests).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
        let told = Vec::new().into_iter();
        Deletes { answers, told }
    }

    async fn next(&mut self) -> Gone {
        loop {
            if let Some(gone) = self.told.next() {
                return gone;
            }
            let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
            let answer = answer.expect("a key goes").unwrap().unwrap();
            let at = Instant::now();
            let told = answer.events.into_iter().map(|event| {
                let (kv, before) = (event.kv.unwrap(), event.prev_kv.unwrap());
                Gone {
                    key: String::from_utf8(kv.key().to_vec()).unwrap(),
                    at,
                    revision: kv.mod_revision(),
                    before,
                }
            });
            self.told = told.collect::<Vec<_>>().into_iter();
        }
    }
}

/// The number at the end of a line of `/metrics`.
async fn metric(node: &Running, name: &str) -> u64 {
    let url = format!("http://{}/metrics", node.health);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name));
    let number = line.and_then(|line| line.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap()
}

/// All keys there are, and the Revision.
async fn there(node: &Running) -> (Vec<String>, i64) {
    let answer = node.kv().range(prefix("key/")).await.unwrap();
    let keys = answer.kvs.iter();
    let keys = keys.map(|kv| String::from_utf8(kv.key().to_vec()).unwrap());
    (keys.collect(), answer.header.unwrap().revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_goes_when_its_lease_has_run_out_and_watches_are_told() {
    let place = Place::new();
    let node = expiring(place.node("one")).start().await;
    node.healthy().await;
    let (_, plain) = write(&node, "key/plain", 0).await;
    let named = granted(&node, TTL, 4711).await;
    let lease = granted(&node, 1, 0).await;
    assert_eq!((named.id, named.ttl), (4711, TTL));
    assert_eq!((lease::ttl(lease.id), lease.ttl), (Some(TTL), TTL));
    assert_eq!(
        lease.header.unwrap().revision,
        plain,
        "no revision is used up"
    );
    write(&node, "key/named", named.id).await;
    let (began, written) = write(&node, "key/leased", lease.id).await;
    until("it is scheduled, or gone already", || async {
        metric(&node, "netsy_expiring_keys").await == 1
            || metric(&node, "netsy_expired_keys_total").await == 1
    })
    .await;

    let gone = Deletes::from(&node).await.next().await;
    assert_eq!(gone.key, "key/leased");
    gone.lived(began, TTL);
    assert_eq!(gone.revision, written + 1);
    let before = gone.before;
    assert_eq!((before.lease(), before.mod_revision()), (lease.id, written));
    assert_eq!(before.value(), b"v");
    let (keys, last) = there(&node).await;
    assert_eq!(keys, ["key/named", "key/plain"]);
    assert_eq!(last, written + 1);
    assert_eq!(metric(&node, "netsy_expired_keys_total").await, 1);
    until("nothing is scheduled", || async {
        metric(&node, "netsy_expiring_keys").await == 0
    })
    .await;
    let (_, again) = write(&node, "key/leased", 0).await;
    assert_eq!(again, last + 1);
    let found = node.kv().range(get("key/leased")).await.unwrap();
    assert_eq!(found.kvs[0].version(), 1, "it was created anew");
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_of_a_shared_lease_lives_its_time_from_its_own_write() {
    let place = Place::new();
    let node = expiring(place.node("one")).start().await;
    node.healthy().await;
    let lease = grant(&node, TTL).await;
    let mut written = Vec::new();
    for number in 0..8 {
        let key = format!("key/{number}");
        let (began, _) = write(&node, &key, lease).await;
        written.push((key, began));
        tokio::time::sleep(Duration::from_millis(137)).await;
    }
    let mut deletes = Deletes::from(&node).await;
    for (key, began) in written {
        let gone = deletes.next().await;
        assert_eq!(gone.key, key, "in the order they were written");
        gone.lived(began, TTL);
    }
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_written_again_lives_as_that_write_says() {
    let place = Place::new();
    let node = expiring(place.node("one")).start().await;
    node.healthy().await;
    let lease = grant(&node, LONGER).await;
    for key in ["none", "longer", "again", "kept", "created"] {
        write(&node, &format!("key/{key}"), lease).await;
    }
    write(&node, "key/none", 0).await;
    write(&node, "key/longer", grant(&node, 3600).await).await;
    node.kv().delete("key/created").await;
    write(&node, "key/created", 0).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (again, _) = write(&node, "key/again", grant(&node, LONGER).await).await;
    let keeps = PutRequest {
        key: bytes("key/kept"),
        value: bytes("w"),
        ignore_lease: true,
        ..PutRequest::default()
    };
    let kept = Instant::now();
    let request = TxnRequest {
        success: vec![op(Op::RequestPut(keeps))],
        ..TxnRequest::default()
    };
    node.kv().txn(request).await.unwrap();
    write(&node, "key/last", lease).await;

    let mut deletes = Deletes::from(&node).await;
    assert_eq!(deletes.next().await.key, "key/created", "by its client");
    for (key, began) in [("key/again", again), ("key/kept", kept)] {
        let gone = deletes.next().await;
        assert_eq!(gone.key, key);
        gone.lived(began, LONGER);
    }
    assert_eq!(deletes.next().await.key, "key/last");
    let (keys, _) = there(&node).await;
    assert_eq!(keys, ["key/created", "key/longer", "key/none"]);
    assert_eq!(metric(&node, "netsy_expiring_keys").await, 1);
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_nothing_happens_and_what_was_granted_then_never_expires() {
    let (place, other) = (Place::new(), Place::new());
    let on = expiring(other.node("on")).start().await;
    let off = place.node("off").start().await;
    on.healthy().await;
    off.healthy().await;
    let plain = grant(&off, TTL).await;
    assert_eq!((lease::ttl(plain), expiry::ttl(plain)), (Some(TTL), None));
    let sealed = grant(&on, TTL).await;
    assert_eq!(expiry::ttl(sealed), Some(TTL));
    write(&off, "key/plain", plain).await;
    let (_, last) = write(&off, "key/sealed", sealed).await;
    write(&on, "key/sealed", sealed).await;
    Deletes::from(&on).await.next().await;
    on.kill().await;
    assert_eq!(
        there(&off).await,
        (vec!["key/plain".to_owned(), "key/sealed".to_owned()], last)
    );
    assert_eq!(metric(&off, "netsy_expiring_keys").await, 0);
    off.stop().await.unwrap();

    let began = Instant::now();
    let on = expiring(place.node("off")).start().await;
    on.healthy().await;
    let gone = Deletes::from(&on).await.next().await;
    assert_eq!(gone.key, "key/sealed");
    gone.lived(began, TTL);
    assert_eq!(there(&on).await.0, ["key/plain"]);
    on.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_the_time_anew_with_and_without_the_disk() {
    let place = Place::new();
    let node = expiring(place.node("one")).start().await;
    node.healthy().await;
    let lease = grant(&node, LONGER).await;
    for number in 0..20 {
        write(&node, &format!("key/{number:02}"), lease).await;
    }
    node.kill().await;
    let node = expiring(place.node("one")).start().await;
    node.healthy().await;
    node.kv().delete("key/00").await;
    node.stop().await.unwrap();
    std::fs::remove_dir_all(place.disk("one")).unwrap();

    let began = Instant::now();
    let node = expiring(place.node("one")).start().await;
    node.healthy().await;
    let mut deletes = Deletes::from(&node).await;
    assert_eq!(deletes.next().await.key, "key/00", "by its client");
    for number in 1..20 {
        let gone = deletes.next().await;
        assert_eq!(gone.key, format!("key/{number:02}"));
        gone.lived(began, LONGER);
    }
    assert_eq!(there(&node).await.0, Vec::<String>::new());
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_primary_deletes_what_any_node_granted() {
    let place = Place::new();
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(expiring(place.member(name)).start().await);
    }
    for node in &nodes {
        node.healthy().await;
    }
    let leader = nodes[0].status().await.leader;
    let mut primary = 0;
    for (index, node) in nodes.iter().enumerate() {
        if node.status().await.header.unwrap().member_id == leader {
            primary = index;
        }
    }
    let primary = nodes.remove(primary);
    // One Replica grants, the other writes; and what the Primary deletes, a Replica's watch is told.
    let (began, _) = write(&nodes[1], "key/first", grant(&nodes[0], TTL).await).await;
    let mut deletes = Deletes::from(&nodes[0]).await;
    let gone = deletes.next().await;
    assert_eq!(gone.key, "key/first");
    gone.lived(began, TTL);
    assert_eq!(metric(&primary, "netsy_expired_keys_total").await, 1);

    let lease = grant(&nodes[0], LONGER).await;
    write(&nodes[1], "key/third", lease).await;
    write(&nodes[1], "key/third", 0).await;
    write(&nodes[1], "key/second", lease).await;
    let killed = Instant::now();
    primary.kill().await;
    let gone = deletes.next().await;
    assert_eq!(gone.key, "key/second");
    gone.lived(killed, LONGER);
    let expired = metric(&nodes[0], "netsy_expired_keys_total").await
        + metric(&nodes[1], "netsy_expired_keys_total").await;
    assert_eq!(expired, 1);
    for node in &nodes {
        assert_eq!(there(node).await.0, ["key/third"]);
    }
    for node in nodes {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_are_due_at_once_leave_room_for_clients() {
    let place = Place::new();
    // Until the setting is on, they stay.
    let node = place.node("one").start().await;
    node.healthy().await;
    let lease = expiry::id(LONGER, 0);
    let writers = (0..20).map(|writer| {
        let node = &node;
        async move {
            for number in 0..20 {
                write(node, &format!("key/{writer}/{number}"), lease).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    node.stop().await.unwrap();

    let setup = expiring(place.node("one")).with(|config| config.limits.pending_writes = 40);
    setup.sky.set(|_| Fault::Delay(Duration::from_millis(50)));
    let node = setup.start().await;
    node.healthy().await;
    let give_up = Instant::now() + 2 * PATIENCE;
    let (mut most, mut written) = (0, 0);
    while metric(&node, "netsy_expired_keys_total").await < 400 {
        assert!(
            Instant::now() < give_up,
            "waited in vain until all are gone"
        );
        // Nobody is told that too much waits.
        node.kv().put("client", "v").await;
        written += 1;
        most = most.max(metric(&node, "netsy_pending_writes").await);
    }
    assert!(written > 3, "{written} writes meanwhile");
    assert!(most <= 11, "{most} waited");
    assert_eq!(there(&node).await.0, Vec::<String>::new());
    node.kill().await;
}

/// Many keys that are due at once, as after a night without a Primary, go beside a client that writes:
///
/// `cargo test --release -p netsy --test it -- --ignored --nocapture keys_expire_beside`
///
/// `KEYS` scales it down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_million_keys_expire_beside_a_client() {
    let keys = given("KEYS", 1_000_000);
    let place = Place::on_files();
    let patient = |setup: Setup| setup.with(|config| config.elector.timeout = PATIENCE);
    let node = patient(place.node("one")).start().await;
    node.healthy().await;
    let lease = expiry::id(5, 0);
    let writers = (0..64).map(|writer| {
        let node = &node;
        async move {
            for number in (writer..keys).step_by(64) {
                write(node, &format!("key/of-a-usual-length/{number:08}"), lease).await;
            }
        }
    });
    let began = Instant::now();
    futures::future::join_all(writers).await;
    println!("{keys} keys in {:?}, rss {}", began.elapsed(), resident());
    node.stop().await.unwrap();

    let began = Instant::now();
    let node = patient(expiring(place.node("one"))).start().await;
    println!(
        "healthy after {:?}, rss {}",
        node.healthy().await,
        resident()
    );
    let (mut slowest, mut whole, mut first, mut said) = (Duration::ZERO, None, None, 0);
    let mut gone = 0;
    while gone < keys {
        let before = Instant::now();
        node.kv().put("client", "v").await;
        slowest = slowest.max(before.elapsed());
        gone = metric(&node, "netsy_expired_keys_total").await;
        let scheduled = metric(&node, "netsy_expiring_keys").await;
        if whole.is_none() && (scheduled + gone == keys) {
            whole = Some(began.elapsed());
            println!("scheduled after {whole:?}, rss {}", resident());
        }
        if gone > 0 {
            first.get_or_insert_with(Instant::now);
        }
        if before.duration_since(began).as_secs() >= said {
            said += 5;
            let seconds = began.elapsed().as_secs();
            println!("{seconds:>4} s: {gone} gone, slowest put {slowest:?}");
            slowest = Duration::ZERO;
        }
    }
    let took = first.map(|first| first.elapsed()).unwrap_or_default();
    println!("{:.0} keys a second", keys as f64 / took.as_secs_f64());
    node.stop().await.unwrap();
}

/// What this process has in memory.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap_or_default()
        .replace("VmRSS:", "")
        .trim()
        .to_owned()
}
