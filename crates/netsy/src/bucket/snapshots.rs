//! Snapshots: everything a fresh Node needs as of one Revision, streamed both ways.
//!
//! Whatever their size, memory is bounded: uploads go in parts, downloads come in ranges, a few of each at
//! once. A Snapshot is created once: a small one by a create-only put, a large one after looking whether it
//! is there, which is enough because every Node writes the same content under the same name. It counts
//! only after it was read back and checked.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutPayload, WriteMultipart,
};
use rules::revision::Revision;

use super::chunks::complete;
use super::{Bucket, Failure, names, patiently, within};
use crate::datafile::Encoded;
use crate::datafile::snapshot::{Decoder, Summary};

/// Bytes of one part of an upload, and of one range of a download. S3 takes 10 000 parts: 80 GB.
const PART: usize = 8 * 1024 * 1024;
/// Parts or ranges under way at once.
const PARALLEL: usize = 4;
/// Bytes given to the decoder at once, which keeps its memory small.
const SIP: usize = 256 * 1024;
/// How often a part is sent before the upload is given up.
const PART_ATTEMPTS: usize = 5;

/// Which Snapshot to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one as of this Revision.
    At(Revision),
    /// The operator's `bootstrap.netsy`.
    Bootstrap,
}

impl Source {
    fn location(self) -> Path {
        match self {
            Source::At(revision) => names::snapshot(revision),
            Source::Bootstrap => names::bootstrap(),
        }
    }
}

impl Bucket {
    /// The Revisions of all Snapshots, ascending.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`.
    pub async fn list_snapshots(&self) -> Result<Vec<Revision>, Failure> {
        let locations = self.list(names::snapshots(), None).await?;
        let mut found: Vec<Revision> = locations.iter().filter_map(names::parse_snapshot).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Streams a Snapshot as of `revision` into the bucket unless there is one, then reads back and checks
    /// what is there. `pieces` are the bytes of its encoder, of any size; an `Err` among them says why they
    /// could not be made, and ends the upload without a trace.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`; `Damaged` if what is there cannot be believed.
    pub async fn put_snapshot(
        &self,
        revision: Revision,
        pieces: impl Stream<Item = Result<Bytes, String>> + Send,
    ) -> Result<Summary, Failure> {
        let location = names::snapshot(revision);
        if self.head(&location).await?.is_none() {
            self.upload(&location, pieces)
                .await
                .map_err(|error| self.failure("uploading", &location, &error))?;
        }
        self.verify_snapshot(Source::At(revision)).await
    }

    /// Reads a Snapshot from beginning to end and checks all of it.
    ///
    /// # Errors
    /// `TryAgain` (also if it is not there), `Denied`; `Damaged` if it is wrong when read a second time, too.
    pub async fn verify_snapshot(&self, source: Source) -> Result<Summary, Failure> {
        match self.verify_once(source).await {
            Err(Failure::Damaged { .. }) => self.verify_once(source).await,
            settled => settled,
        }
    }

    async fn verify_once(&self, source: Source) -> Result<Summary, Failure> {
        let Some(mut restore) = self.restore(source).await? else {
            let missing = Error::Generic {
                store: "bucket",
                source: "it is not there".into(),
            };
            return Err(self.failure("reading", &source.location(), &missing));
        };
        while restore.next().await?.is_some() {}
        restore.finish()
    }

    /// Opens a Snapshot for reading its Records. `None`: there is none.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`.
    pub async fn restore(&self, source: Source) -> Result<Option<Restore>, Failure> {
        let Some(pieces) = self.get_snapshot(source).await? else {
            return Ok(None);
        };
        let decoder = Decoder::new(source.location().as_ref(), &self.cluster_id);
        Ok(Some(Restore {
            bucket: self.clone(),
            pieces,
            piece: Bytes::new(),
            decoder,
        }))
    }

    /// The raw bytes of a Snapshot, in order, unchecked; read in parallel ranges. `None`: there is none.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`, at once or within the stream.
    pub async fn get_snapshot(
        &self,
        source: Source,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, Failure>>>, Failure> {
        let location = source.location();
        let Some(meta) = self.head(&location).await? else {
            return Ok(None);
        };
        let meta = Arc::new(meta);
        let starts = (0..meta.size).step_by(PART);
        let bucket = self.clone();
        let ranges = stream::iter(starts).map(move |start| {
            let (bucket, meta) = (bucket.clone(), Arc::clone(&meta));
            async move { bucket.range(&meta, start).await }
        });
        Ok(Some(ranges.buffered(PARALLEL).boxed()))
    }

    /// Promotes `bootstrap.netsy` to the first Snapshot of a brand-new cluster. `None`: there is none.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`; `Damaged` if it cannot be believed; `Unfit` if it is empty.
    pub async fn promote_bootstrap(&self) -> Result<Option<Summary>, Failure> {
        let Some(pieces) = self.get_snapshot(Source::Bootstrap).await? else {
            return Ok(None);
        };
        let summary = self.verify_snapshot(Source::Bootstrap).await?;
        if summary.count == 0 {
            let why = format!(
                "`{}` in `{}` holds no record",
                names::bootstrap(),
                self.name
            );
            return Err(Failure::Unfit(why));
        }
        let pieces = pieces.map_err(|failure| failure.to_string());
        self.put_snapshot(summary.last, pieces).await.map(Some)
    }

    /// Deletes these Snapshots. Fine if some are not there.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`; some may have been deleted.
    pub async fn delete_snapshots(&self, revisions: &[Revision]) -> Result<(), Failure> {
        self.delete_all(revisions.iter().map(|one| names::snapshot(*one)).collect())
            .await
    }

    async fn head(&self, location: &Path) -> Result<Option<ObjectMeta>, Failure> {
        match patiently(|| within(self.timeouts.file, self.files.head(location))).await {
            Ok(meta) => Ok(Some(meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure("looking for", location, &error)),
        }
    }

    /// The bytes `start .. start + PART` of the object that `meta` describes, and of no other.
    async fn range(&self, meta: &ObjectMeta, start: u64) -> Result<Bytes, Failure> {
        let range = start..meta.size.min(start + PART as u64);
        let attempt = || async {
            let options = GetOptions::new()
                .with_range(Some(range.clone()))
                .with_if_match(meta.e_tag.clone());
            let bytes = self
                .files
                .get_opts(&meta.location, options)
                .await?
                .bytes()
                .await?;
            complete(bytes, range.end - range.start)
        };
        patiently(|| within(self.timeouts.file, attempt()))
            .await
            .map_err(|error| self.failure("reading", &meta.location, &error))
    }

    async fn upload(
        &self,
        location: &Path,
        pieces: impl Stream<Item = Result<Bytes, String>> + Send,
    ) -> object_store::Result<()> {
        let mut pieces = pin!(pieces);
        let (mut first, mut size) = (Vec::new(), 0);
        while size <= PART {
            let Some(piece) = pieces.next().await.transpose().map_err(unmade)? else {
                return self.upload_whole(location, first).await;
            };
            size += piece.len();
            first.push(piece);
        }
        let options = PutMultipartOptions::default().with_retry_policy(Arc::new(Parts));
        let begun = within(
            self.timeouts.file,
            self.files.put_multipart_opts(location, options),
        );
        let mut upload = WriteMultipart::new_with_chunk_size(begun.await?, PART);
        let first = stream::iter(first).map(Ok);
        match self.upload_parts(&mut upload, first.chain(pieces)).await {
            Ok(()) => within(2 * self.timeouts.file, upload.finish())
                .await
                .map(drop),
            Err(error) => {
                // What stays behind if this fails, too, is for the bucket's lifecycle rule.
                let _ = within(self.timeouts.file, upload.abort()).await;
                Err(error)
            }
        }
    }

    async fn upload_whole(&self, location: &Path, pieces: Vec<Bytes>) -> object_store::Result<()> {
        let payload: PutPayload = pieces.into_iter().collect();
        let put = self
            .files
            .put_opts(location, payload, PutMode::Create.into());
        match within(self.timeouts.file, put).await {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn upload_parts(
        &self,
        upload: &mut WriteMultipart,
        mut pieces: impl Stream<Item = Result<Bytes, String>> + Unpin,
    ) -> object_store::Result<()> {
        while let Some(piece) = pieces.next().await.transpose().map_err(unmade)? {
            within(2 * self.timeouts.file, upload.wait_for_capacity(PARALLEL)).await?;
            upload.put(piece);
        }
        within(2 * self.timeouts.file, upload.wait_for_capacity(0)).await
    }
}

fn unmade(why: String) -> Error {
    Error::Generic {
        store: "snapshot",
        source: why.into(),
    }
}

/// A Snapshot being read: `next` until there is none, then `finish`.
pub struct Restore {
    bucket: Bucket,
    pieces: BoxStream<'static, Result<Bytes, Failure>>,
    piece: Bytes,
    decoder: Decoder,
}

impl Restore {
    /// The next Records, about 1 MiB of them. `None`: that was all. Nothing may be believed before
    /// [`Restore::finish`] has said so.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`, `Damaged`; reading then starts again from the beginning.
    pub async fn next(&mut self) -> Result<Option<Vec<Encoded>>, Failure> {
        loop {
            let batch = self
                .decoder
                .take()
                .map_err(|damaged| self.bucket.damaged(damaged))?;
            if batch.is_some() {
                return Ok(batch);
            }
            while self.piece.is_empty() {
                let Some(piece) = self.pieces.next().await.transpose()? else {
                    return Ok(None);
                };
                self.piece = piece;
            }
            let sip = self.piece.split_to(SIP.min(self.piece.len()));
            self.decoder.push(&sip);
        }
    }

    /// Checks the end, and says what the Snapshot held.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn finish(self) -> Result<Summary, Failure> {
        self.decoder
            .finish()
            .map_err(|damaged| self.bucket.damaged(damaged))
    }
}

impl fmt::Debug for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Restore({})", self.bucket.name)
    }
}

/// Sends a part again when the store or the network stumbles: one lost part must not cost a whole upload.
#[derive(Debug)]
struct Parts;

#[async_trait]
impl RetryPolicy for Parts {
    async fn retry(&self, context: RetryContext) -> bool {
        let may_heal = match context.failure {
            RetryFailure::Status(status) => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 429)
            }
            _ => true,
        };
        if !may_heal || context.attempt >= PART_ATTEMPTS {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100 << context.attempt)).await;
        true
    }
}
