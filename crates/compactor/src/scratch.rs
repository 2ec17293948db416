//! Where a compaction puts what does not fit its memory: files that are appended to, read back in ranges and gone with the
//! compaction.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;
#[cfg(target_os = "linux")]
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(target_os = "linux")]
use std::thread::Builder;

use bytes::Bytes;
use esker_format::{Error, Kind, Result};
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

/// Bytes that are copied at once.
const COPY: usize = 1 << 20;
/// Bytes gathered before they are appended.
const GATHERED: usize = 256 << 10;

/// Makes files.
pub trait Scratch: Debug + Send + Sync {
    /// A new, empty file, which goes when the last handle does.
    fn file(&self) -> io::Result<Arc<dyn ScratchFile>>;
}

/// A file that is appended to.
pub trait ScratchFile: Send + Sync {
    /// Appends bytes, or puts them where [`ScratchFile::reuse`] made room: where they start.
    fn append(&self, bytes: &[u8]) -> io::Result<u64>;
    /// Fills `out` with the bytes from `at` on.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()>;
    /// So many bytes from `at` on.
    fn range(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; length];
        self.read(at, &mut out)?;
        Ok(out)
    }
    /// Number of bytes.
    fn length(&self) -> u64;
    /// Gives the space of some bytes, which are not read again, to what is appended next.
    fn reuse(&self, at: u64, length: u64) {
        self.discard(at, length);
    }
    /// Gives the space of some bytes back, which are not read again: where there are holes in files, they will read as zeros.
    fn discard(&self, _at: u64, _length: u64) {}
    /// The file itself, if it is one that the operating system knows and nothing of it was given back. It stays as it is then: nothing
    /// can be appended or given back.
    fn seal(&self) -> Option<File> {
        None
    }
}

/// Files in memory: for tests, and for who has more memory than disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryScratch;

impl Scratch for MemoryScratch {
    fn file(&self) -> io::Result<Arc<dyn ScratchFile>> {
        Ok(Arc::new(Mutex::new(Vec::new())))
    }
}

impl ScratchFile for Mutex<Vec<u8>> {
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut all = locked(self);
        let at = all.len() as u64;
        all.extend_from_slice(bytes);
        Ok(at)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let all = locked(self);
        let from = all.get(at as usize..at as usize + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> u64 {
        locked(self).len() as u64
    }

    /// What is read nevertheless is as wrong as on a disk.
    fn discard(&self, at: u64, length: u64) {
        if let Some(gone) = locked(self).get_mut(at as usize..(at + length) as usize) {
            gone.fill(0);
        }
    }
}

/// Unnamed files in a directory. It should be on a disk: in a file system that lives in memory they take memory.
#[derive(Debug, Clone)]
pub struct DirectoryScratch(PathBuf);

impl DirectoryScratch {
    /// Files in `directory`, which must exist when the first is made.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        DirectoryScratch(directory.into())
    }
}

impl Scratch for DirectoryScratch {
    fn file(&self) -> io::Result<Arc<dyn ScratchFile>> {
        let file = tempfile::tempfile_in(&self.0)
            .map_err(|e| io::Error::new(e.kind(), format!("in {}: {e}", self.0.display())))?;
        Ok(Arc::new(OnDisk { file, state: Mutex::default() }))
    }
}

struct OnDisk {
    file: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    length: u64,
    sealed: bool,
    /// What may be written over; there once something was given to be.
    room: Option<Vec<Range<u64>>>,
    /// There once something was discarded. Dropped, the thread ends when all is done.
    #[cfg(target_os = "linux")]
    discarding: Option<Sender<(u64, u64)>>,
}

impl ScratchFile for OnDisk {
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut state = locked(&self.state);
        if state.sealed {
            return Err(io::Error::other("the file was sealed"));
        }
        let (length, end) = (bytes.len() as u64, state.length);
        let mut room = state.room.iter_mut().flatten();
        let room = room.find(|room| length > 0 && room.end - room.start >= length);
        let at = room.as_ref().map_or(end, |room| room.start);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        match room {
            Some(room) => room.start += length,
            None => state.length += length,
        }
        Ok(at)
    }

    /// Beside other reads, where a file can be read at a place.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, out, at);
        #[cfg(not(unix))]
        {
            let _alone = locked(&self.state);
            let mut file = &self.file;
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(out)
        }
    }

    /// Into memory that was not filled with zeros first.
    #[cfg(target_os = "linux")]
    fn range(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        use rustix::buffer::spare_capacity;
        use rustix::io::{Errno, pread};
        let mut out = Vec::with_capacity(length);
        while out.len() < length {
            let from = at + out.len() as u64;
            match pread(&self.file, spare_capacity(&mut out), from) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e != Errno::INTR => return Err(e.into()),
                _ => {}
            }
        }
        out.truncate(length);
        Ok(out)
    }

    fn length(&self) -> u64 {
        locked(&self.state).length
    }

    /// A page that is there costs a copy; for a new one the kernel, and under a virtual machine its host, has to find room.
    fn reuse(&self, at: u64, length: u64) {
        let mut state = locked(&self.state);
        if state.sealed {
            return;
        }
        let room = state.room.get_or_insert_default();
        room.retain(|room| !room.is_empty());
        match room.iter_mut().find(|room| room.end == at) {
            Some(room) => room.end += length,
            None => room.push(at..at + length),
        }
    }

    /// What was just read is in the page cache, and not yet on the disk if it is young: it need never get there, and its pages
    /// take what is written next. A thread of its own waits for the disk, which may take milliseconds to hear of each hole.
    #[cfg(target_os = "linux")]
    fn discard(&self, at: u64, length: u64) {
        let mut state = locked(&self.state);
        if state.sealed {
            return;
        }
        if state.discarding.is_none() {
            state.discarding = discarding(&self.file).ok();
        }
        state.discarding.as_ref().map(|holes| holes.send((at, length)));
    }

    fn seal(&self) -> Option<File> {
        let mut state = locked(&self.state);
        // Holes may still be made.
        #[cfg(target_os = "linux")]
        if state.discarding.is_some() {
            return None;
        }
        if state.room.is_some() {
            return None;
        }
        let file = self.file.try_clone().ok()?;
        state.sealed = true;
        Some(file)
    }
}

/// A thread that makes holes in a file.
#[cfg(target_os = "linux")]
fn discarding(file: &File) -> io::Result<Sender<(u64, u64)>> {
    use rustix::fs::{FallocateFlags, fallocate};
    let file = file.try_clone()?;
    let (sender, holes) = channel();
    Builder::new().name("discard".into()).spawn(move || {
        for (at, length) in holes {
            // Some file systems cannot.
            fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length).ok();
        }
    })?;
    Ok(sender)
}

/// Locks. Nothing panics while it is held, so a poisoned lock is as good.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a failing scratch means for who asked for a compaction.
pub(crate) fn broken(e: io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("the scratch space of the compaction failed: {e}"))
        .with_hint(
            "it needs up to three times the bytes of the rows; name another directory, or allow more memory",
        )
        .with_source(e)
}

/// A file being written, with the checksum of what passed.
pub(crate) struct Spooling {
    file: Arc<dyn ScratchFile>,
    gathered: Vec<u8>,
    crc: u32,
}

impl Spooling {
    pub(crate) fn new(scratch: &dyn Scratch) -> Result<Self> {
        let file = scratch.file().map_err(broken)?;
        Ok(Spooling { file, gathered: Vec::with_capacity(GATHERED), crc: 0 })
    }

    /// The file, and the CRC32C of its bytes.
    pub(crate) fn finish(mut self) -> Result<(Arc<dyn ScratchFile>, u32)> {
        self.send().map_err(broken)?;
        Ok((self.file, self.crc))
    }

    fn send(&mut self) -> io::Result<()> {
        self.file.append(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }
}

impl Write for Spooling {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        if self.gathered.len() + bytes.len() > GATHERED {
            self.send()?;
        }
        match bytes.len() > GATHERED {
            true => drop(self.file.append(bytes)?),
            false => self.gathered.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    /// What is gathered stays so: only the end of the file matters.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a whole file to a sink.
pub(crate) fn copy(file: &dyn ScratchFile, sink: &mut dyn Write) -> io::Result<()> {
    let (mut at, end) = (0, file.length());
    let mut part = vec![0; COPY];
    while at < end {
        let part = &mut part[..COPY.min((end - at) as usize)];
        file.read(at, part)?;
        sink.write_all(part)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// A file as the Parquet reader takes it.
#[derive(Clone)]
pub(crate) struct Chunks(pub(crate) Arc<dyn ScratchFile>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.length()
    }
}

impl ChunkReader for Chunks {
    type T = io::BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(io::BufReader::new(From { file: Arc::clone(&self.0), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        Ok(self.0.range(start, length)?.into())
    }
}

/// A file from a place on.
pub(crate) struct From {
    file: Arc<dyn ScratchFile>,
    at: u64,
}

impl Read for From {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.file.length().saturating_sub(self.at) as usize);
        self.file.read(self.at, &mut out[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
