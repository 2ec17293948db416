//! What a function is told: environment variables, read once at its cold start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use esker_format::quantity::{duration, size};
use esker_format::{Error, Result};
use esker_store::{Client, Location, MokaCache, Seams, Store, StoreEnv, open};

/// Memory to plan with where the platform does not say.
const MEMORY: u64 = 512 << 20;
/// Least memory to plan with: that of the smallest function.
const LEAST_MEMORY: u64 = 128 << 20;
/// Versions stay readable this long.
const RETAIN: Duration = Duration::from_secs(3600);

/// The settings of a function.
#[derive(Clone)]
pub struct Settings {
    /// `ESKER_STORE`: a store's URL.
    pub store: Location,
    /// `ESKER_MEMORY`, else what the platform gives the function: bytes to plan with.
    pub memory: u64,
    /// `ESKER_SCRATCH`, else `/tmp`: where a compaction puts what does not fit its memory.
    pub scratch: PathBuf,
    /// `ESKER_RETAIN`: versions younger than this stay readable by `as_of`.
    pub retain: Duration,
    /// `ESKER_INGEST_FUNCTION`: the name or ARN of the function that writes for this one.
    pub ingest: Option<String>,
    /// `ESKER_DEAD_LETTERS`: the URL of the queue for messages that can never be written.
    pub dead_letters: Option<String>,
    /// What the store and other services of the platform understand: `AWS_*`.
    pub(crate) aws: BTreeMap<String, String>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// Invalid, naming the variable.
    pub fn read(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let vars: BTreeMap<String, String> =
            vars.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let text = |name: &str| vars.get(name).cloned();
        let wrong = |name: &'static str| move |problem: String| Error::invalid(name, problem);
        let store = text("ESKER_STORE").ok_or_else(|| {
            Error::invalid("ESKER_STORE", "the variable is not set")
                .with_hint("set it to the store's URL, s3://bucket/prefix")
        })?;
        let given = text("ESKER_MEMORY").map(|m| size(&m).map_err(wrong("ESKER_MEMORY"))).transpose()?;
        let platform = || text("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")?.parse::<u64>().ok()?.checked_mul(1 << 20);
        let memory = given.or_else(platform).unwrap_or(MEMORY);
        if memory < LEAST_MEMORY {
            return Err(Error::invalid("ESKER_MEMORY", "a function needs 128MiB or more"));
        }
        let retain = text("ESKER_RETAIN").map(|t| duration(&t).map_err(wrong("ESKER_RETAIN"))).transpose()?;
        Ok(Settings {
            store: Location::parse(&store)?,
            memory,
            scratch: text("ESKER_SCRATCH").unwrap_or_else(|| "/tmp".to_owned()).into(),
            retain: retain.unwrap_or(RETAIN),
            ingest: text("ESKER_INGEST_FUNCTION"),
            dead_letters: text("ESKER_DEAD_LETTERS"),
            aws: vars.into_iter().filter(|(name, _)| name.starts_with("AWS_")).collect(),
        })
    }

    /// Opens the store, with a quarter of the memory as its cache. No request is sent.
    ///
    /// # Errors
    /// Invalid when the store's URL or credentials make no sense.
    pub fn open(&self) -> Result<Arc<Store>> {
        let backend = open(&self.store, &self.store_env(), true)?;
        let client = Client::new(backend, Seams::system());
        let client = client.with_cache(Arc::new(MokaCache::new(self.memory / 4)));
        let client = if matches!(self.store, Location::S3 { .. }) { client.with_hedging() } else { client };
        Ok(Arc::new(Store::new(client)))
    }

    pub(crate) fn store_env(&self) -> StoreEnv {
        self.aws.clone().into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
