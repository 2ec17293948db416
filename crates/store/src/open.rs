//! From a store URL to a store: a path, `file://`, `memory:` or `s3://bucket/prefix`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use esker_format::{Error, Kind, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::list::PaginatedListStore;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::directory::Directory;

/// A connection that nothing was sent over for this long is not used again: S3 closes it soon, and to a process that was
/// frozen meanwhile it may look open.
const IDLE: Duration = Duration::from_secs(20);

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Directory(PathBuf),
    /// This process's memory: gone when it ends.
    Memory,
    /// A bucket, with the prefix that every key starts with (empty = none).
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The prefix, without slashes at either end.
        prefix: String,
    },
}

impl Location {
    /// Reads a store URL. Anything without a scheme is a path.
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = |message: String| {
            Error::invalid("store", message)
                .with_hint("use a path, file:///path, memory: or s3://bucket/prefix")
        };
        if url.is_empty() {
            return Err(wrong("the store's URL is empty".to_owned()));
        }
        if url == "memory:" || url == "memory://" {
            return Ok(Location::Memory);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Ok(Location::Directory(PathBuf::from(url)));
        };
        match scheme {
            "file" => match url::Url::parse(url).ok().and_then(|u| u.to_file_path().ok()) {
                Some(path) => Ok(Location::Directory(path)),
                None => Err(wrong(format!("`{url}` names no absolute path"))),
            },
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_matches('/');
                if bucket.is_empty() || bucket.contains(['?', '#', '@', ':']) {
                    return Err(wrong(format!("`{url}` names no bucket")));
                }
                if Path::parse(prefix).is_err() {
                    return Err(wrong(format!("`{prefix}` cannot be a prefix of keys")));
                }
                Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ => Err(wrong(format!("`{scheme}` is not a kind of store"))),
        }
    }

    /// Whether everything stored is lost when the process ends.
    pub fn is_volatile(&self) -> bool {
        matches!(self, Location::Memory)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => write!(f, "{}", path.display()),
            Location::Memory => f.write_str("memory: (volatile: everything is lost when this process ends)"),
            Location::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The environment variables a store may need, read once by the program's entry and passed in.
///
/// For S3: every standard `AWS_*` variable that object_store knows, among them `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` before `AWS_DEFAULT_REGION`, and
/// `AWS_ENDPOINT_URL_S3` before `AWS_ENDPOINT_URL`.
#[derive(Clone, Default)]
pub struct StoreEnv(BTreeMap<String, String>);

impl StoreEnv {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for StoreEnv {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        StoreEnv(vars.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl fmt::Debug for StoreEnv {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A store and how to list it a page at a time. Every key goes under `prefix`.
#[derive(Clone)]
pub struct Backend {
    /// The store.
    pub objects: Arc<dyn ObjectStore>,
    /// One bounded LIST request, where the store has it; else listings go through `objects`.
    pub pages: Option<Arc<dyn PaginatedListStore>>,
    /// What every key starts with.
    pub prefix: Path,
    /// Uploads in parts that outlive a process, where the store has them.
    pub(crate) parts: Option<Arc<dyn MultipartStore>>,
    /// Signs requests for those who have no credentials; a bucket can.
    pub(crate) signer: Option<Arc<dyn Signer>>,
    /// A directory, whose puts leave temporary files behind when their process dies.
    pub(crate) directory: Option<Directory>,
}

impl Backend {
    /// A store with nothing special about its listings, keys used as they are.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Backend { objects, pages: None, prefix: Path::default(), parts: None, signer: None, directory: None }
    }

    /// A store that lists page by page.
    pub fn paged<S: ObjectStore + PaginatedListStore>(store: Arc<S>, prefix: Path) -> Self {
        Backend {
            objects: store.clone(),
            pages: Some(store),
            prefix,
            parts: None,
            signer: None,
            directory: None,
        }
    }

    /// The same store, whose uploads in parts can be resumed through `parts`.
    #[must_use]
    pub fn with_parts(self, parts: Arc<dyn MultipartStore>) -> Self {
        Backend { parts: Some(parts), ..self }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({} /{})", self.objects, self.prefix)
    }
}

/// Opens the store at `location`. `create` makes a missing directory; without it that is an error.
///
/// No request is sent to S3 here: wrong credentials show at the first request.
pub fn open(location: &Location, env: &StoreEnv, create: bool) -> Result<Backend> {
    match location {
        Location::Memory => Ok(Backend::new(Arc::new(InMemory::new()))),
        Location::Directory(path) => {
            let directory = Directory::open(path, create).map_err(|e| cannot_open(location, e))?;
            Ok(Backend { directory: Some(directory.clone()), ..Backend::new(Arc::new(directory)) })
        }
        Location::S3 { bucket, prefix } => {
            let s3 = s3(bucket, env).map_err(|e| cannot_open(location, e))?;
            let prefix = Path::parse(prefix).map_err(|e| {
                Error::invalid("store", format!("`{prefix}` cannot be a prefix of keys: {e}"))
            })?;
            let s3 = Arc::new(s3);
            let backend = Backend::paged(s3.clone(), prefix).with_parts(s3.clone());
            Ok(Backend { signer: Some(s3), ..backend })
        }
    }
}

fn cannot_open(location: &Location, e: object_store::Error) -> Error {
    let kind = match e {
        object_store::Error::NotFound { .. } => Kind::NotFound,
        _ => Kind::Invalid,
    };
    Error::new(kind, format!("cannot open the store {location}: {e}")).with_source(e)
}

/// A bucket, with what the environment says of region, endpoint and credentials. No request is sent.
///
/// Our own retries sit above the counter, so the client has none; the timeout is a last resort above ours.
///
/// # Errors
/// Those of object_store, for variables that contradict each other.
pub fn s3(bucket: &str, env: &StoreEnv) -> object_store::Result<AmazonS3> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in env.0.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = env.get("AWS_ENDPOINT_URL_S3").or_else(|| env.get("AWS_ENDPOINT_URL"));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let region = env.get("AWS_REGION").or_else(|| env.get("AWS_DEFAULT_REGION"));
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    let options = ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|e| e.starts_with("http://")))
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(120))
        // Above the 64 requests that one wave may have in flight, so that the next wave reuses every connection.
        .with_pool_max_idle_per_host(128)
        .with_pool_idle_timeout(IDLE);
    builder
        .with_bucket_name(bucket)
        .with_client_options(options)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_tagging(true)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()
}

#[cfg(test)]
mod tests;
