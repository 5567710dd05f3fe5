//! Reads .netsy files, written against docs/DATAFILE.md alone: header, Records, footer, each behind a
//! varint length; the part after the header may be one zstd stream. Every crc is checked. Messages are
//! encoded again for that, so a field that is not in proto/datafile.proto shows as a wrong crc.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes};
use crc_fast::{CrcAlgorithm, Digest};
use prost::Message;

use crate::wire::datafile::{FileCompression, FileFooter, FileHeader, FileKind, Record};

/// A file, read and checked by itself.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) header: FileHeader,
    pub(crate) records: Vec<Record>,
}

/// Reads one file of the kind wanted.
pub(crate) fn read(bytes: &Bytes, kind: FileKind) -> Result<File> {
    let mut rest = bytes.clone();
    let header: FileHeader = framed(&mut rest).context("the header")?;
    check(
        header.crc,
        &FileHeader {
            crc: 0,
            ..header.clone()
        },
    )
    .context("the header")?;
    ensure!(
        header.kind() == kind,
        "it is a {:?}, not a {kind:?}",
        header.kind()
    );
    let mut rest = match header.compression() {
        FileCompression::CompressionNone => rest,
        FileCompression::CompressionZstd => zstd::decode_all(&rest[..])
            .context("its zstd stream")?
            .into(),
        FileCompression::CompressionUnknown => bail!("its compression is {}", header.compression),
    };
    let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
    let mut records = Vec::new();
    for number in 0..header.records_count {
        let record: Record =
            framed(&mut rest).with_context(|| format!("Record number {number}"))?;
        let bare = Record {
            crc: 0,
            ..record.clone()
        };
        check(record.crc, &bare).with_context(|| format!("Record {}", record.revision))?;
        digest.update(&bare.encode_to_vec());
        records.push(record);
    }
    let footer: FileFooter = framed(&mut rest).context("the footer")?;
    check(footer.crc, &FileFooter { crc: 0, ..footer }).context("the footer")?;
    ensure!(rest.is_empty(), "{} bytes follow the footer", rest.len());
    ensure!(
        footer.records_crc == digest.finalize(),
        "the footer's crc is not that of the Records"
    );
    let (first, last) = match (records.first(), records.last()) {
        (Some(first), Some(last)) => (first.revision, last.revision),
        _ => (0, 0),
    };
    ensure!(
        (footer.first_revision, footer.last_revision) == (first, last),
        "the footer says {} to {}, the Records are {first} to {last}",
        footer.first_revision,
        footer.last_revision,
    );
    Ok(File { header, records })
}

fn framed<M: Message + Default>(rest: &mut Bytes) -> Result<M> {
    let length = prost::decode_length_delimiter(&mut *rest).context("its length")?;
    ensure!(
        length <= rest.remaining(),
        "it is cut off: {length} bytes are meant, {} are left",
        rest.remaining()
    );
    Ok(M::decode(rest.split_to(length))?)
}

fn check(crc: u64, bare: &impl Message) -> Result<()> {
    let found = crc_fast::checksum(CrcAlgorithm::Crc64Xz, &bare.encode_to_vec());
    ensure!(
        crc == found,
        "its crc is {crc:#018x}, its bytes give {found:#018x}"
    );
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file as the format describes it, for tests.
    pub(crate) fn written(kind: FileKind, records: &[Record]) -> Bytes {
        let seal = |message: &dyn Fn(u64) -> Vec<u8>| {
            message(crc_fast::checksum(CrcAlgorithm::Crc64Xz, &message(0)))
        };
        let mut out = Vec::new();
        let mut push = |message: Vec<u8>| {
            prost::encode_length_delimiter(message.len(), &mut out).unwrap();
            out.extend(message);
        };
        let first = records.first().map_or(0, |record| record.revision);
        push(seal(&|crc| {
            let header = FileHeader {
                crc,
                schema_version: 1,
                kind: kind.into(),
                compression: FileCompression::CompressionNone.into(),
                records_count: records.len() as i64,
                first_revision: first,
                ..Default::default()
            };
            header.encode_to_vec()
        }));
        let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
        for record in records {
            digest.update(
                &Record {
                    crc: 0,
                    ..record.clone()
                }
                .encode_to_vec(),
            );
            push(seal(&|crc| {
                Record {
                    crc,
                    ..record.clone()
                }
                .encode_to_vec()
            }));
        }
        let records_crc = digest.finalize();
        let last_revision = records.last().map_or(0, |record| record.revision);
        push(seal(&|crc| {
            FileFooter {
                records_crc,
                first_revision: first,
                last_revision,
                crc,
            }
            .encode_to_vec()
        }));
        out.into()
    }

    pub(crate) fn record(revision: i64, epoch: u64) -> Record {
        let key = format!("k{revision}").into();
        Record {
            revision,
            epoch,
            key,
            value: "v".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_good_file_is_read_and_a_flipped_bit_is_found() {
        let bytes = written(FileKind::KindChunk, &[record(5, 1), record(6, 1)]);
        assert_eq!(read(&bytes, FileKind::KindChunk).unwrap().records.len(), 2);
        assert!(read(&bytes, FileKind::KindSnapshot).is_err());
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 4;
            assert!(
                read(&flipped.into(), FileKind::KindChunk).is_err(),
                "byte {at} may be anything"
            );
        }
        assert!(read(&bytes.slice(..bytes.len() - 1), FileKind::KindChunk).is_err());
    }
}
