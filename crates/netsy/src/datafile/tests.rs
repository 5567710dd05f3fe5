//! The format against prost, against the ancestor's bytes, and against every kind of damage.
//!
//! Also where other rooms' tests get their Records from.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};

use super::*;

/// A write of a small value at `revision` in `epoch`.
pub(crate) fn write(revision: u64, epoch: u64) -> Encoded {
    sized(revision, epoch, 20)
}

/// A write of `size` bytes of value that do not compress to nothing.
pub(crate) fn sized(revision: u64, epoch: u64, size: usize) -> Encoded {
    let mut word = revision.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let value: Vec<u8> = (0..size)
        .map(|_| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            b'a' + (word % 26) as u8
        })
        .collect();
    Encoded::new(Record {
        revision: Revision(revision),
        epoch: Epoch(epoch),
        kind: Kind::Write,
        key: Bytes::from(format!("/registry/pods/{}", revision % 97)),
        value: Bytes::from(value),
        created: true,
        deleted: false,
        create_revision: Revision(revision),
        prev_revision: Revision::ZERO,
        version: 1,
        lease: 0,
        created_at: 1_700_000_000_000_000_000 + revision as i64,
        leader_id: Arc::from("node-a"),
    })
}

/// The Record that opens `epoch` at `revision`.
pub(crate) fn opening(revision: u64, epoch: u64) -> Encoded {
    Encoded::new(Record::opening(
        Epoch(epoch),
        Revision(revision),
        Arc::from("node-a"),
        1,
    ))
}

fn origin() -> Origin {
    Origin {
        cluster_id: "blue".to_owned(),
        node_id: "node-a".to_owned(),
        epoch: Epoch(3),
        created_at: 1_700_000_000_123_456_789,
    }
}

fn name(revision: u64) -> String {
    format!("chunks/{revision:019}.netsy")
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn any_record() -> impl Strategy<Value = Record> {
    let place = (1..=i64::MAX as u64, any::<u64>(), 0..3_u8);
    let content = (vec(any::<u8>(), 1..40), vec(any::<u8>(), 0..300), ".{0,8}");
    let numbers = (
        0..=i64::MAX as u64,
        0..=i64::MAX as u64,
        0..=i64::MAX as u64,
    );
    let rest = (any::<bool>(), any::<bool>(), any::<i64>(), any::<i64>());
    (place, content, numbers, rest).prop_map(|(place, content, numbers, rest)| Record {
        revision: Revision(place.0),
        epoch: Epoch(place.1),
        kind: [Kind::Write, Kind::Epoch, Kind::Compaction][usize::from(place.2)],
        key: Bytes::from(content.0),
        value: Bytes::from(content.1),
        created: rest.0,
        deleted: rest.1,
        create_revision: Revision(numbers.0),
        prev_revision: Revision(numbers.1),
        version: numbers.2,
        lease: rest.2,
        created_at: rest.3,
        leader_id: Arc::from(content.2.as_str()),
    })
}

/// Contiguous Records with small numbers, which take few bytes on the wire, among them.
fn any_log() -> impl Strategy<Value = Vec<Encoded>> {
    (1..1000_u64, vec(any_record(), 1..12)).prop_map(|(first, records)| {
        let renumber = |(index, record)| {
            let index: usize = index;
            Encoded::new(Record {
                revision: Revision(first + index as u64),
                epoch: Epoch(7 + index as u64 / 4),
                ..record
            })
        };
        records.into_iter().enumerate().map(renumber).collect()
    })
}

fn by_prost(record: &Record) -> Vec<u8> {
    let mut message = proto::Record {
        crc: 0,
        revision: record.revision.wire(),
        key: record.key.clone(),
        created: record.created,
        deleted: record.deleted,
        create_revision: record.create_revision.wire(),
        prev_revision: record.prev_revision.wire(),
        version: record.version as i64,
        lease: record.lease,
        dek: 0,
        value: record.value.clone(),
        created_at: (record.created_at != 0).then(|| prost_types::Timestamp {
            seconds: record.created_at.div_euclid(1_000_000_000),
            nanos: record.created_at.rem_euclid(1_000_000_000) as i32,
        }),
        compacted_at: None,
        leader_id: record.leader_id.to_string(),
        replicated_at: None,
        epoch: record.epoch.0,
        kind: match record.kind {
            Kind::Write => 0,
            Kind::Epoch => 1,
            Kind::Compaction => 2,
        },
    };
    message.crc = wire::crc(&message.encode_to_vec());
    message.encode_to_vec()
}

fn snapshot_of(records: &[Encoded]) -> Bytes {
    let first = records
        .first()
        .map_or(Revision::ZERO, |first| first.record.revision);
    let mut encoder = snapshot::Encoder::new(origin(), records.len() as u64, first);
    let mut out = Vec::new();
    for record in records {
        encoder.push(record);
        out.extend_from_slice(&encoder.take());
    }
    out.extend_from_slice(&encoder.finish().unwrap());
    Bytes::from(out)
}

fn read_snapshot(
    object: &str,
    bytes: &[u8],
    step: usize,
) -> Result<(Vec<Encoded>, snapshot::Summary), Damaged> {
    let mut decoder = snapshot::Decoder::new(object, "blue");
    let mut records = Vec::new();
    for part in bytes.chunks(step) {
        decoder.push(part);
        while let Some(batch) = decoder.take()? {
            records.extend(batch);
        }
    }
    Ok((records, decoder.finish()?))
}

proptest! {
    #[test]
    fn a_record_is_what_prost_writes_and_comes_back(record in any_record()) {
        let bytes = encode_checked(&record);
        prop_assert_eq!(&bytes[..], &by_prost(&record)[..]);
        prop_assert_eq!(record::decode(&bytes), Ok(record));
    }

    #[test]
    fn a_chunk_comes_back(log in any_log()) {
        let bytes = chunk::encode(&origin(), &log);
        prop_assert_eq!(&bytes, &chunk::encode(&origin(), &log));
        let chunk = chunk::decode(&name(log[0].record.revision.0), &bytes, "blue").unwrap();
        prop_assert_eq!(chunk.origin, origin());
        prop_assert_eq!(chunk.records, log);
    }

    #[test]
    fn a_snapshot_comes_back_whatever_the_steps(
        log in any_log(), keep in vec(any::<bool>(), 12), step in 1..200_usize,
    ) {
        let kept: Vec<_> =
            log.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(record, _)| record).collect();
        let bytes = snapshot_of(&kept);
        let (records, summary) = read_snapshot("bootstrap.netsy", &bytes, step).unwrap();
        prop_assert_eq!(summary.count, kept.len() as u64);
        prop_assert_eq!(summary.origin, origin());
        prop_assert_eq!(records, kept);
    }

    #[test]
    fn noise_is_an_error_and_nothing_worse(noise in vec(any::<u8>(), 0..300), cut in 0..100_usize) {
        let bytes = Bytes::from(noise);
        prop_assert!(record::decode(&bytes).is_err());
        prop_assert!(chunk::decode(&name(1), &bytes, "blue").is_err());
        prop_assert!(read_snapshot(&name(1), &bytes, 7).is_err());
        // Noise behind a good header.
        let mut file = chunk::encode(&origin(), &[write(1, 1)]).to_vec();
        file.truncate(cut.max(60));
        file.extend_from_slice(&bytes);
        prop_assert!(chunk::decode(&name(1), &Bytes::from(file), "blue").is_err());
    }
}

fn encode_checked(record: &Record) -> Bytes {
    let bytes = record::encode(record);
    assert!(bytes.len() <= MESSAGE_CAP);
    bytes
}

#[test]
fn the_ancestors_chunk_is_read() {
    let file = unhex(
        "210880f1a5c5ccec80c78f0118022001280132066e6f64652d613a060880e2cfaa06
         2b0887c8d3a3ee90d696fc0110011a065f6e6574737920013001400162060880e2cfaa0672066e6f64652d61
         191087c8d3a3ee90d696fc011801200140fac59380d2aca0ad3a",
    );
    let chunk = chunk::decode(&name(1), &file, "blue").unwrap();
    assert_eq!(chunk.origin.cluster_id, "");
    assert_eq!(chunk.origin.node_id, "node-a");
    assert_eq!(chunk.origin.created_at, 1_700_000_000_000_000_000);
    let [only] = &chunk.records[..] else {
        panic!("one Record")
    };
    let expected = Record {
        key: Bytes::from_static(b"_netsy"),
        value: Bytes::new(),
        created_at: 1_700_000_000_000_000_000,
        ..write(1, 0).record
    };
    assert_eq!(only.record, expected);
    assert_eq!(
        record::encode(&expected),
        only.bytes,
        "and what we write is what it wrote"
    );
}

#[test]
fn the_first_and_the_last_moment_come_back() {
    for created_at in [i64::MIN, i64::MIN + 1, -1, i64::MAX] {
        let record = Record {
            created_at,
            ..write(1, 1).record
        };
        assert_eq!(record::decode(&record::encode(&record)), Ok(record));
    }
}

/// Other writers may put a Record's crc anywhere; its bytes are kept, and the files they go to are good.
#[test]
fn a_crc_that_stands_elsewhere_is_taken_on() {
    let bytes = write(1, 1).bytes;
    let front = 1 + wire::varint(&bytes[1..]).unwrap().unwrap().1;
    let moved = Bytes::from([&bytes[front..], &bytes[..front]].concat());
    let moved = Encoded::read(moved).unwrap();
    let file = chunk::encode(&origin(), &[moved.clone(), write(2, 1)]);
    let chunk = chunk::decode(&name(1), &file, "blue").unwrap();
    assert_eq!(chunk.records, [moved, write(2, 1)]);
}

#[test]
fn our_own_chunk_stays_as_it_is() {
    let bytes = chunk::encode(&origin(), &[opening(1, 3), write(2, 3)]);
    let golden = unhex(
        "3408e2a89ec2baaad4b244100118022001280232066e6f64652d613a0b0880e2cfaa0610959aef3a82010462
         6c75658801039001012c08b8dacfe7b0e892aa5710011a065f6e657473792001300140016202100172066e6f
         64652d618001038801015008ddefdc8ee8afccda810110021a102f72656769737472792f706f64732f322001
         300240015a146a7a63697069707568716972676d7a776e6a796862080880e2cfaa06100272066e6f64652d61
         8001031910a3e19d9694b4d9c78c011801200240aab7989f8692d3f036",
    );
    assert_eq!(bytes, golden);
}

#[test]
fn each_flipped_bit_of_a_plain_chunk_is_caught() {
    let good = chunk::encode(&origin(), &[opening(1, 3), write(2, 3), write(3, 3)]);
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let damaged = chunk::decode(&name(1), &Bytes::from(bad), "blue");
        assert!(damaged.is_err(), "bit {bit}");
    }
}

/// A few bits of a zstd frame decide nothing (its window size, for one): those may pass.
#[test]
fn no_flipped_bit_of_compressed_files_changes_a_record() {
    let log = [opening(1, 3), sized(2, 3, 5000), write(3, 3)];
    let (chunk, snapshot) = (chunk::encode(&origin(), &log), snapshot_of(&log));
    let mut passed = 0;
    for (good, is_chunk) in [(chunk, true), (snapshot, false)] {
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = match is_chunk {
                true => chunk::decode(&name(1), &Bytes::from(bad), "blue").map(|c| c.records),
                false => read_snapshot(&name(3), &bad, 4096).map(|read| read.0),
            };
            if let Ok(records) = read {
                passed += 1;
                assert_eq!(records, log, "bit {bit}");
            }
        }
    }
    assert!(passed < 40, "{passed} flipped bits passed");
}

#[test]
fn each_truncation_is_caught() {
    let (plain, packed) = (
        vec![opening(1, 3), write(2, 3)],
        vec![sized(1, 3, 6000), write(2, 3)],
    );
    for log in [plain, packed] {
        let (chunk, snapshot) = (chunk::encode(&origin(), &log), snapshot_of(&log));
        for length in 0..chunk.len() {
            let cut = chunk.slice(..length);
            assert!(
                chunk::decode(&name(1), &cut, "blue").is_err(),
                "chunk of {length} bytes"
            );
        }
        for length in 0..snapshot.len() {
            assert!(
                read_snapshot(&name(2), &snapshot[..length], 999).is_err(),
                "{length} bytes"
            );
        }
    }
}

#[test]
fn nothing_may_follow_the_footer() {
    for log in [[write(1, 1)], [sized(1, 1, 6000)]] {
        let good = chunk::encode(&origin(), &log);
        for tail in [&b"\0"[..], &good, &zstd::encode_all(&b""[..], 1).unwrap()] {
            let long = Bytes::from([&good[..], tail].concat());
            let damaged = chunk::decode(&name(1), &long, "blue").unwrap_err();
            assert_eq!(damaged.why, "bytes follow the footer");
        }
    }
}

#[test]
fn errors_name_the_object_the_offset_and_the_record() {
    let mut file = chunk::encode(&origin(), &[opening(41, 3), write(42, 3)]).to_vec();
    let at = file
        .windows(8)
        .position(|window| window == b"registry")
        .unwrap();
    file[at] ^= 1;
    let damaged = chunk::decode(&name(41), &Bytes::from(file), "blue").unwrap_err();
    let text = damaged.to_string();
    assert!(
        text.starts_with(
            "`chunks/0000000000000000041.netsy` cannot be trusted: at byte 96, Record 42: its crc is"
        ),
        "{text}"
    );
    assert!(!text.contains("registry"));
}

/// One line per lie a file can tell with every crc right: the words of the error, the name, the bytes.
fn lies() -> Vec<(&'static str, String, Bytes)> {
    let told = |log: &[Encoded]| chunk::encode(&origin(), log);
    let header = |change: fn(&mut proto::FileHeader)| file(change, &[write(1, 1)]);
    let ones = [
        ("named by its first", told(&[write(2, 1)])),
        ("epoch 1 follows epoch 2", told(&[write(1, 2), write(2, 1)])),
        ("kind KIND_SNAPSHOT", snapshot_of(&[write(1, 1)])),
        (
            "it follows Record 1",
            file(|_| (), &[write(1, 1), write(3, 1)]),
        ),
        ("announces Record 5 first", header(|h| h.first_revision = 5)),
        ("schema version 2", header(|h| h.schema_version = 2)),
        ("compression is 0", header(|h| h.compression = 0)),
        ("compression is 9", header(|h| h.compression = 9)),
        ("KIND_UNKNOWN", header(|h| h.kind = 77)),
        ("`records_count` is neg", header(|h| h.records_count = -1)),
        ("announces no Record", file(|h| h.records_count = 0, &[])),
        ("field 3 does not hold", header(|h| h.records_count = 3)),
        (
            "crc",
            file(|h| h.records_count = 1, &[write(1, 1), write(2, 1)]),
        ),
        ("cluster `red`", header(|h| h.cluster_id = "red".into())),
    ];
    let mut lies: Vec<_> = ones
        .into_iter()
        .map(|(words, bytes)| (words, name(1), bytes))
        .collect();
    lies.push((
        "named by its first",
        "chunks/1.netsy".to_owned(),
        told(&[write(1, 1)]),
    ));
    lies
}

#[test]
fn a_lie_is_refused() {
    for (why, object, bytes) in lies() {
        let damaged = chunk::decode(&object, &bytes, "blue").unwrap_err();
        assert!(damaged.why.contains(why), "{why}: {damaged}");
    }
    let snapshot = snapshot_of(&[write(8, 1)]);
    let damaged = read_snapshot("snapshots/0000000000000000009.netsy", &snapshot, 99).unwrap_err();
    assert!(
        damaged
            .why
            .contains("named by its last Record, and that is 8"),
        "{damaged}"
    );
}

/// An uncompressed Chunk whose header is as `change` left it.
fn file(change: impl FnOnce(&mut proto::FileHeader), records: &[Encoded]) -> Bytes {
    let mut header = proto::FileHeader {
        schema_version: 1,
        kind: 2,
        compression: 1,
        records_count: records.len() as i64,
        ..proto::FileHeader::default()
    };
    change(&mut header);
    header.crc = wire::crc(&header.encode_to_vec());
    let mut out = header.encode_length_delimited_to_vec();
    let mut digest = wire::digest();
    for record in records {
        wire::put_varint(&mut out, record.bytes.len() as u64);
        out.extend_from_slice(&record.bytes);
        wire::check(&record.bytes, 1)
            .unwrap()
            .count_into(&mut digest);
    }
    let mut footer = proto::FileFooter {
        records_crc: digest.finalize(),
        first_revision: records.first().map_or(0, |r| r.record.revision.wire()),
        last_revision: records.last().map_or(0, |r| r.record.revision.wire()),
        crc: 0,
    };
    footer.crc = wire::crc(&footer.encode_to_vec());
    out.extend_from_slice(&footer.encode_length_delimited_to_vec());
    Bytes::from(out)
}

#[test]
fn fields_of_a_later_version_are_covered_and_kept() {
    let mut body = by_prost(&write(1, 1).record)[11..].to_vec();
    if by_prost(&write(1, 1).record)[10] & 0x80 != 0 || body.first() != Some(&0x10) {
        body = record::encode(&write(1, 1).record)
            .iter()
            .copied()
            .skip_while(|byte| *byte != 0x10)
            .collect();
    }
    wire::put_bytes(&mut body, 99, b"from the future");
    let mut message = Vec::new();
    wire::put_number(&mut message, 1, wire::crc(&body));
    message.extend_from_slice(&body);
    let newer = Encoded::read(Bytes::from(message)).unwrap();
    assert_eq!(newer.record, write(1, 1).record);
    let file = chunk::encode(&origin(), std::slice::from_ref(&newer));
    let chunk = chunk::decode(&name(1), &file, "blue").unwrap();
    assert_eq!(chunk.records, [newer]);
}

#[test]
fn what_a_record_may_not_be() {
    let changed = |change: &dyn Fn(&mut proto::Record)| {
        let mut message = proto::Record::decode(write(5, 1).bytes).unwrap();
        message.crc = 0;
        change(&mut message);
        message.crc = wire::crc(&message.encode_to_vec());
        record::decode(&Bytes::from(message.encode_to_vec())).map_err(|error| error.why)
    };
    assert!(changed(&|_| ()).is_ok());
    assert!(changed(&|r| r.compacted_at = Some(prost_types::Timestamp::default())).is_ok());
    assert_eq!(
        changed(&|r| r.revision = 0).unwrap_err(),
        "it has no Revision"
    );
    assert_eq!(
        changed(&|r| r.revision = -1).unwrap_err(),
        "field 2 is negative"
    );
    assert_eq!(changed(&|r| r.key.clear()).unwrap_err(), "it has no key");
    assert!(changed(&|r| r.dek = 1).unwrap_err().contains("encrypted"));
    assert!(changed(&|r| r.kind = 3).unwrap_err().contains("kind 3"));
    assert_eq!(
        changed(&|r| r.version = i64::MIN).unwrap_err(),
        "field 8 is negative"
    );
}

#[test]
fn a_bomb_is_refused_before_it_grows() {
    // A message that claims more than the cap, plain and compressed.
    let header = |compression| {
        let file = file(|h| h.compression = compression, &[write(1, 1)]);
        let length = 1 + usize::from(file[0]);
        file[..length].to_vec()
    };
    let claim = [0xff, 0xff, 0xff, 0xff, 0x7f];
    let plain = [&header(1)[..], &claim].concat();
    let packed = [&header(2)[..], &zstd::encode_all(&claim[..], 1).unwrap()].concat();
    // Zeros without end are empty messages, which are no Records.
    let zeros = zstd::encode_all(std::io::repeat(0).take(64 << 20), 1).unwrap();
    let zeros = [&header(2)[..], &zeros].concat();
    for bomb in [plain, packed, zeros] {
        assert!(chunk::decode(&name(1), &Bytes::from(bomb), "blue").is_err());
    }
    // A window larger than we are willing to hold.
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(24).unwrap();
    std::io::copy(&mut std::io::repeat(7).take(20 << 20), &mut wide).unwrap();
    let wide = [&header(2)[..], &wide.finish().unwrap()].concat();
    let damaged = chunk::decode(&name(1), &Bytes::from(wide), "blue").unwrap_err();
    assert!(damaged.why.contains("zstd"), "{damaged}");
}

#[test]
fn a_large_snapshot_is_read_in_small_batches() {
    let log: Vec<_> = (1..=5000)
        .map(|revision| sized(revision, 1, 1000))
        .collect();
    let bytes = snapshot_of(&log);
    let mut decoder = snapshot::Decoder::new(&name(5000), "blue");
    decoder.push(&bytes);
    let (mut count, mut batches) = (0, 0);
    while let Some(batch) = decoder.take().unwrap() {
        batches += 1;
        count += batch.len();
        let weight: usize = batch.iter().map(|record| record.bytes.len()).sum();
        assert!(weight < 2 << 20);
    }
    assert_eq!(count, 5000);
    assert!(batches >= 5);
    assert_eq!(decoder.finish().unwrap().last, Revision(5000));
}

#[test]
fn a_snapshot_of_another_count_is_not_completed() {
    let mut encoder = snapshot::Encoder::new(origin(), 2, Revision(1));
    encoder.push(&write(1, 1));
    assert_eq!(
        encoder.finish().unwrap_err().why,
        "2 Records were announced and 1 came"
    );
}

#[test]
fn nothing_of_a_record_is_shown() {
    let shown = format!("{:?}", write(1, 1));
    assert!(!shown.contains("registry"), "{shown}");
}
