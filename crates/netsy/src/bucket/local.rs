//! Local files as a first-class store, shared by any number of processes on one machine.
//!
//! `object_store` brings listing, reading and streamed uploads. It has no replace-if-matches, so writes of
//! whole objects are our own: a staged file is made durable first and then linked (create) or renamed
//! (replace) to its name, and the folder is made durable before anybody hears of it. Whoever replaces or
//! deletes holds one file lock; creating needs none, because a hard link has exactly one winner.
//!
//! An object's tag is a hash of its content: every document carries a random mark, so a tag never returns.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crc_fast::{CrcAlgorithm, checksum};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::folder::{Folder, Mismatch, folder_of, is_mismatch, sync_folder};

const STORE: &str = "LocalFiles";
/// Objects up to this many bytes have a tag. Documents are far smaller.
const TAGGED: u64 = 256 * 1024;
/// A name of the form `name#digits` is invisible in listings: staged files, and this lock.
const LOCK: &str = "lock#0";
/// A staged file untouched for this long was left behind by a crash. (A wrong guess fails one upload.)
const STALE: Duration = Duration::from_secs(3600);

/// In the extensions of a put: the thread that polls it may block, so no other one need be woken.
#[derive(Clone, Copy, Debug)]
pub(super) struct MayBlock;

/// A folder of the local file system as an [`ObjectStore`] with conditional writes.
#[derive(Clone)]
pub struct LocalFiles {
    folder: Arc<Folder>,
    files: LocalFileSystem,
}

impl LocalFiles {
    /// Opens `root`, creating it (mode 0700) if needed. Sweeps up what crashed uploads left behind, and
    /// makes durable what a killed process may have created without doing so.
    ///
    /// # Errors
    /// When the folder cannot be created, read or synced.
    pub fn open(root: &FilePath) -> io::Result<LocalFiles> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let root = fs::canonicalize(root)?;
        let held = File::open(&root)?;
        tidy(&root)?;
        if let Some(parent) = root.parent() {
            sync_folder(parent)?;
        }
        let files = LocalFileSystem::new_with_prefix(&root)
            .map_err(io::Error::other)?
            .with_fsync(true)
            .with_automatic_cleanup(false);
        Ok(LocalFiles {
            folder: Arc::new(Folder::new(root, held)),
            files,
        })
    }

    /// Runs `work` on a thread that may block. It is not undone when the caller goes away.
    async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(work).await?
    }

    fn in_place(&self) -> Result<()> {
        let root = &self.folder.root;
        self.folder
            .in_place()
            .map_err(|error| store_error(error, root))
    }
}

impl fmt::Debug for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.folder.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalFiles {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let target = self.files.path_to_filesystem(location)?;
        let folder = Arc::clone(&self.folder);
        let may_block = opts.extensions.get::<MayBlock>().is_some();
        let put = move || {
            let write = || match opts.mode {
                PutMode::Create => create(&target, &payload),
                PutMode::Overwrite => replace(&folder.root, &target, &payload, None),
                PutMode::Update(version) => {
                    let expected = version.e_tag.unwrap_or_default();
                    replace(&folder.root, &target, &payload, Some(&expected))
                }
            };
            folder.in_place().and_then(|()| write()).map_err(|error| {
                folder.note(&target, &error);
                store_error(error, &target)
            })?;
            let e_tag = (payload.content_length() as u64 <= TAGGED)
                .then(|| tag(payload.iter().map(|piece| &piece[..])));
            Ok(PutResult {
                e_tag,
                version: None,
                extensions: Default::default(),
            })
        };
        if may_block {
            put()
        } else {
            LocalFiles::blocking(put).await
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.in_place()?;
        self.files.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.in_place()?;
        let unconditional = GetOptions::new().with_range(options.range.clone());
        let mut found = self.files.get_opts(location, unconditional).await?;
        let path = self.files.path_to_filesystem(location)?;
        let folder = Arc::clone(&self.folder);
        LocalFiles::blocking(move || {
            let settled = folder.settle(folder_of(&path));
            settled.map_err(|error| store_error(error, &path))?;
            found.meta.e_tag = match &found.payload {
                GetResultPayload::File(file, _) if found.meta.size <= TAGGED => {
                    Some(tag_of(file).map_err(|error| store_error(error, &path))?)
                }
                _ => found.meta.e_tag,
            };
            options.check_preconditions(&found.meta)?;
            Ok(found)
        })
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let target = store.files.path_to_filesystem(&location)?;
                    LocalFiles::blocking(move || {
                        let folder = &store.folder;
                        let deleted = folder.in_place();
                        deleted
                            .and_then(|()| delete(&folder.root, &target))
                            .map_err(|error| store_error(error, &target))
                    })
                    .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.in_place() {
            Ok(()) => self.files.list(prefix).map_ok(untagged).boxed(),
            Err(error) => nothing_but(error),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = || self.files.list_with_offset(prefix, offset);
        match self.in_place() {
            Ok(()) => listed().map_ok(untagged).boxed(),
            Err(error) => nothing_but(error),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.in_place()?;
        let mut list = self.files.list_with_delimiter(prefix).await?;
        list.objects = list.objects.into_iter().map(untagged).collect();
        Ok(list)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if options.mode == CopyMode::Create {
            return self.files.copy_opts(from, to, options).await;
        }
        Err(Error::NotImplemented {
            operation: "overwriting copy".into(),
            implementer: STORE.into(),
        })
    }
}

fn nothing_but(error: Error) -> BoxStream<'static, Result<ObjectMeta>> {
    futures::stream::once(async { Err(error) }).boxed()
}

/// Listings carry no tag: it would cost a read of every object.
fn untagged(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        e_tag: None,
        ..meta
    }
}

/// Writes `target` unless it is there. When it is, its name is durable before the caller hears so.
fn create(target: &FilePath, payload: &PutPayload) -> io::Result<()> {
    if let Some(linked) = create_unnamed(target, payload) {
        return linked;
    }
    let staged = Staged::write(target, payload)?;
    match fs::hard_link(&staged.path, target) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        linked => sync_folder(folder_of(target)).and(linked),
    }
}

/// [`create`] by way of a file that never had another name, which spares the folder two changes. `None`
/// where the file system cannot, or the folder is not there yet.
fn create_unnamed(target: &FilePath, payload: &PutPayload) -> Option<io::Result<()>> {
    let (flags, mode) = (
        OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::from(0o600),
    );
    let mut file = File::from(rustix::fs::open(folder_of(target), flags, mode).ok()?);
    let written = payload
        .iter()
        .try_for_each(|piece| file.write_all(piece))
        .and_then(|()| file.sync_data());
    if let Err(error) = written {
        return Some(Err(error));
    }
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(CWD, &unnamed, CWD, target, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Some(sync_folder(folder_of(target))),
        Err(Errno::EXIST) => {
            let there = io::Error::from(ErrorKind::AlreadyExists);
            Some(sync_folder(folder_of(target)).and(Err(there)))
        }
        Err(_) => None,
    }
}

/// Writes `target` over what is there, if that has the tag `expected` (`None`: whatever is there).
fn replace(
    root: &FilePath,
    target: &FilePath,
    payload: &PutPayload,
    expected: Option<&str>,
) -> io::Result<()> {
    let staged = Staged::write(target, payload)?;
    let _lock = lock(root)?;
    if let Some(expected) = expected {
        let current = File::open(target).and_then(|file| tag_of(&file));
        match current {
            Ok(current) if current == expected => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => return Err(io::Error::other(Mismatch)),
        }
    }
    fs::rename(&staged.path, target)?;
    sync_folder(folder_of(target))
}

fn delete(root: &FilePath, target: &FilePath) -> io::Result<()> {
    let _lock = lock(root)?;
    match fs::remove_file(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder(folder_of(target))),
    }
}

/// The lock of everybody who replaces or deletes; let go when the file is dropped, or its process dies.
fn lock(root: &FilePath) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(root.join(LOCK))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A durable file beside its target that has no name of its own yet. Removed when dropped.
struct Staged {
    path: PathBuf,
}

impl Staged {
    fn write(target: &FilePath, payload: &PutPayload) -> io::Result<Staged> {
        let (staged, mut file) = match Staged::open(target) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_folders(folder_of(target))?;
                Staged::open(target)?
            }
            opened => opened?,
        };
        for piece in payload {
            file.write_all(piece)?;
        }
        file.sync_data()?;
        Ok(staged)
    }

    fn open(target: &FilePath) -> io::Result<(Staged, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let mut path = target.as_os_str().to_owned();
            path.push(format!("#{}{number:06}", std::process::id()));
            let path = PathBuf::from(path);
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => return Ok((Staged { path }, file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already after a rename; otherwise the sweep of the next start takes what stays.
        let _ = fs::remove_file(&self.path);
    }
}

/// Creates `folder` and those above it, each durable in its parent.
fn create_folders(folder: &FilePath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder_of(folder);
    create_folders(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(parent),
    }
}

/// Removes stale staged files below `folder`, and syncs every folder.
fn tidy(folder: &FilePath) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            tidy(&entry.path())?;
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            let age = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .map(|at| at.elapsed());
            if matches!(age, Ok(Ok(age)) if age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    sync_folder(folder)
}

fn is_staged(name: &str) -> bool {
    let digits = name.rsplit_once('#').map_or("", |(_, digits)| digits);
    name != LOCK && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The tag of a small file's content.
fn tag_of(file: &File) -> io::Result<String> {
    let size = file.metadata()?.len();
    if size > TAGGED {
        return Err(io::Error::other("too large to be replaced conditionally"));
    }
    let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut content, 0)?;
    Ok(tag([&content[..]].into_iter()))
}

/// Two independent CRCs of the content: 128 bits, of which 128 random bits of the mark never share two.
fn tag<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let content = pieces.collect::<Vec<_>>().concat();
    let one = checksum(CrcAlgorithm::Crc64Xz, &content);
    let two = checksum(CrcAlgorithm::Crc64Nvme, &content);
    format!("\"{one:016x}{two:016x}\"")
}

fn store_error(error: io::Error, target: &FilePath) -> Error {
    let path = target.display().to_string();
    if is_mismatch(&error) {
        return Error::Precondition {
            path,
            source: error.into(),
        };
    }
    match error.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists {
            path,
            source: error.into(),
        },
        ErrorKind::NotFound => Error::NotFound {
            path,
            source: error.into(),
        },
        ErrorKind::PermissionDenied => Error::PermissionDenied {
            path,
            source: error.into(),
        },
        _ => Error::Generic {
            store: STORE,
            source: format!("`{path}`: {error}").into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use object_store::ObjectStoreExt;

    use super::*;
    use crate::bucket::folder::FAILS;

    fn opened() -> (tempfile::TempDir, LocalFiles) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = LocalFiles::open(&folder.path().join("deep/bucket")).expect("opens");
        (folder, files)
    }

    async fn names(files: &LocalFiles) -> Vec<String> {
        let found = files
            .list(None)
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await;
        let mut names: Vec<String> = found.expect("lists");
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn what_a_crash_leaves_is_invisible_and_swept_when_it_is_old() {
        let (_folder, files) = opened();
        let at = Path::from("leader/primary.json");
        files.put(&at, "one".into()).await.expect("writes");
        let leader = files.folder.root.join("leader");
        for (name, age) in [
            ("primary.json#71", 2 * STALE),
            ("primary.json#72", STALE / 2),
        ] {
            let file = File::create(leader.join(name)).expect("creates");
            file.set_modified(SystemTime::now() - age).expect("ages");
        }
        assert_eq!(names(&files).await, ["leader/primary.json"]);
        let again = LocalFiles::open(&files.folder.root).expect("opens");
        assert!(
            !leader.join("primary.json#71").exists(),
            "it is an hour old"
        );
        assert!(
            leader.join("primary.json#72").exists(),
            "somebody may be writing it"
        );
        assert_eq!(names(&again).await, ["leader/primary.json"]);
    }

    #[tokio::test]
    async fn nothing_is_left_behind_and_nobody_else_may_read() {
        let (_folder, files) = opened();
        let at = Path::from("nodes/a.json");
        for body in ["one", "two"] {
            let _ = files
                .put_opts(&at, body.into(), PutMode::Create.into())
                .await;
        }
        files.put(&at, "three".into()).await.expect("writes");
        let found = fs::read_dir(files.folder.root.join("nodes"))
            .expect("reads")
            .count();
        assert_eq!(found, 1);
        let mode =
            |path: &FilePath| path.metadata().expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(&files.folder.root), 0o700);
        assert_eq!(mode(&files.folder.root.join("nodes/a.json")), 0o600);
    }

    #[tokio::test]
    async fn a_tag_is_that_of_the_content_however_it_was_learned() {
        let (_folder, files) = opened();
        let at = Path::from("x");
        let written = files.put(&at, "one".into()).await.expect("writes").e_tag;
        assert!(written.is_some());
        assert_eq!(files.get(&at).await.expect("reads").meta.e_tag, written);
        assert_eq!(files.head(&at).await.expect("looks").e_tag, written);
        let other = files.put(&at, "two".into()).await.expect("writes").e_tag;
        assert_ne!(other, written);
        let options = GetOptions::new().with_if_match(written);
        let refused = files.get_opts(&at, options).await;
        assert!(
            matches!(refused, Err(Error::Precondition { .. })),
            "{refused:?}"
        );
        files.delete(&at).await.expect("deletes");
        files
            .delete(&at)
            .await
            .expect("is fine with nothing to delete");
    }

    #[tokio::test]
    async fn what_is_seen_where_a_write_failed_is_not_believed_before_it_is_durable() {
        let (_folder, files) = opened();
        let at = Path::from("chunks/1");
        files
            .put(&Path::from("chunks/0"), "zero".into())
            .await
            .expect("writes");
        let chunks = files.folder.root.join("chunks");
        *FAILS.lock() = Some(chunks.clone());
        let create = || files.put_opts(&at, "one".into(), PutMode::Create.into());
        create().await.expect_err("its name is not durable");
        assert!(chunks.join("1").exists(), "it can be seen");
        let unclear = files.get(&at).await.expect_err("it may go again");
        assert!(matches!(unclear, Error::Generic { .. }), "{unclear:?}");
        *FAILS.lock() = None;
        let found = files.get(&at).await.expect("it is durable now");
        assert_eq!(found.bytes().await.expect("reads"), "one");
        let there = create().await;
        assert!(
            matches!(there, Err(Error::AlreadyExists { .. })),
            "{there:?}"
        );
    }

    #[tokio::test]
    async fn a_folder_that_was_replaced_is_no_bucket() {
        let (_folder, files) = opened();
        let at = Path::from("leader/primary.json");
        files.put(&at, "one".into()).await.expect("writes");
        let root = &files.folder.root;
        let away = root.with_extension("away");
        fs::rename(root, &away).expect("moves");
        for replaced in [false, true] {
            if replaced {
                fs::create_dir(root).expect("creates");
            }
            let found = files.get(&at).await.expect_err("it is elsewhere");
            assert!(matches!(found, Error::Generic { .. }), "{found:?}");
            let listed: Result<Vec<_>> = files.list(None).try_collect().await;
            listed.expect_err("nothing is known of it");
            let written = files.put_opts(&at, "two".into(), PutMode::Create.into());
            written.await.expect_err("it would be another bucket");
            files.delete(&at).await.expect_err("it is elsewhere");
        }
        fs::remove_dir(root).expect("nothing was written there");
        fs::rename(&away, root).expect("moves back");
        files.get(&at).await.expect("it is back");
    }
}
