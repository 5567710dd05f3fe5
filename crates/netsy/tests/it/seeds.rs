//! Seeds for the fuzz targets: well-formed input of every sort, made by the code that writes it.
//!
//! Every run feeds them to the bodies of the targets, so that these cannot rot. With `NETSY_SEEDS` set to a
//! directory they are written there, one folder per target; `scripts/fuzz` does that.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use netsy::api::proto::etcdserverpb as pb;
use netsy::datafile::{Encoded, Origin, chunk, snapshot};
use netsy::fuzzing;
use prost::Message;
use rules::record::Record;
use rules::revision::{Epoch, Revision};

use crate::etcd::{bytes, delete, get, op, put, read, unchanged_since};

/// A body, its name, and its seeds.
type Target = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

fn targets() -> [Target; 4] {
    [
        ("datafile", fuzzing::datafile, datafiles()),
        ("documents", fuzzing::documents, documents()),
        ("txn", fuzzing::txn, txns()),
        ("range", fuzzing::range, ranges()),
    ]
}

#[test]
fn seeds_pass_their_fuzz_targets() {
    for (name, body, seeds) in targets() {
        for (number, seed) in seeds.iter().enumerate() {
            body(seed);
            if let Some(corpus) = std::env::var_os("NETSY_SEEDS") {
                let folder = Path::new(&corpus).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
            }
        }
    }
}

fn records(value: usize) -> Vec<Encoded> {
    let write = |revision: u64| Record {
        kind: rules::record::Kind::Write,
        key: Bytes::from(format!("/registry/pods/{revision}")),
        value: Bytes::from(vec![b'v'; value]),
        lease: 5,
        ..Record::opening(
            Epoch(3),
            Revision(revision),
            Arc::from("node-a"),
            1_700_000_000_000_000_001,
        )
    };
    let opening = Record::opening(Epoch(3), Revision(1), Arc::from("node-a"), 1);
    [opening, write(2), write(3)].map(Encoded::new).into()
}

fn origin(cluster: &str) -> Origin {
    Origin {
        cluster_id: cluster.into(),
        node_id: "node-a".into(),
        epoch: Epoch(3),
        created_at: 1,
    }
}

/// As the body reads them: the first byte says what the others are.
fn datafiles() -> Vec<Vec<u8>> {
    let seed = |choice: u8, rest: &[u8]| [&[choice][..], rest].concat();
    let mut seeds = Vec::new();
    for size in [3, 6000] {
        let records = records(size);
        let file = chunk::encode(&origin("fuzz"), &records);
        let mut encoder = snapshot::Encoder::new(origin(""), 3, Revision(1));
        records.iter().for_each(|record| encoder.push(record));
        seeds.push(seed(2, &file));
        seeds.push(seed(2, &encoder.finish().unwrap()));
        seeds.push(seed(0, &records[1].bytes));
        seeds.push(seed(1, without_crc(&records[1].bytes)));
    }
    // Headers by field: schema version, kind, compression, count, first Revision.
    for (choice, kind, compression) in [(3, 2, 1), (7, 2, 2), (3, 1, 1), (7, 1, 2)] {
        let header = [0x10, 1, 0x18, kind, 0x20, compression, 0x28, 3, 0x90, 1, 1];
        let mut file = vec![header.len() as u8];
        file.extend(header);
        for record in records(3) {
            let body = without_crc(&record.bytes);
            file.push(u8::try_from(body.len()).unwrap());
            file.extend(body);
        }
        seeds.push(seed(choice, &file));
    }
    seeds
}

/// A Record's encoding behind its crc, which stands first: a tag, then a number.
fn without_crc(bytes: &[u8]) -> &[u8] {
    let last = bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    &bytes[last + 2..]
}

fn documents() -> Vec<Vec<u8>> {
    let identity = r#"{"node_id":"a","incarnation":"i","boot":"b"}"#;
    let mut seeds = Vec::new();
    for (phase, primary) in [
        ("claimed", "null"),
        ("starting", identity),
        ("active", identity),
        ("active", "null"),
    ] {
        seeds.push(format!(
            r#"{{"seq":3,"mark":"m","epoch":2,"primary":{primary},"phase":"{phase}","voters":[{{"node_id":"a","incarnation":"i"}}],"quorum":-1,"lease":2000}}"#
        ));
    }
    for elector in ["null", identity] {
        seeds.push(format!(
            r#"{{"seq":9,"mark":"m","elector_epoch":4,"elector":{elector},"peer_address":"http://h:1"}}"#
        ));
    }
    seeds.push(r#"{"seq":1,"mark":"m","cluster_id":"c","members":{"a":1,"b":2}}"#.into());
    seeds.push(
        r#"{"seq":1,"mark":"m","node_id":"a","incarnation":"i","boot_seq":7,"version":"0.1.0","client_urls":["http://h:1"],"peer_urls":[]}"#
            .into(),
    );
    seeds.into_iter().map(String::into_bytes).collect()
}

fn txns() -> Vec<Vec<u8>> {
    let deep = op(pb::request_op::Request::RequestTxn(
        pb::TxnRequest::default(),
    ));
    let read = read(get("a"));
    let txn = |success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>| pb::TxnRequest {
        compare: vec![unchanged_since("a", 3)],
        success,
        failure,
    };
    let requests = [
        txn(vec![put("a", "3")], vec![read.clone()]),
        txn(vec![delete("a"), read.clone()], vec![put("z", "1")]),
        txn(vec![], vec![read, put("b", "x")]),
        txn(vec![put("a", "1"), put("b", "2")], vec![deep]),
        pb::TxnRequest::default(),
    ];
    requests.iter().map(Message::encode_to_vec).collect()
}

fn ranges() -> Vec<Vec<u8>> {
    let all = pb::RangeRequest {
        range_end: bytes("\0"),
        ..get("\0")
    };
    let requests = [
        get("a"),
        pb::RangeRequest {
            revision: 3,
            ..get("a")
        },
        pb::RangeRequest {
            limit: 1,
            sort_order: 2,
            sort_target: 3,
            ..all.clone()
        },
        pb::RangeRequest {
            count_only: true,
            ..all.clone()
        },
        pb::RangeRequest {
            keys_only: true,
            min_mod_revision: 3,
            max_create_revision: 5,
            ..all
        },
        pb::RangeRequest {
            range_end: bytes("c"),
            revision: 99,
            ..get("a")
        },
    ];
    requests.iter().map(Message::encode_to_vec).collect()
}
