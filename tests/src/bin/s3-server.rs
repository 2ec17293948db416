//! The S3 server of the tests as a command, for benchmarks and scripts: prints its endpoint as one line and serves
//! until it is interrupted.

use clap::Parser;
use esker_tests::s3::{ACCESS_KEY, REGION, S3Options, S3Server, SECRET_KEY, Weakness};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// An in-memory S3 server. `GET /-/requests`, `/-/reset` and `/-/latency/MS` read its log, empty it, change latency.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Milliseconds added to each request.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// The one bucket there is.
    #[arg(long, default_value = "esker")]
    bucket: String,
    /// Append each request to this file as a line of JSON.
    #[arg(long)]
    log: Option<PathBuf>,
    /// What it gets wrong, e.g. `NonAtomicCreate`; `/-/weaken/NAME` and `/-/mend` change it.
    #[arg(long, value_parser = weakness)]
    weakness: Option<Weakness>,
    /// Print `export` lines for a shell instead of the bare endpoint.
    #[arg(long)]
    env: bool,
}

fn weakness(name: &str) -> Result<Weakness, String> {
    Weakness::named(name).ok_or_else(|| format!("one of {:?}", Weakness::ALL))
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let latency = Duration::from_millis(args.latency_ms);
    let server = S3Server::start(S3Options { addr: args.addr, bucket: args.bucket, latency, log: args.log })?;
    if let Some(weakness) = args.weakness {
        server.weaken(weakness);
    }
    let mut out = std::io::stdout();
    if args.env {
        for (name, value) in server.env() {
            writeln!(out, "export {name}={value}")?;
        }
    } else {
        writeln!(out, "{}", server.endpoint())?;
    }
    out.flush()?;
    writeln!(std::io::stderr(), "region {REGION}, access key {ACCESS_KEY}, secret {SECRET_KEY}")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(tokio::signal::ctrl_c())
}
