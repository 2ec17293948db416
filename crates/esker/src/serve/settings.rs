//! What a server can be told: defaults < environment < flags. clap reads both, here is what they mean.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
pub use esker_format::quantity::{duration, size};
use esker_format::{Error, Result};

/// The settings of `esker serve`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Where HTTP is served
    #[arg(
        long,
        env = "ESKER_HTTP",
        hide_env_values = true,
        value_name = "ADDR",
        default_value = "127.0.0.1:5678"
    )]
    pub http: SocketAddr,
    /// Where gRPC and gRPC-Web are served
    #[arg(
        long,
        env = "ESKER_GRPC",
        hide_env_values = true,
        value_name = "ADDR",
        default_value = "127.0.0.1:5679"
    )]
    pub grpc: SocketAddr,
    /// Requests need one of the keys in this file (see `esker key create`)
    #[arg(long, env = "ESKER_KEYS", hide_env_values = true, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Listen on an address that others can reach although no key is needed
    #[arg(long, env = "ESKER_INSECURE", hide_env_values = true)]
    pub insecure: bool,
    /// Speak TLS with the certificates in this PEM file, leaf first
    #[arg(long, env = "ESKER_TLS_CERT", hide_env_values = true, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, PEM
    #[arg(long, env = "ESKER_TLS_KEY", hide_env_values = true, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let pages of this origin call from a browser, `https://app.example`; * for all. May be given several times
    #[arg(
        long,
        env = "ESKER_CORS_ORIGIN",
        hide_env_values = true,
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origin: Vec<String>,
    /// Most connections at once, both ports together
    #[arg(
        long,
        env = "ESKER_MAX_CONNECTIONS",
        hide_env_values = true,
        value_name = "N",
        default_value_t = 1024
    )]
    pub max_connections: u32,
    /// Longest body of a request
    #[arg(long, env = "ESKER_MAX_BODY", hide_env_values = true, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub max_body: u64,
    /// A request is answered within this time; clients may ask for less
    #[arg(long, env = "ESKER_DEADLINE", hide_env_values = true, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub deadline: Duration,
    /// Memory to plan with: a quarter caches, a quarter keeps collections, and one request is let in per 8 MiB
    #[arg(long, env = "ESKER_MEMORY", hide_env_values = true, value_name = "SIZE", default_value = "2GiB", value_parser = size)]
    pub memory: u64,
    /// Versions younger than this stay readable by `as_of`
    #[arg(long, env = "ESKER_RETAIN", hide_env_values = true, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub retain: Duration,
    /// How the log is written to stderr
    #[arg(long, env = "ESKER_LOG_FORMAT", hide_env_values = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Send traces to this OpenTelemetry collector (gRPC), http://host:4317
    #[arg(long, env = "ESKER_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Neither compact nor collect garbage: another process does
    #[arg(long, env = "ESKER_NO_COMPACTION", hide_env_values = true)]
    pub no_compaction: bool,
    /// Where a compaction puts what does not fit its memory.
    #[arg(skip = std::env::temp_dir())]
    pub scratch: PathBuf,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Least memory to plan with.
const LEAST_MEMORY: u64 = 128 << 20;
/// Memory planned for one request.
const REQUEST_MEMORY: u64 = 8 << 20;

impl Settings {
    /// Refuses settings that cannot work or are dangerous.
    ///
    /// # Errors
    /// Invalid, naming the flag.
    pub fn check(&self) -> Result<()> {
        if self.memory < LEAST_MEMORY {
            return Err(Error::invalid("--memory", "a server needs 128 MiB or more"));
        }
        if self.deadline < Duration::from_millis(100) || self.deadline > Duration::from_secs(3600) {
            return Err(Error::invalid("--deadline", "the deadline is between 100 ms and 1 h"));
        }
        if self.max_body == 0 || self.max_body > self.body_memory() {
            let most = self.body_memory() >> 20;
            return Err(Error::invalid(
                "--max-body",
                format!("the longest body is between 1 byte and an eighth of --memory, {most} MiB"),
            ));
        }
        if self.max_connections == 0 {
            return Err(Error::invalid("--max-connections", "a server needs at least one connection"));
        }
        for (flag, address) in [("--http", self.http), ("--grpc", self.grpc)] {
            if !address.ip().is_loopback() && self.keys.is_none() && !self.insecure {
                return Err(Error::invalid(
                    flag,
                    format!("{address} can be reached by others, and requests need no key"),
                )
                .with_hint(
                    "make a key with `esker key create NAME --scope admin --keys FILE` and pass --keys FILE; \
                     or pass --insecure",
                ));
            }
        }
        Ok(())
    }

    /// Bytes of request bodies held at once.
    pub fn body_memory(&self) -> u64 {
        self.memory / 8
    }

    /// Bytes of immutable ranges cached.
    pub fn cache_memory(&self) -> u64 {
        self.memory / 4
    }

    /// Bytes that the engine keeps between queries.
    pub fn kept_memory(&self) -> u64 {
        self.memory / 4
    }

    /// Bytes of one compaction.
    pub fn compaction_memory(&self) -> u64 {
        self.memory / 4
    }

    /// Bytes of one SQL query.
    pub fn query_memory(&self) -> u64 {
        self.memory / 8
    }

    /// Requests worked on at once.
    pub fn requests(&self) -> usize {
        usize::try_from((self.memory / REQUEST_MEMORY).clamp(16, 4096)).unwrap_or(16)
    }
}

#[cfg(test)]
mod tests;
