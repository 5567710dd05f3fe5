//! Chunks: the log in the bucket, slot by slot.
//!
//! A Chunk is created once, under the name of its first Record, and never changed. Every writer contends
//! for the slot after the last Chunk; whatever the store answers, reading the slot back tells who won it.
//! Chunks are equal when their Records are: who wrote the file, and when, is never compared.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Peekable};
use futures::{FutureExt, Stream, StreamExt, TryFutureExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rules::revision::Revision;

use super::local::MayBlock;
use super::{Bucket, Failure, grown, names, patiently, within};
use crate::datafile::chunk::{self, Chunk};
use crate::datafile::{Damaged, Encoded};

/// How an attempt to take a slot ended.
#[derive(Debug)]
pub enum Slot {
    /// The slot holds our Records.
    Won,
    /// The slot holds other Records, for ever.
    Taken(Chunk),
    /// Not settled: the slot is empty or cannot be read, and the request may land later. Send the same
    /// again, byte for byte.
    Unknown(Failure),
    /// The slot is taken by something that cannot be believed. Raise CORRUPT.
    Damaged(Damaged),
}

/// What is in a slot and beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Nothing: the chain ends before it.
    End,
    /// A Chunk is in it.
    GoesOn,
    /// It is empty, and a Chunk lies at this Revision: what was between was cleaned up, or is missing.
    Gap(Revision),
}

impl Bucket {
    /// ONE attempt to put `bytes`, the Chunk of `records`, into the slot `first`, settled by reading back.
    /// To be polled on a thread that may block: local files are written then and there.
    pub async fn put_chunk(&self, first: Revision, bytes: Bytes, records: &[Encoded]) -> Slot {
        debug_assert_eq!(records.first().map(|one| one.record.revision), Some(first));
        let location = names::chunk(first);
        let mut options = PutOptions::from(PutMode::Create);
        options.extensions.insert(MayBlock);
        let limit = grown(self.timeouts.chunk, bytes.len() as u64);
        let put = self
            .chunks
            .put_opts(&location, PutPayload::from(bytes), options);
        let Err(error) = within(limit, put).await else {
            return Slot::Won;
        };
        let unsettled = self.failure("creating", &location, &error);
        tracing::debug!(object = %location, why = %unsettled, "a slot needs settling");
        match self.get_chunk(first).await {
            Ok(Some(found)) if found.records == records => Slot::Won,
            Ok(Some(found)) => Slot::Taken(found),
            Ok(None) => Slot::Unknown(unsettled),
            Err(Failure::Damaged { damaged, .. }) => Slot::Damaged(damaged),
            Err(unreadable) => Slot::Unknown(unreadable),
        }
    }

    /// Reads and checks the Chunk in the slot `first`. `None`: the slot is empty.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`; `Damaged` if it is wrong when read a second time, too.
    pub async fn get_chunk(&self, first: Revision) -> Result<Option<Chunk>, Failure> {
        let location = names::chunk(first);
        let mut damaged = None;
        for _ in 0..2 {
            let Some(bytes) = self.fetch(&location).await? else {
                return Ok(None);
            };
            match chunk::decode(location.as_ref(), &bytes, &self.cluster_id) {
                Ok(chunk) => return Ok(Some(chunk)),
                Err(wrong) => damaged = Some(self.damaged(wrong)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// The first Revisions of all Chunks that start at or after `from`, ascending.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`.
    pub async fn list_chunks(&self, from: Revision) -> Result<Vec<Revision>, Failure> {
        let before = names::chunk(from.prev());
        let locations = self.list(names::chunks(), Some(&before)).await?;
        let mut found = Vec::with_capacity(locations.len());
        for location in &locations {
            match names::parse_chunk(location) {
                Some(first) => found.push(first),
                None => tracing::warn!(object = %location, "not the name of a chunk: ignored"),
            }
        }
        found.retain(|first| *first >= from);
        found.sort_unstable();
        Ok(found)
    }

    /// What is in `slot`, the end of somebody's log, and beyond it. A list that is made while Chunks are written may
    /// lack one and hold the next; but what is there before the next is, so a slot that the list lacks is read once more.
    ///
    /// # Errors
    /// As [`Bucket::list_chunks`] and [`Bucket::get_chunk`].
    pub async fn look_on(&self, slot: Revision) -> Result<Onward, Failure> {
        match self.list_chunks(slot).await?.first() {
            None => Ok(Onward::End),
            Some(first) if *first == slot => Ok(Onward::GoesOn),
            Some(first) => Ok(match self.get_chunk(slot).await? {
                Some(_) => Onward::GoesOn,
                None => Onward::Gap(*first),
            }),
        }
    }

    /// The chain from the slot `from` to the first empty slot: checked Chunks, each starting where the one
    /// before ends. Up to `parallel` of them are read ahead, and held in memory. Objects that start inside
    /// another Chunk are no part of the chain and left out.
    ///
    /// The stream ends with its first error: as [`Bucket::get_chunk`]; `Gap` if a slot is empty and a
    /// later one is not.
    #[must_use]
    pub fn fetch_chunks(
        &self,
        from: Revision,
        parallel: usize,
    ) -> BoxStream<'static, Result<Chunk, Failure>> {
        let bucket = self.clone();
        async move {
            let listed = bucket.list_chunks(from).await?;
            let walk = Walk::new(bucket, from, listed, parallel);
            Ok(stream::try_unfold(walk, |mut walk| async move {
                Ok(walk.next().await?.map(|chunk| (chunk, walk)))
            }))
        }
        .boxed()
        .try_flatten_stream()
        .boxed()
    }

    /// Deletes these Chunks. Fine if some are not there.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`; some may have been deleted.
    pub async fn delete_chunks(&self, firsts: &[Revision]) -> Result<(), Failure> {
        self.delete_all(firsts.iter().map(|first| names::chunk(*first)).collect())
            .await
    }

    /// Deletes objects, as many as possible, and tells the first failure.
    pub(super) async fn delete_all(&self, locations: Vec<Path>) -> Result<(), Failure> {
        let Some(first) = locations.first().cloned() else {
            return Ok(());
        };
        let mut deleted = self
            .files
            .delete_stream(stream::iter(locations).map(Ok).boxed());
        let mut outcome = Ok(());
        loop {
            let next = within(self.timeouts.file, deleted.next().map(Option::transpose)).await;
            match next {
                Ok(None) => return outcome,
                Ok(Some(_)) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    let failure = self.failure("deleting", &first, &error);
                    if outcome.is_ok() {
                        outcome = Err(failure);
                    } else {
                        // A store that only ever fails must not hold us here for every object.
                        return outcome;
                    }
                }
            }
        }
    }

    /// A whole Chunk. `None`: there is none.
    async fn fetch(&self, location: &Path) -> Result<Option<Bytes>, Failure> {
        let attempt = || async {
            let found = within(self.timeouts.file, self.chunks.get(location)).await?;
            let size = found.meta.size;
            let limit = grown(self.timeouts.file, size);
            complete(within(limit, found.bytes()).await?, size)
        };
        match patiently(attempt).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure("reading", location, &error)),
        }
    }

    pub(super) fn damaged(&self, damaged: Damaged) -> Failure {
        Failure::Damaged {
            bucket: self.name.to_string(),
            damaged,
        }
    }
}

/// `bytes` if they are `size` many: some stores and proxies end an answer early without an error.
pub(super) fn complete(bytes: Bytes, size: u64) -> object_store::Result<Bytes> {
    if bytes.len() as u64 == size {
        return Ok(bytes);
    }
    let why = format!("{} of {size} bytes came", bytes.len());
    Err(Error::Generic {
        store: "bucket",
        source: why.into(),
    })
}

/// A walk along the chain, with the listed Chunks read ahead.
struct Walk {
    bucket: Bucket,
    /// The slot to read next.
    slot: Revision,
    ahead: Pin<Box<Peekable<BoxStream<'static, Read>>>>,
}

/// A listed Chunk and what reading it gave.
type Read = (Revision, Result<Option<Chunk>, Failure>);

impl Walk {
    fn new(bucket: Bucket, from: Revision, listed: Vec<Revision>, parallel: usize) -> Walk {
        let ahead = read_ahead(bucket.clone(), listed, parallel).boxed();
        Walk {
            bucket,
            slot: from,
            ahead: Box::pin(ahead.peekable()),
        }
    }

    async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        let slot = self.slot;
        while let Some((first, _)) = self
            .ahead
            .as_mut()
            .next_if(|(first, _)| *first < slot)
            .await
        {
            tracing::warn!(object = %names::chunk(first), "not part of the chain: ignored");
        }
        let chunk = match self
            .ahead
            .as_mut()
            .next_if(|(first, _)| *first == slot)
            .await
        {
            Some((_, read)) => read?,
            // Created since the list was made, or the end of the chain.
            None => self.bucket.get_chunk(slot).await?,
        };
        let Some(chunk) = chunk else {
            return self.end().await;
        };
        let last = chunk.records.last().map(|last| last.record.revision);
        self.slot = last.unwrap_or(slot).next();
        Ok(Some(chunk))
    }

    /// The slot is empty: no later one may be taken.
    async fn end(&mut self) -> Result<Option<Chunk>, Failure> {
        match self.ahead.as_mut().peek().await {
            None => Ok(None),
            Some((found, _)) => Err(Failure::Gap {
                bucket: self.bucket.name.to_string(),
                missing: self.slot,
                found: *found,
            }),
        }
    }
}

fn read_ahead(
    bucket: Bucket,
    listed: Vec<Revision>,
    parallel: usize,
) -> impl Stream<Item = Read> + Send {
    stream::iter(listed)
        .map(move |first| {
            let bucket = bucket.clone();
            async move { (first, bucket.get_chunk(first).await) }
        })
        .buffered(parallel.max(1))
}
