//! The test weather: a store around a store that fails as object stores do.
//!
//! A [`Faults`] asks its weather, a closure or a [`seeded`] schedule, what shall happen to each operation, and
//! counts them all. It can lose a request, lose an answer, let a request land long after it was given up,
//! hang, refuse, damage what is read, and ignore conditions. It is never in the way of a real cluster.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};
use parking_lot::Mutex;

/// A kind of operation on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// A create-only put.
    Create,
    /// A replace-if-matches put.
    Replace,
    /// An unconditional put.
    Overwrite,
    /// One part of a streamed upload.
    Part,
    /// The beginning of a streamed upload.
    Begin,
    /// The end of a streamed upload, which makes it visible.
    Complete,
    /// A whole or ranged read.
    Get,
    /// A read of size and tag only.
    Head,
    /// A list.
    List,
    /// A delete.
    Delete,
}

/// One operation, as the weather sees it before it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What kind.
    pub verb: Verb,
    /// The object's name; the folder's for a list.
    pub object: String,
    /// Its number among all operations, from 1.
    pub number: u64,
    /// Its number among those of its verb, from 1.
    pub nth: u64,
}

/// What shall happen to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing bad.
    None,
    /// It fails and has no effect.
    Before,
    /// It takes effect and its answer is lost.
    After,
    /// It fails at once and takes effect this much later.
    Late(Duration),
    /// It takes effect after this pause.
    Delay(Duration),
    /// No effect and no answer, ever.
    Hang,
    /// It takes effect, and no answer ever comes.
    HangAfter,
    /// Refused, as with status 403.
    Denied,
    /// Answers "already exists" without looking, as a store does on status 409.
    Conflict,
    /// Only the first so many bytes of what is read arrive.
    Short(usize),
    /// This bit of what is read (counted from its beginning) is flipped.
    Flip(usize),
    /// The condition of a create or replace is ignored.
    Unconditional,
    /// A list lacks its first object, as one may that was made while the object was.
    Lacking,
}

/// How many operations of each kind have begun, failed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; 10]);

impl Counts {
    /// How many of `verb`.
    #[must_use]
    pub fn of(&self, verb: Verb) -> u64 {
        self.0[verb as usize]
    }

    /// Creates, replaces, overwrites, and everything of streamed uploads.
    #[must_use]
    pub fn writes(&self) -> u64 {
        use Verb::{Begin, Complete, Create, Overwrite, Part, Replace};
        [Create, Replace, Overwrite, Part, Begin, Complete]
            .iter()
            .map(|&verb| self.of(verb))
            .sum()
    }

    /// Reads of objects, heads included.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.of(Verb::Get) + self.of(Verb::Head)
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Decides what happens to an operation.
pub type Weather = Box<dyn FnMut(&Operation) -> Fault + Send>;

struct Sky {
    counts: Counts,
    weather: Weather,
}

/// A store in bad weather. Cheap to clone; clones share weather and counts.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<dyn ObjectStore>,
    sky: Arc<Mutex<Sky>>,
}

impl Faults {
    /// `inner` in calm weather: it only counts.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Faults {
        let weather: Weather = Box::new(|_| Fault::None);
        Faults {
            inner,
            sky: Arc::new(Mutex::new(Sky {
                counts: Counts::default(),
                weather,
            })),
        }
    }

    /// Another store under the same sky.
    #[must_use]
    pub fn around(&self, inner: Arc<dyn ObjectStore>) -> Faults {
        Faults {
            inner,
            sky: Arc::clone(&self.sky),
        }
    }

    /// From now on `weather` decides.
    pub fn set(&self, weather: impl FnMut(&Operation) -> Fault + Send + 'static) {
        self.sky.lock().weather = Box::new(weather);
    }

    /// The next operation of `verb` meets `fault`; those after it nothing bad.
    pub fn once(&self, verb: Verb, fault: Fault) {
        let mut waiting = true;
        self.set(move |operation| {
            if waiting && operation.verb == verb {
                waiting = false;
                return fault;
            }
            Fault::None
        });
    }

    /// From now on nothing bad happens.
    pub fn calm(&self) {
        self.set(|_| Fault::None);
    }

    /// What has begun so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.sky.lock().counts
    }

    fn ask(&self, verb: Verb, object: &str) -> Fault {
        let mut sky = self.sky.lock();
        sky.counts.0[verb as usize] += 1;
        let operation = Operation {
            verb,
            object: object.to_owned(),
            number: sky.counts.total(),
            nth: sky.counts.of(verb),
        };
        (sky.weather)(&operation)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faults({})", self.inner)
    }
}

/// Weather from a seed: each operation meets one of `faults`, chosen evenly, with odds of `per_mille` in a
/// thousand. The same seed and the same order of operations give the same weather.
#[must_use]
pub fn seeded(seed: u64, per_mille: u64, faults: Vec<Fault>) -> Weather {
    Box::new(move |operation| {
        let dice = scramble(seed ^ scramble(operation.number));
        if faults.is_empty() || dice % 1000 >= per_mille {
            return Fault::None;
        }
        faults[(dice / 1000) as usize % faults.len()]
    })
}

/// SplitMix64's finisher: neighbouring numbers become unrelated ones.
fn scramble(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Lets `operation` happen as `fault` wills it. Faults of other kinds of operations do nothing.
async fn happen<T: Send + 'static>(
    fault: Fault,
    object: &str,
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let path = object.to_owned();
    match fault {
        Fault::Before => Err(lost()),
        Fault::After => operation.await.and_then(|_| Err(lost())),
        Fault::Late(pause) => {
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let _ = operation.await;
            });
            Err(lost())
        }
        Fault::Delay(pause) => {
            tokio::time::sleep(pause).await;
            operation.await
        }
        Fault::Hang => std::future::pending().await,
        Fault::HangAfter => {
            let _ = operation.await;
            std::future::pending().await
        }
        Fault::Denied => Err(Error::PermissionDenied {
            path,
            source: "the weather".into(),
        }),
        Fault::Conflict => Err(Error::AlreadyExists {
            path,
            source: "the weather".into(),
        }),
        Fault::None | Fault::Short(_) | Fault::Flip(_) | Fault::Unconditional | Fault::Lacking => {
            operation.await
        }
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "Faults",
        source: "connection lost (the weather)".into(),
    }
}

#[async_trait]
impl ObjectStore for Faults {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        let verb = match opts.mode {
            PutMode::Create => Verb::Create,
            PutMode::Update(_) => Verb::Replace,
            PutMode::Overwrite => Verb::Overwrite,
        };
        let fault = self.ask(verb, location.as_ref());
        if fault == Fault::Unconditional {
            opts.mode = PutMode::Overwrite;
        }
        let (inner, to) = (Arc::clone(&self.inner), location.clone());
        happen(fault, location.as_ref(), async move {
            inner.put_opts(&to, payload, opts).await
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.ask(Verb::Begin, location.as_ref());
        let (inner, to) = (Arc::clone(&self.inner), location.clone());
        let begin = async move { inner.put_multipart_opts(&to, opts).await };
        let upload = happen(fault, location.as_ref(), begin).await?;
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        Ok(Box::new(Upload {
            upload,
            object: location.to_string(),
            faults: self.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { Verb::Head } else { Verb::Get };
        let fault = self.ask(verb, location.as_ref());
        let (inner, from) = (Arc::clone(&self.inner), location.clone());
        let get = async move { inner.get_opts(&from, options).await };
        let found = happen(fault, location.as_ref(), get).await?;
        match fault {
            Fault::Short(_) | Fault::Flip(_) => distort(found, fault).await,
            _ => Ok(found),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut found = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions::new().with_range(Some(range.clone()));
            found.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let faults = self.clone();
        locations
            .and_then(move |location| {
                let faults = faults.clone();
                async move {
                    let fault = faults.ask(Verb::Delete, location.as_ref());
                    let one = futures::stream::once(std::future::ready(Ok(location.clone())));
                    let mut deleted = faults.inner.delete_stream(one.boxed());
                    let delete = async move { deleted.try_next().await };
                    happen(fault, location.as_ref(), delete).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = self.inner.list(prefix);
        self.listed(prefix, found)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = self.inner.list_with_offset(prefix, offset);
        self.listed(prefix, found)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.map(Path::to_string).unwrap_or_default();
        let fault = self.ask(Verb::List, &folder);
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.cloned());
        let list = async move { inner.list_with_delimiter(prefix.as_ref()).await };
        happen(fault, &folder, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl Faults {
    /// `found`, unless the weather has it that the list fails before its first entry, or lacks that.
    fn listed(
        &self,
        prefix: Option<&Path>,
        found: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = prefix.map(Path::to_string).unwrap_or_default();
        let fault = self.ask(Verb::List, &folder);
        let found = found.skip(usize::from(fault == Fault::Lacking)).boxed();
        async move {
            happen(fault, &folder, std::future::ready(Ok(())))
                .await
                .map(|()| found)
        }
        .boxed()
        .try_flatten_stream()
        .boxed()
    }
}

/// What was read, with its end missing or one bit wrong.
async fn distort(found: GetResult, fault: Fault) -> Result<GetResult> {
    let (meta, range, attributes, extensions) = (
        found.meta.clone(),
        found.range.clone(),
        found.attributes.clone(),
        found.extensions.clone(),
    );
    let mut content = BytesMut::from(&found.bytes().await?[..]);
    match fault {
        Fault::Short(length) => content.truncate(length),
        Fault::Flip(bit) if bit / 8 < content.len() => content[bit / 8] ^= 1 << (bit % 8),
        _ => {}
    }
    let content = futures::stream::once(std::future::ready(Ok(content.freeze())));
    Ok(GetResult {
        payload: GetResultPayload::Stream(content.boxed()),
        meta,
        range,
        attributes,
        extensions,
    })
}

/// A streamed upload in bad weather.
struct Upload {
    upload: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    object: String,
    faults: Faults,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.object)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let fault = self.faults.ask(Verb::Part, &self.object);
        let object = self.object.clone();
        // Parts are numbered in the order of these calls, so the inner call is made here, not later.
        let part = match self.upload.try_lock() {
            Ok(mut upload) => upload.put_part(data),
            Err(_) => std::future::ready(Err(lost())).boxed(),
        };
        async move { happen(fault, &object, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.faults.ask(Verb::Complete, &self.object);
        let upload = Arc::clone(&self.upload);
        let complete = async move { upload.lock().await.complete().await };
        happen(fault, &self.object, complete).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.lock().await.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    fn tally(seed: u64) -> Vec<Fault> {
        let mut weather = seeded(seed, 500, vec![Fault::Before, Fault::After]);
        let at = |number| Operation {
            verb: Verb::Get,
            object: String::new(),
            number,
            nth: number,
        };
        (1..200).map(|number| weather(&at(number))).collect()
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(tally(7), tally(7));
        assert_ne!(tally(7), tally(8));
        let bad = tally(7)
            .iter()
            .filter(|fault| **fault != Fault::None)
            .count();
        assert!((60..140).contains(&bad), "{bad} of 199 at even odds");
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_it_says() {
        let faults = Faults::new(Arc::new(InMemory::new()));
        let at = Path::from("x");
        let create = |body: &'static str| {
            let (faults, at) = (faults.clone(), at.clone());
            async move {
                faults
                    .put_opts(&at, body.into(), PutMode::Create.into())
                    .await
            }
        };
        faults.once(Verb::Create, Fault::Before);
        create("a").await.expect_err("lost");
        faults.get(&at).await.expect_err("no effect");

        faults.once(Verb::Create, Fault::Late(Duration::from_secs(5)));
        create("late").await.expect_err("lost");
        faults.get(&at).await.expect_err("no effect yet");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(
            faults
                .get(&at)
                .await
                .expect("landed")
                .bytes()
                .await
                .expect("body"),
            "late"
        );

        faults.once(Verb::Create, Fault::Unconditional);
        create("over").await.expect("condition ignored");
        faults.once(Verb::Get, Fault::Short(2));
        assert_eq!(
            faults
                .get(&at)
                .await
                .expect("found")
                .bytes()
                .await
                .expect("body"),
            "ov"
        );
        faults.once(Verb::Get, Fault::Flip(0));
        assert_eq!(
            faults
                .get(&at)
                .await
                .expect("found")
                .bytes()
                .await
                .expect("body"),
            "nver"
        );
        faults.once(Verb::Get, Fault::Hang);
        let hung = tokio::time::timeout(Duration::from_secs(60), faults.get(&at)).await;
        assert!(hung.is_err(), "no answer, ever");
        faults.once(Verb::Delete, Fault::Denied);
        let denied = faults.delete(&at).await;
        assert!(
            matches!(denied, Err(Error::PermissionDenied { .. })),
            "{denied:?}"
        );
        assert_eq!(faults.counts().of(Verb::Create), 3);
        assert_eq!(faults.counts().reads(), 6);
    }
}
