//! KeyValue: an `mvccpb.KeyValue` that is encoded once and shared by every list and every watcher.
//!
//! The one buffer holds the protobuf fields in order (key 1, create_revision 2, mod_revision 3, version 4,
//! value 5, lease 6; defaults left out), so sending it is a copy and a clone is a reference count. Fields
//! are read back out of the buffer when somebody asks. Servers build it with [`KeyValue::new`]; clients
//! get it from prost, field by field. It is always in this one canonical form, so equal means equal bytes.

use std::fmt;
use std::sync::Arc;

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{
    DecodeContext, WireType, bytes, decode_varint, encode_varint, encoded_len_varint, int64,
    skip_field,
};
use prost::{DecodeError, Message};
use rules::record::Record;
use rules::revision::Revision;

const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;
const VERSION: u32 = 4;
const VALUE: u32 = 5;
const LEASE: u32 = 6;

/// A key with its value and metadata, already encoded as protobuf. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyValue {
    encoded: Arc<[u8]>,
}

/// The fields of one KeyValue, borrowed.
#[derive(Clone, Copy, Default)]
struct Fields<'a> {
    key: &'a [u8],
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    value: &'a [u8],
    lease: i64,
}

impl KeyValue {
    /// A live key at one Revision. Copies `key` and `value` once, into the encoding.
    #[must_use]
    pub fn new(
        key: &[u8],
        value: &[u8],
        create_revision: Revision,
        mod_revision: Revision,
        version: u64,
        lease: i64,
    ) -> KeyValue {
        Fields {
            key,
            create_revision: create_revision.wire(),
            mod_revision: mod_revision.wire(),
            version: version as i64,
            value,
            lease,
        }
        .encode()
    }

    /// What a delete event shows: the key and the Revision of its deletion, nothing else.
    #[must_use]
    pub fn tombstone(key: &[u8], mod_revision: Revision) -> KeyValue {
        Fields {
            key,
            mod_revision: mod_revision.wire(),
            ..Fields::default()
        }
        .encode()
    }

    /// The state of its key that `record` makes: a live key, or a tombstone.
    #[must_use]
    pub fn of(record: &Record) -> KeyValue {
        if record.deleted {
            return KeyValue::tombstone(&record.key, record.revision);
        }
        KeyValue::new(
            &record.key,
            &record.value,
            record.create_revision,
            record.revision,
            record.version,
            record.lease,
        )
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.fields().key
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.fields().value
    }

    /// Revision of this incarnation's creation; 0 for a tombstone.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.fields().create_revision
    }

    /// Revision of this change.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        self.fields().mod_revision
    }

    /// 1, 2, 3 ... per incarnation; 0 for a tombstone.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.fields().version
    }

    /// The lease id, 0 for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.fields().lease
    }

    /// The same without its value, as `keys_only` asks for; everything else stays, the lease included.
    #[must_use]
    pub fn without_value(&self) -> KeyValue {
        Fields {
            value: b"",
            ..self.fields()
        }
        .encode()
    }

    /// Bytes of the encoding.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.encoded.len()
    }

    fn fields(&self) -> Fields<'_> {
        let mut fields = Fields::default();
        let mut rest = &self.encoded[..];
        while let Some((&tag, tail)) = rest.split_first() {
            rest = tail;
            let number = decode_varint(&mut rest).expect("we encoded it ourselves");
            match u32::from(tag >> 3) {
                KEY => fields.key = take(&mut rest, number),
                CREATE_REVISION => fields.create_revision = number as i64,
                MOD_REVISION => fields.mod_revision = number as i64,
                VERSION => fields.version = number as i64,
                VALUE => fields.value = take(&mut rest, number),
                LEASE => fields.lease = number as i64,
                _ => {}
            }
        }
        fields
    }
}

/// Cuts the first `len` bytes off `rest`.
fn take<'a>(rest: &mut &'a [u8], len: u64) -> &'a [u8] {
    let (taken, tail) = rest.split_at(len as usize);
    *rest = tail;
    taken
}

impl Fields<'_> {
    fn encode(&self) -> KeyValue {
        let numbers = [
            (CREATE_REVISION, self.create_revision),
            (MOD_REVISION, self.mod_revision),
            (VERSION, self.version),
            (LEASE, self.lease),
        ];
        let len = slice_len(self.key)
            + slice_len(self.value)
            + numbers
                .iter()
                .map(|(_, number)| number_len(*number))
                .sum::<usize>();
        let mut encoded: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        let mut buf = Arc::get_mut(&mut encoded).expect("nobody else holds it yet");
        put_slice(KEY, self.key, &mut buf);
        for (tag, number) in &numbers[..3] {
            put_number(*tag, *number, &mut buf);
        }
        put_slice(VALUE, self.value, &mut buf);
        put_number(LEASE, self.lease, &mut buf);
        debug_assert!(buf.is_empty());
        KeyValue { encoded }
    }
}

fn slice_len(slice: &[u8]) -> usize {
    if slice.is_empty() {
        0
    } else {
        1 + encoded_len_varint(slice.len() as u64) + slice.len()
    }
}

fn number_len(number: i64) -> usize {
    if number == 0 {
        0
    } else {
        1 + encoded_len_varint(number as u64)
    }
}

fn put_slice(tag: u32, slice: &[u8], buf: &mut &mut [u8]) {
    if !slice.is_empty() {
        prost::encoding::encode_key(tag, WireType::LengthDelimited, buf);
        encode_varint(slice.len() as u64, buf);
        buf.put_slice(slice);
    }
}

fn put_number(tag: u32, number: i64, buf: &mut &mut [u8]) {
    if number != 0 {
        prost::encoding::encode_key(tag, WireType::Varint, buf);
        encode_varint(number as u64, buf);
    }
}

impl Message for KeyValue {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let (mut number, mut slice) = (0, Bytes::new());
        match tag {
            KEY | VALUE => bytes::merge(wire_type, &mut slice, buf, ctx)?,
            CREATE_REVISION | MOD_REVISION | VERSION | LEASE => {
                int64::merge(wire_type, &mut number, buf, ctx)?;
            }
            _ => return skip_field(wire_type, tag, buf, ctx),
        }
        let mut fields = self.fields();
        match tag {
            KEY => fields.key = &slice,
            CREATE_REVISION => fields.create_revision = number,
            MOD_REVISION => fields.mod_revision = number,
            VERSION => fields.version = number,
            VALUE => fields.value = &slice,
            _ => fields.lease = number,
        }
        *self = fields.encode();
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    fn clear(&mut self) {
        *self = KeyValue::default();
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields();
        f.debug_struct("KeyValue")
            .field("key_bytes", &fields.key.len())
            .field("create_revision", &fields.create_revision)
            .field("mod_revision", &fields.mod_revision)
            .field("version", &fields.version)
            .field("value_bytes", &fields.value.len())
            .field("lease", &fields.lease)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same message as prost would have it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Plain {
        #[prost(bytes = "bytes", tag = "1")]
        key: Bytes,
        #[prost(int64, tag = "2")]
        create_revision: i64,
        #[prost(int64, tag = "3")]
        mod_revision: i64,
        #[prost(int64, tag = "4")]
        version: i64,
        #[prost(bytes = "bytes", tag = "5")]
        value: Bytes,
        #[prost(int64, tag = "6")]
        lease: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Page {
        #[prost(message, repeated, tag = "2")]
        kvs: Vec<KeyValue>,
    }

    fn plain(key: &'static [u8], value: &'static [u8], numbers: [i64; 4]) -> Plain {
        let [create_revision, mod_revision, version, lease] = numbers;
        let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
        Plain {
            key,
            create_revision,
            mod_revision,
            version,
            value,
            lease,
        }
    }

    #[test]
    fn encodes_and_decodes_as_prost_does() {
        let long: &'static [u8] = Box::leak(vec![7; 70_000].into_boxed_slice());
        for message in [
            plain(b"", b"", [0, 0, 0, 0]),
            plain(b"k", b"v", [1, 2, 3, 4]),
            plain(b"\x00\xff", long, [5, i64::MAX, 300, -1]),
            plain(b"k", b"", [1 << 20, 1 << 40, 1, 0]),
        ] {
            let bytes = message.encode_to_vec();
            let kv = KeyValue::decode(&bytes[..]).expect("valid");
            assert_eq!(kv.encode_to_vec(), bytes);
            assert_eq!(kv.encoded_len(), bytes.len());
            assert_eq!(
                (kv.key(), kv.value()),
                (&message.key[..], &message.value[..])
            );
            let numbers = [
                kv.create_revision(),
                kv.mod_revision(),
                kv.version(),
                kv.lease(),
            ];
            let expected = [
                message.create_revision,
                message.mod_revision,
                message.version,
                message.lease,
            ];
            assert_eq!(numbers, expected);
            if message.create_revision > 0 {
                let (create, modified) = (numbers[0] as u64, numbers[1] as u64);
                let built = KeyValue::new(
                    &message.key,
                    &message.value,
                    Revision(create),
                    Revision(modified),
                    numbers[2] as u64,
                    numbers[3],
                );
                assert_eq!(built, kv);
            }
        }
    }

    #[test]
    fn stands_in_a_repeated_field() {
        let kvs = vec![
            KeyValue::new(b"a", b"1", Revision(2), Revision(3), 2, 9),
            KeyValue::tombstone(b"b", Revision(4)),
            KeyValue::default(),
        ];
        let page = Page { kvs };
        assert_eq!(Page::decode(&page.encode_to_vec()[..]), Ok(page));
    }

    #[test]
    fn decodes_fields_in_any_order_and_skips_unknown_ones() {
        // lease 1, unknown field 9 = 1, value "v", key "k", value again "w".
        let bytes = [
            0x30, 1, 0x48, 1, 0x2a, 1, b'v', 0x0a, 1, b'k', 0x2a, 1, b'w',
        ];
        let kv = KeyValue::decode(&bytes[..]).expect("valid");
        assert_eq!(
            (kv.key(), kv.value(), kv.lease()),
            (&b"k"[..], &b"w"[..], 1)
        );
        assert!(KeyValue::decode(&[0x0a, 200][..]).is_err());
        assert!(KeyValue::decode(&[0x12, 1, 1][..]).is_err());
    }

    #[test]
    fn leaves_out_the_value_and_tells_nothing_in_debug() {
        let kv = KeyValue::new(
            b"secret-key",
            b"secret-value",
            Revision(2),
            Revision(3),
            2,
            9,
        );
        let bare = kv.without_value();
        assert_eq!(
            bare,
            KeyValue::new(b"secret-key", b"", Revision(2), Revision(3), 2, 9)
        );
        assert!(!format!("{kv:?}").contains("secret"));
    }
}
