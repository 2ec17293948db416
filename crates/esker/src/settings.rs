//! The one place where the environment is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_compactor::{Compactor, DirectoryScratch, Options};
use esker_format::{Error, Kind, Name, Result};
use esker_store::{Client, Location, MokaCache, Seams, Store, StoreEnv, open};
use tracing_subscriber::EnvFilter;

use crate::serve::settings::LogFormat;
use crate::serve::trace::{self, Traces};

/// What is logged, in `tracing`'s filter syntax.
const LOG: &str = "ESKER_LOG";
/// The key for a server.
const API_KEY: &str = "ESKER_API_KEY";
/// Bytes of immutable ranges kept in memory by a command.
const CACHE_BYTES: u64 = 1 << 30;

/// Sends the log to stderr.
pub fn start_log() {
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}

/// Sends a server's log to stderr, and its traces to a collector.
pub fn serve_log(format: LogFormat, otlp: Option<&str>) -> Result<Traces> {
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    trace::start(filter, format, otlp)
}

/// The variables that stores understand.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn environment() -> StoreEnv {
    std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect()
}

/// The key for a server: what a file holds, else what the environment does.
///
/// # Errors
/// Invalid when the file cannot be read.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn api_key(file: Option<&Path>) -> Result<Option<String>> {
    let key = match file {
        None => std::env::var(API_KEY).ok(),
        Some(path) => Some(std::fs::read_to_string(path).map_err(|e| {
            Error::invalid("key-file", format!("cannot read {}: {e}", path.display())).with_source(e)
        })?),
    };
    Ok(key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()))
}

/// The store at `url`. `create`: a directory that does not exist is made.
pub fn open_store(url: &str, create: bool) -> Result<Arc<Store>> {
    open_store_with(url, create, CACHE_BYTES)
}

/// [`open_store`] with a cache of `cache_bytes`.
pub fn open_store_with(url: &str, create: bool, cache_bytes: u64) -> Result<Arc<Store>> {
    let location = Location::parse(url)?;
    let backend = open(&location, &environment(), create).map_err(|e| match e.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("there is no store at {location}"))
            .with_hint("import, collection create, doctor and demo make one"),
        _ => e,
    })?;
    let client = Client::new(backend, Seams::system()).with_cache(Arc::new(MokaCache::new(cache_bytes)));
    // A disk that is late is not sooner when asked twice.
    let client = if matches!(location, Location::S3 { .. }) { client.with_hedging() } else { client };
    Ok(Arc::new(Store::new(client)))
}

/// What a command may use of the machine.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Bytes of memory to plan with.
    pub memory: u64,
    /// Where a compaction puts what does not fit.
    pub scratch: PathBuf,
}

/// Memory unless it is said.
const MEMORY: u64 = 1 << 30;
/// Least memory to plan with.
const LEAST_MEMORY: u64 = 64 << 20;
/// Share of the memory that caches.
const CACHE_SHARE: u64 = 8;

impl Resources {
    /// From the command line.
    ///
    /// # Errors
    /// Invalid when the memory is too little to plan with.
    pub fn new(memory: Option<u64>, scratch: Option<PathBuf>) -> Result<Self> {
        let memory = memory.unwrap_or(MEMORY);
        if memory < LEAST_MEMORY {
            return Err(Error::invalid("memory", "a command needs 64MiB or more"));
        }
        Ok(Resources { memory, scratch: scratch.unwrap_or_else(std::env::temp_dir) })
    }

    /// [`open_store`] with a cache that fits.
    pub fn open_store(&self, url: &str, create: bool) -> Result<Arc<Store>> {
        open_store_with(url, create, self.memory / CACHE_SHARE)
    }

    /// A compactor with the machine to itself.
    pub fn compactor(&self) -> Compactor {
        let options = Options { threads: threads(), memory: self.memory, ..Options::default() };
        Compactor::new(options).with_scratch(Arc::new(DirectoryScratch::new(&self.scratch)))
    }
}

impl Default for Resources {
    fn default() -> Self {
        Resources { memory: MEMORY, scratch: std::env::temp_dir() }
    }
}

/// A collection's name as an argument.
pub fn name(text: &str) -> Result<Name> {
    Name::new(text)
}

/// Threads for work that uses all of the machine.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
