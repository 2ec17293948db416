//! A local directory as an object store whose acknowledged writes survive power loss.
//!
//! Reads, listings and deletes are object_store's. Puts are ours, because object_store never syncs: the bytes go
//! to a temporary file beside the target, which is synced; a hard link (create) or a rename (overwrite) publishes
//! it; the directory is synced; the temporary name goes last. A whole file that has no name yet gets the temporary one instead. A link before the sync would let a rival build on an
//! entry that power loss then takes away. Temporary names (`name#digits`) are those that object_store hides; a
//! crash leaves them behind.

use std::collections::HashSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

const STORE: &str = "Directory";

/// An object store in a local directory.
#[derive(Debug, Clone)]
pub struct Directory {
    reads: LocalFileSystem,
    disk: Arc<Disk>,
}

/// What every put needs: the root, names for temporary files, and which directories are known to be durable.
#[derive(Debug)]
struct Disk {
    root: PathBuf,
    next_temp: AtomicU64,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Directory {
    /// The store in `root`. A missing directory is made if `create`, else it is `NotFound`.
    pub fn open(root: &FsPath, create: bool) -> Result<Self> {
        let failed = |source: io::Error| error(root, source);
        if create {
            std::fs::create_dir_all(root).map_err(failed)?;
        }
        let root = root.canonicalize().map_err(failed)?;
        let reads = LocalFileSystem::new_with_prefix(&root)?;
        // Another process may write here too: the process id keeps temporary names apart.
        let first = u64::from(std::process::id()) << 32;
        let disk = Disk { root, next_temp: AtomicU64::new(first), durable: Mutex::default() };
        Ok(Directory { reads, disk: Arc::new(disk) })
    }

    /// Temporary files of puts below a folder, whether still being written or left behind by a crash: name relative to
    /// the root, bytes, and when last written in milliseconds since the epoch.
    pub(crate) async fn temporary(&self, folder: &str) -> Result<Vec<(String, u64, i64)>> {
        let (root, folder) = (self.disk.root.clone(), self.disk.root.join(folder));
        blocking(move || {
            let mut found = Vec::new();
            temporary(&root, &folder, &mut found).map_err(|e| error(&folder, e))?;
            found.sort();
            Ok(found)
        })
        .await
    }

    /// Removes a temporary file; one that is gone by now is no error.
    #[allow(clippy::disallowed_methods, reason = "a temporary name is no object")]
    pub(crate) async fn remove_temporary(&self, name: &str) -> Result<()> {
        let path = self.disk.root.join(name);
        blocking(move || match is_temporary(&path) {
            false => Err(generic(format!("{} is no temporary file", path.display()))),
            true => match std::fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(error(&path, e)),
                _ => Ok(()),
            },
        })
        .await
    }

    /// Gives a file that has no name a temporary one beside `location`: nothing is copied. `None` where that cannot be, as for a
    /// file of another file system; its bytes are then to be put. Nothing may write to the file any more.
    #[cfg(target_os = "linux")]
    pub(crate) async fn adopt(&self, location: &Path, file: File) -> Result<Option<Adopted>> {
        use std::os::fd::AsRawFd;

        use rustix::fs::{AtFlags, CWD, linkat};
        let (disk, target) = (self.disk.clone(), self.reads.path_to_filesystem(location)?);
        blocking(move || {
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            let temp = disk.temp(&target, |path| {
                linkat(CWD, &open, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
                file.try_clone()
            });
            // What is wrong with the directory, who puts the bytes is told.
            Ok(temp.ok().map(|temp| Adopted { disk: disk.clone(), temp, target }))
        })
        .await
    }

    /// Elsewhere a file without a name stays so.
    #[cfg(not(target_os = "linux"))]
    pub(crate) async fn adopt(&self, _location: &Path, _file: File) -> Result<Option<Adopted>> {
        Ok(None)
    }

    /// Takes an object out of the page cache, as far as it is on the disk.
    #[cfg(target_os = "linux")]
    pub(crate) async fn evict(&self, location: &Path) {
        use rustix::fs::{Advice, fadvise};
        let Ok(path) = self.reads.path_to_filesystem(location) else { return };
        let evict =
            move || Ok(fadvise(File::open(&path).map_err(|e| error(&path, e))?, 0, None, Advice::DontNeed));
        drop(blocking(evict).await);
    }

    /// Elsewhere it stays there.
    #[cfg(not(target_os = "linux"))]
    pub(crate) async fn evict(&self, _location: &Path) {}

    fn not_implemented(&self, operation: &str) -> Error {
        Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() }
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({})", self.disk.root.display())
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if !opts.attributes.is_empty() {
            return Err(self.not_implemented("put with attributes"));
        }
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(self.not_implemented("put with PutMode::Update")),
        };
        let target = self.reads.path_to_filesystem(location)?;
        let disk = self.disk.clone();
        blocking(move || {
            let mut temp = disk.temp(&target, create_new)?;
            payload
                .iter()
                .try_for_each(|chunk| temp.file.write_all(chunk))
                .map_err(|e| error(&temp.path, e))?;
            disk.publish(temp, &target, create)
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(self.not_implemented("multipart upload with attributes"));
        }
        let target = self.reads.path_to_filesystem(location)?;
        let disk = self.disk.clone();
        let (temp, target) = blocking(move || Ok((disk.temp(&target, create_new)?, target))).await?;
        let upload =
            DirectoryUpload { disk: self.disk.clone(), temp: Some(Arc::new(temp)), target, length: 0 };
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        // What a warm read asks for is most often not there: told at once, without another thread.
        let path = self.reads.path_to_filesystem(location)?;
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(error(&path, e)),
            _ => self.reads.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.reads.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.reads.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.reads.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut list = self.reads.list_with_delimiter(prefix).await?;
        list.objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(list)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.reads.copy_opts(from, to, options).await?;
        let (disk, target) = (self.disk.clone(), self.reads.path_to_filesystem(to)?);
        blocking(move || disk.sync_parent(&target)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.reads.rename_opts(from, to, options).await?;
        let (disk, from, to) =
            (self.disk.clone(), self.reads.path_to_filesystem(from)?, self.reads.path_to_filesystem(to)?);
        blocking(move || {
            disk.sync_parent(&to)?;
            disk.sync_parent(&from)
        })
        .await
    }
}

impl Disk {
    /// A temporary file beside `target`, in a directory that exists durably; `make` gives it its name.
    fn temp(&self, target: &FsPath, make: impl Fn(&FsPath) -> io::Result<File>) -> Result<Temp> {
        let parent = target.parent().unwrap_or(&self.root);
        self.make_durable(parent)?;
        loop {
            let mut name = target.as_os_str().to_owned();
            name.push(format!("#{}", self.next_temp.fetch_add(1, Ordering::Relaxed)));
            let path = PathBuf::from(name);
            match make(&path) {
                Ok(file) => return Ok(Temp { file, path }),
                // Left behind by an earlier process with our id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(error(&path, e)),
            }
        }
    }

    /// Makes `temp` the object `target`. On success it survives power loss.
    fn publish(&self, temp: Temp, target: &FsPath, create: bool) -> Result<PutResult> {
        temp.file.sync_all().map_err(|e| error(&temp.path, e))?;
        let linked = match create {
            true => std::fs::hard_link(&temp.path, target),
            false => std::fs::rename(&temp.path, target),
        };
        // A rival's name is made durable too before anyone is told of it: what follows may build on it.
        if linked.is_ok() || linked.as_ref().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists) {
            self.sync_parent(target)?;
        }
        linked.map_err(|e| error(target, e))?;
        let meta = temp.file.metadata().map_err(|e| error(target, e))?;
        Ok(PutResult { e_tag: Some(etag(&meta)), version: None })
    }

    fn sync_parent(&self, target: &FsPath) -> Result<()> {
        sync_directory(target.parent().unwrap_or(&self.root))
    }

    /// Makes `directory` and syncs every directory from it up to the root's parent, once per process: whoever made
    /// one may not have come to syncing it.
    fn make_durable(&self, directory: &FsPath) -> Result<()> {
        if self.durable().contains(directory) {
            return match directory.is_dir() {
                true => Ok(()),
                false => {
                    self.durable().clear();
                    self.make_durable(directory)
                }
            };
        }
        std::fs::create_dir_all(directory).map_err(|e| error(directory, e))?;
        let mut synced = Vec::new();
        for ancestor in directory.ancestors() {
            if self.durable().contains(ancestor) {
                break;
            }
            let above_root = !ancestor.starts_with(&self.root);
            match sync_directory(ancestor) {
                // The directory above the root may be one that we cannot open.
                Err(_) if above_root => break,
                synced => synced?,
            }
            if above_root {
                break;
            }
            synced.push(ancestor.to_owned());
        }
        self.durable().extend(synced);
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that was made elsewhere, on its way to become an object.
pub(crate) struct Adopted {
    disk: Arc<Disk>,
    temp: Temp,
    target: PathBuf,
}

impl Adopted {
    /// Publishes it like any put.
    pub(crate) async fn publish(self) -> Result<PutResult> {
        let Adopted { disk, temp, target } = self;
        blocking(move || disk.publish(temp, &target, false)).await
    }
}

/// A temporary file. Its name goes when it is dropped, published or not.
#[derive(Debug)]
struct Temp {
    file: File,
    path: PathBuf,
}

impl Drop for Temp {
    #[allow(clippy::disallowed_methods, reason = "a temporary name is no object")]
    fn drop(&mut self) {
        // Gone already after a rename.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Parts stream to a temporary file, which `complete` publishes like any put.
#[derive(Debug)]
struct DirectoryUpload {
    disk: Arc<Disk>,
    temp: Option<Arc<Temp>>,
    target: PathBuf,
    length: u64,
}

#[async_trait]
impl MultipartUpload for DirectoryUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut offset = self.length;
        self.length += data.content_length() as u64;
        let Some(temp) = self.temp.clone() else {
            return futures::future::ready(Err(ended())).boxed();
        };
        blocking(move || {
            for chunk in &data {
                temp.file.write_all_at(chunk, offset).map_err(|e| error(&temp.path, e))?;
                offset += chunk.len() as u64;
            }
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let temp = self.temp.take().and_then(Arc::into_inner).ok_or_else(ended)?;
        let (disk, target, length) = (self.disk.clone(), self.target.clone(), self.length);
        blocking(move || {
            let written = temp.file.metadata().map_err(|e| error(&temp.path, e))?.len();
            if written != length {
                return Err(generic(format!(
                    "{written} of {length} bytes of {} were written",
                    target.display()
                )));
            }
            disk.publish(temp, &target, false)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.temp.take().map(drop).ok_or_else(ended)
    }
}

fn create_new(path: &FsPath) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Whether a name is one that [`Disk::temp`] gives.
fn is_temporary(path: &FsPath) -> bool {
    let name = path.file_name().and_then(|n| n.to_str());
    let digits = name.and_then(|n| n.rsplit_once('#')).map(|(_, digits)| digits);
    digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

fn temporary(root: &FsPath, folder: &FsPath, found: &mut Vec<(String, u64, i64)>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let meta = match entry.metadata() {
            // Published or given up since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() {
            temporary(root, &path, found)?;
        } else if is_temporary(&path)
            && let Some(name) = path.strip_prefix(root).ok().and_then(FsPath::to_str)
        {
            let modified = meta.mtime().saturating_mul(1000).saturating_add(meta.mtime_nsec() / 1_000_000);
            found.push((name.to_owned(), meta.len(), modified));
        }
    }
    Ok(())
}

fn sync_directory(path: &FsPath) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| error(path, e))
}

/// The tag that object_store's reads give the same file: inode, modification time in µs and size, in hex.
fn etag(meta: &std::fs::Metadata) -> String {
    let micros = meta.mtime() as i128 * 1_000_000 + i128::from(meta.mtime_nsec()) / 1000;
    format!("{:x}-{:x}-{:x}", meta.ino(), micros, meta.len())
}

fn sorted(list: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let collected = async move {
        let mut all: Vec<ObjectMeta> = list.try_collect().await?;
        all.sort_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, Error>(stream::iter(all.into_iter().map(Ok)))
    };
    stream::once(collected).try_flatten().boxed()
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await?
}

fn error(path: &FsPath, source: io::Error) -> Error {
    let shown = path.display().to_string();
    match source.kind() {
        ErrorKind::NotFound => Error::NotFound { path: shown, source: source.into() },
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: shown, source: source.into() },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path: shown, source: source.into() },
        _ => generic(format!("{shown}: {source}")),
    }
}

fn generic(message: String) -> Error {
    Error::Generic { store: STORE, source: message.into() }
}

fn ended() -> Error {
    generic("the upload has ended".to_owned())
}

#[cfg(test)]
mod tests;
