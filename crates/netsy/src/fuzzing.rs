//! What the fuzz targets run: any bytes into each reader of foreign bytes, and what must hold of the answer.
//!
//! A body panics if something does not hold. The targets in `fuzz/` only call these, and so does an
//! ordinary test with their seeds, so that they cannot rot. Random bytes never carry a right crc; where one
//! is needed it is put there, and the fuzzer is free to choose the rest. No part of the product calls this.

use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use parking_lot::Mutex;
use prost::Message;
use rules::chain::Log;
use rules::key::KeyRange;
use rules::node::Node;
use rules::record::{Kind, Record};
use rules::register::{Held, Identity, Lock, Register, Swapped, Version};
use rules::revision::{Epoch, Revision};
use rules::settings::Settings;
use rules::step::Input;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::proto::etcdserverpb::{RangeRequest, TxnRequest};
use crate::api::{range as wire_range, status, txn as wire_txn};
use crate::datafile::{Encoded, chunk, record, snapshot};
use crate::driver::{Members, Registration};
use crate::view::{RangeQuery, Source, View};

const CLUSTER: &str = "fuzz";

/// The .netsy reader. The first byte chooses: a Record, a file as it is, or a file whose messages get right
/// crcs, frames and footer.
pub fn datafile(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    match choice % 4 {
        0 => a_record(&Bytes::copy_from_slice(data)),
        1 => a_record(&with_crc(1, data)),
        2 => a_file(&Bytes::copy_from_slice(data)),
        _ => a_file(&file_of(choice / 4, data)),
    }
}

/// What was read is written again, and reads the same.
fn a_record(bytes: &Bytes) {
    let Ok(read) = record::decode(bytes) else {
        return;
    };
    let again = record::encode(&read);
    assert_eq!(record::decode(&again).as_ref(), Ok(&read));
    assert_eq!(record::encode(&read), again);
}

/// A Chunk and a Snapshot that are read can be written, and reading does not depend on how bytes arrive.
fn a_file(bytes: &Bytes) {
    for name in [1, 2, u64::MAX / 2] {
        let object = format!("{name:019}.netsy");
        let Ok(read) = chunk::decode(&object, bytes, CLUSTER) else {
            continue;
        };
        let first = read.records[0].record.revision;
        assert_eq!(first, Revision(name));
        for (one, place) in read.records.iter().zip(first.0..) {
            assert_eq!(one.record.revision, Revision(place));
        }
        let again = chunk::encode(&read.origin, &read.records);
        let again = chunk::decode(&object, &again, CLUSTER).expect("what we write can be read");
        assert_eq!(again.records, read.records);
        assert_eq!(again.origin, read.origin);
    }
    let whole = a_snapshot(bytes, bytes.len().max(1));
    let sips = a_snapshot(bytes, 7);
    assert_eq!(
        whole, sips,
        "a snapshot reads the same however its bytes arrive"
    );
    let Some((summary, records)) = whole else {
        return;
    };
    let count = records.len() as u64;
    let mut encoder = snapshot::Encoder::new(summary.origin.clone(), count, summary.first);
    records.iter().for_each(|record| encoder.push(record));
    let again = encoder.finish().expect("as many records as announced");
    let (_, again) = a_snapshot(&again, 4096).expect("what we write can be read");
    assert_eq!(again, records);
}

fn a_snapshot(bytes: &Bytes, step: usize) -> Option<(snapshot::Summary, Vec<Encoded>)> {
    let mut decoder = snapshot::Decoder::new("fuzz.netsy", CLUSTER);
    let mut records = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        while let Some(batch) = decoder.take().ok()? {
            records.extend(batch);
        }
    }
    decoder.finish().ok().map(|summary| (summary, records))
}

/// A file of `data`'s messages, each one length byte and a body: the header, then Records.
fn file_of(flags: u8, data: &[u8]) -> Bytes {
    let mut bodies = Vec::new();
    let mut rest = data;
    while let Some((length, after)) = rest.split_first() {
        let (body, after) = after.split_at(usize::from(*length).min(after.len()));
        bodies.push(body);
        rest = after;
    }
    let Some((header, records)) = bodies.split_first() else {
        return Bytes::new();
    };
    let records: Vec<Bytes> = records.iter().map(|body| with_crc(1, body)).collect();
    let revision = |bytes: &Bytes| record::decode(bytes).map_or(0, |one| one.revision.0);
    let covered: Vec<u8> = bodies[1..].concat();
    let mut footer = Vec::new();
    for (tag, value) in [
        (0x10, checksum(CrcAlgorithm::Crc64Xz, &covered)),
        (0x18, records.first().map_or(0, revision)),
        (0x20, records.last().map_or(0, revision)),
    ] {
        footer.push(tag);
        put_varint(&mut footer, value);
    }
    let mut after = Vec::new();
    records
        .iter()
        .for_each(|record| put_framed(&mut after, record));
    put_framed(&mut after, &with_crc(8, &footer));
    let mut file = Vec::new();
    put_framed(&mut file, &with_crc(1, header));
    let packed = if flags & 1 == 1 {
        zstd::encode_all(&after[..], 1).ok()
    } else {
        None
    };
    file.extend_from_slice(packed.as_deref().unwrap_or(&after));
    Bytes::from(file)
}

/// `body` behind a right crc in the number field `field`.
fn with_crc(field: u8, body: &[u8]) -> Bytes {
    let mut message = vec![field << 3];
    put_varint(&mut message, checksum(CrcAlgorithm::Crc64Xz, body));
    message.extend_from_slice(body);
    Bytes::from(message)
}

fn put_framed(out: &mut Vec<u8>, message: &[u8]) {
    put_varint(out, message.len() as u64);
    out.extend_from_slice(message);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The documents of the bucket: what can be read can be written, and no Node stumbles over it.
pub fn documents(data: &[u8]) {
    reads_as::<Members>(data);
    reads_as::<Registration>(data);
    let (lock, register) = (reads_as::<Lock>(data), reads_as::<Register>(data));
    if lock.is_some() || register.is_some() {
        a_node_meets(lock, register);
    }
}

fn reads_as<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    data: &[u8],
) -> Option<T> {
    let read: T = serde_json::from_slice(data).ok()?;
    let body = serde_json::to_vec(&read).expect("plain structs always serialise");
    assert_eq!(
        serde_json::from_slice::<T>(&body).ok().as_ref(),
        Some(&read)
    );
    Some(read)
}

/// A Node finds these in the bucket, wins every swap, and lives through some minutes.
fn a_node_meets(lock: Option<Lock>, register: Option<Register>) {
    let me = Identity {
        node_id: "a".into(),
        incarnation: "i".into(),
        boot: "b".into(),
    };
    let held = |mark: &str| Version(mark.into());
    let log = Log::default();
    let mut node = Node::new(
        me,
        Settings::default(),
        log,
        Epoch::ZERO,
        String::new(),
        (1, 7),
    );
    let lock = lock.map(|document| Held {
        version: held(&document.mark),
        document,
    });
    let register = register.map(|document| Held {
        version: held(&document.mark),
        document,
    });
    for minute in 1..4_u64 {
        let now = minute * 60_000;
        for input in [
            Input::LockRead(Ok(lock.clone())),
            Input::LockSwapped(Swapped::Won(held("lock"))),
            Input::RegisterRead(Ok(register.clone())),
            Input::RegisterSwapped(Swapped::Lost(register.clone())),
            Input::Tick,
            Input::RegisterSwapped(Swapped::Won(held("register"))),
        ] {
            node.step(now, 1, input);
        }
    }
}

/// A Txn from the wire: refused or decided without a panic, and what is decided can be assigned.
pub fn txn(data: &[u8]) {
    let Ok(request) = TxnRequest::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let wanted = match wire_txn::from_wire(&request) {
        Ok(wanted) => wanted,
        Err(refusal) => return drop(status::of(&refusal)),
    };
    let checked = wanted
        .check()
        .and_then(|()| wire_txn::check_sorting(&request));
    if let Err(refusal) = checked {
        return drop(status::of(&refusal));
    }
    let (view, written) = small_view();
    let decision = match wanted.decide(&view.newest()) {
        Ok(decision) => decision,
        Err(refused) => {
            assert_eq!(refused.base, view.committed());
            return drop(status::of(&refused.refusal));
        }
    };
    assert_eq!(decision.base, view.committed());
    let Some((place, change)) = decision.change else {
        return;
    };
    let branch = if decision.succeeded {
        &request.success
    } else {
        &request.failure
    };
    assert!(
        place < branch.len(),
        "the mutation stands in the branch taken"
    );
    let revision = decision.base.next();
    let record = Record::write(&change, revision, Epoch(2), "a".into(), 1);
    let bytes = record::encode(&record);
    assert_eq!(record::decode(&bytes).as_ref(), Ok(&record));
    written.0.lock().push(record.clone());
    view.append(&record);
    view.release(revision);
    let found = view.range(
        &RangeQuery::all(KeyRange::single(change.key.clone())),
        revision,
    );
    let found = found.expect("a committed change can be read").kvs;
    let value = found.first().map(crate::view::KeyValue::value);
    assert_eq!(value, change.value.as_deref());
}

/// A Range from the wire: refused, or answered within its own limits.
pub fn range(data: &[u8]) {
    let Ok(request) = RangeRequest::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let query = match wire_range::query(&request) {
        Ok(query) => query,
        Err(refusal) => return drop(status::of(&refusal)),
    };
    let (view, _) = small_view();
    let answer = match view.range(&query, view.committed()) {
        Ok(answer) => answer,
        Err(refusal) => return drop(status::of(&refusal)),
    };
    let many = answer.kvs.len() as i64;
    assert!(answer.count >= many, "count is of the whole range");
    assert!(query.limit <= 0 || many <= query.limit);
    assert!(!query.count_only || many == 0);
    assert!(answer.kvs.iter().all(|kv| query.range.contains(kv.key())));
    assert!(!query.keys_only || answer.kvs.iter().all(|kv| kv.value().is_empty()));
}

/// Some keys with history, one deleted, and values that are in memory only in part.
fn small_view() -> (View, Arc<Written>) {
    let source = Arc::new(Written(Mutex::new(written())));
    let view = View::new(source.clone(), 8);
    for record in written() {
        view.append(&record);
    }
    view.release(view.last());
    (view, source)
}

fn written() -> Vec<Record> {
    let write =
        |revision: u64, key: &'static str, value: &'static str, before: Option<(u64, u64)>| {
            let (create, prev) = before.unwrap_or((revision, 0));
            Record {
                kind: Kind::Write,
                key: Bytes::from_static(key.as_bytes()),
                value: Bytes::from_static(value.as_bytes()),
                created: before.is_none(),
                deleted: value.is_empty(),
                create_revision: Revision(create),
                prev_revision: Revision(prev),
                version: if value.is_empty() {
                    0
                } else {
                    1 + u64::from(before.is_some())
                },
                ..Record::opening(Epoch(1), Revision(revision), "a".into(), 1)
            }
        };
    vec![
        Record::opening(Epoch(1), Revision(1), "a".into(), 1),
        write(2, "a", "one", None),
        write(3, "a", "two", Some((2, 2))),
        write(4, "b", "other", None),
        write(5, "b", "", Some((4, 4))),
        write(6, "c/d", "long enough to be evicted", None),
    ]
}

/// The Records again, for values that are not in memory.
struct Written(Mutex<Vec<Record>>);

impl Source for Written {
    fn records(&self, revisions: &[Revision]) -> Result<Vec<Record>, String> {
        let wanted = |record: &&Record| revisions.contains(&record.revision);
        Ok(self.0.lock().iter().filter(wanted).cloned().collect())
    }

    fn history(&self, after: Revision, upto: Revision, max: usize) -> Result<Vec<Record>, String> {
        let wanted = |record: &&Record| record.revision > after && record.revision <= upto;
        Ok(self
            .0
            .lock()
            .iter()
            .filter(wanted)
            .take(max)
            .cloned()
            .collect())
    }
}
