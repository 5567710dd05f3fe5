//! The chain: what must be true of a bucket's Chunks, whatever happened to the processes that wrote them.
//!
//! Chunks are named by their first Revision and go on without a gap from Revision 1 (or from a Snapshot, once
//! old ones are cleaned up); epochs never fall; a Chunk once written never changes. The checker reads the
//! bucket by itself, with the product's word for nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use futures::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

mod file;

use crate::wire::datafile::{FileKind, Record, RecordKind};

/// Where a cluster's objects lie.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

/// Checks the chain of a bucket on local files.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckChain {
    /// The bucket's directory, such as `netsy-data/bucket`.
    dir: PathBuf,
}

impl CheckChain {
    /// Prints what the chain is, or the first thing wrong with it.
    pub(crate) async fn run(self) -> Result<()> {
        let bucket = Bucket::local(&self.dir)?;
        let mut chain = Chain::default();
        chain.extend(&bucket).await?;
        println!(
            "{} Chunks, {} Records {}..{} in {} epochs, no gap",
            chain.chunks.len(),
            chain.records.len(),
            chain.start(),
            chain.end,
            chain.epochs(),
        );
        Ok(())
    }
}

impl Bucket {
    /// A bucket on local files.
    pub(crate) fn local(dir: &std::path::Path) -> Result<Bucket> {
        let store = LocalFileSystem::new_with_prefix(dir)
            .with_context(|| format!("opening {}", dir.display()))?;
        Ok(Bucket {
            store: Arc::new(store),
            prefix: String::new(),
        })
    }

    /// A prefix of an S3 bucket; credentials from the environment.
    pub(crate) fn s3(endpoint: &str, bucket: &str, prefix: &str) -> Result<Bucket> {
        // A second call finds the provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = AmazonS3Builder::from_env()
            .with_endpoint(endpoint)
            .with_bucket_name(bucket)
            .with_allow_http(true)
            .build()?;
        Ok(Bucket {
            store: Arc::new(store),
            prefix: format!("{prefix}/"),
        })
    }

    /// Revisions that name files under `folder`, ascending.
    async fn list(&self, folder: &str) -> Result<BTreeMap<i64, Path>> {
        let under = Path::from(format!("{}{folder}", self.prefix));
        let objects: Vec<_> = self.store.list(Some(&under)).try_collect().await?;
        let mut named = BTreeMap::new();
        for object in objects {
            let name = object.location.filename().unwrap_or_default();
            let revision = name
                .strip_suffix(".netsy")
                .filter(|digits| digits.len() == 19);
            let revision = revision.and_then(|digits| digits.parse().ok());
            named.insert(
                revision.with_context(|| format!("{} is no Revision", object.location))?,
                object.location,
            );
        }
        Ok(named)
    }

    /// One of the small JSON documents, such as `leader/primary.json`; None if it is not there.
    pub(crate) async fn document(&self, name: &str) -> Result<Option<serde_json::Value>> {
        let path = Path::from(format!("{}{name}", self.prefix));
        let bytes = match self.get(&path).await {
            Ok(bytes) => bytes,
            Err(error) => match error.downcast_ref() {
                Some(object_store::Error::NotFound { .. }) => return Ok(None),
                _ => return Err(error),
            },
        };
        let read = serde_json::from_slice(&bytes);
        Ok(Some(read.with_context(|| format!("reading {path}"))?))
    }

    async fn get(&self, path: &Path) -> Result<Bytes> {
        Ok(self.store.get(path).await?.bytes().await?)
    }
}

/// A chain as far as it has been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    /// First and last Revision of each Chunk, with a checksum of its bytes.
    chunks: BTreeMap<i64, (i64, u64)>,
    /// Every Record in it, by Revision.
    pub(crate) records: BTreeMap<i64, Record>,
    /// The last Revision without a gap; 0 if there is none.
    pub(crate) end: i64,
}

impl Chain {
    /// Reads the Chunks that are new since the last call, and checks that they continue the chain.
    pub(crate) async fn extend(&mut self, bucket: &Bucket) -> Result<()> {
        let listed = bucket.list("chunks").await?;
        if self.chunks.is_empty() {
            self.begin(bucket, &listed).await?;
        }
        for (first, path) in listed.range(self.end + 1..) {
            let bytes = bucket.get(path).await?;
            self.append(*first, &bytes)
                .with_context(|| format!("in {path}"))?;
        }
        Ok(())
    }

    /// Reads everything again and checks that nothing changed that had been read before.
    pub(crate) async fn verify(&self, bucket: &Bucket) -> Result<()> {
        let mut again = Chain::default();
        again.extend(bucket).await?;
        for (first, (_, checksum)) in self.chunks.range(again.start()..) {
            let found = again.chunks.get(first).map(|(_, checksum)| checksum);
            ensure!(
                found == Some(checksum),
                "the Chunk {first} is gone or holds other bytes than before"
            );
        }
        Ok(())
    }

    /// Takes the oldest Chunk as the start: Revision 1, or just above a Snapshot that reaches it.
    async fn begin(&mut self, bucket: &Bucket, chunks: &BTreeMap<i64, Path>) -> Result<()> {
        let first = chunks.keys().next().copied().unwrap_or(1);
        if first == 1 {
            return Ok(());
        }
        let snapshots = bucket.list("snapshots").await?;
        let Some((revision, path)) = snapshots.range(first - 1..).next() else {
            bail!(
                "the chain starts at {first}, and no Snapshot reaches {}",
                first - 1
            );
        };
        let snapshot = file::read(&bucket.get(path).await?, FileKind::KindSnapshot)?;
        ensure!(
            snapshot
                .records
                .windows(2)
                .all(|pair| pair[0].revision < pair[1].revision),
            "the Records of {path} do not ascend"
        );
        for record in snapshot.records {
            ensure!(
                record.revision <= *revision,
                "{path} holds Record {}",
                record.revision
            );
            self.records.insert(record.revision, record);
        }
        self.end = first - 1;
        Ok(())
    }

    fn append(&mut self, first: i64, bytes: &Bytes) -> Result<()> {
        ensure!(
            first == self.end + 1,
            "a gap: the chain ends at {}, this Chunk starts at {first}",
            self.end
        );
        let chunk = file::read(bytes, FileKind::KindChunk)?;
        ensure!(!chunk.records.is_empty(), "it holds no Record");
        ensure!(
            chunk.header.first_revision == first,
            "its header says {}",
            chunk.header.first_revision
        );
        let mut epoch = self.records.get(&self.end).map_or(0, |record| record.epoch);
        for (record, revision) in chunk.records.into_iter().zip(first..) {
            ensure!(
                record.revision == revision,
                "Record {} stands at {revision}",
                record.revision
            );
            ensure!(
                record.epoch >= epoch,
                "the epoch falls from {epoch} to {} at {revision}",
                record.epoch
            );
            let opens = record.kind() == RecordKind::RecordEpoch;
            ensure!(
                opens == (record.epoch > epoch),
                "epoch {} is not opened where it starts ({revision})",
                record.epoch
            );
            epoch = record.epoch;
            self.end = revision;
            self.records.insert(revision, record);
        }
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes);
        self.chunks.insert(first, (self.end, checksum));
        Ok(())
    }

    /// How many Chunks have been read.
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    fn start(&self) -> i64 {
        self.chunks.keys().next().copied().unwrap_or(0)
    }

    fn epochs(&self) -> usize {
        self.records
            .values()
            .filter(|record| record.kind() == RecordKind::RecordEpoch)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::file::tests::{record, written};
    use super::*;

    fn opening(revision: i64, epoch: u64) -> Record {
        Record {
            kind: RecordKind::RecordEpoch.into(),
            ..record(revision, epoch)
        }
    }

    fn chain(chunks: &[(i64, Vec<Record>)]) -> Result<Chain> {
        let mut chain = Chain::default();
        for (first, records) in chunks {
            chain.append(*first, &written(FileKind::KindChunk, records))?;
        }
        Ok(chain)
    }

    #[test]
    fn a_chain_without_a_gap_is_good() {
        let chunks = [
            (1, vec![opening(1, 1), record(2, 1)]),
            (3, vec![record(3, 1), opening(4, 3)]),
        ];
        assert_eq!(chain(&chunks).unwrap().end, 4);
    }

    #[test]
    fn every_flaw_of_a_chain_is_found() {
        let gap = [(1, vec![opening(1, 1)]), (3, vec![record(3, 1)])];
        let name = [(1, vec![opening(2, 1)])];
        let falling = [(1, vec![opening(1, 2)]), (2, vec![opening(2, 1)])];
        let unopened = [(1, vec![opening(1, 1)]), (2, vec![record(2, 2)])];
        let reopened = [(1, vec![opening(1, 1)]), (2, vec![opening(2, 1)])];
        let empty = [(1, vec![])];
        for flaw in [&gap[..], &name, &falling, &unopened, &reopened, &empty] {
            assert!(chain(flaw).is_err(), "not found: {flaw:?}");
        }
    }
}
