//! The one place where the environment is read.

use std::sync::Arc;

use esker_format::{Error, Kind, Name, Result};
use esker_store::{Client, Location, MokaCache, Seams, Store, StoreEnv, open};
use tracing_subscriber::EnvFilter;

/// What is logged, in `tracing`'s filter syntax.
const LOG: &str = "ESKER_LOG";
/// Bytes of immutable ranges kept in memory by a command.
const CACHE_BYTES: u64 = 1 << 30;

/// Sends the log to stderr.
pub fn start_log() {
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}

/// The variables that stores understand.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn environment() -> StoreEnv {
    std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect()
}

/// The store at `url`. `create`: a directory that does not exist is made.
pub fn open_store(url: &str, create: bool) -> Result<Arc<Store>> {
    let location = Location::parse(url)?;
    let backend = open(&location, &environment(), create).map_err(|e| match e.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("there is no store at {location}"))
            .with_hint("import, collection create, doctor and demo make one"),
        _ => e,
    })?;
    let client = Client::new(backend, Seams::system()).with_cache(Arc::new(MokaCache::new(CACHE_BYTES)));
    Ok(Arc::new(Store::new(client)))
}

/// A collection's name as an argument.
pub fn name(text: &str) -> Result<Name> {
    Name::new(text)
}

/// Threads for work that uses all of the machine.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
