//! One writer process of `scripts/torture/writers.sh --bare`: opens the collection, writes a row, says that it is ready, waits
//! for a line, and writes row after row. Prints each write: milliseconds, requests, position, token.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use esker_format::Name;
use esker_format::record::Record;
use esker_ingest::Ingest;
use esker_store::{Client, Location, Meter, Seams, Store, open};
use esker_tests::puts::Puts;
use object_store::path::Path;
use object_store::{Error, PutOptions, PutResult};

/// Writes rows to a collection, one after the other.
#[derive(Parser)]
struct Args {
    /// Where the store is.
    store: String,
    /// The collection, of four dimensions.
    collection: String,
    /// Which writer this is.
    #[arg(long)]
    number: u32,
    /// How long it writes.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Without the inbox: what combining is compared with.
    #[arg(long)]
    direct: bool,
}

/// Keeps the inbox shut.
fn no_inbox(at: &Path, _: &PutOptions) -> Option<object_store::Result<PutResult>> {
    let refused = || Error::PermissionDenied { path: at.to_string(), source: "shut".into() };
    at.as_ref().contains("/inbox/").then(|| Err(refused()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command that measures real time, with the settings of its environment"
)]
async fn write(args: Args) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut backend = open(&Location::parse(&args.store)?, &std::env::vars().collect(), false)?;
    if args.direct {
        backend.objects = Arc::new(Puts(backend.objects.clone(), no_inbox));
    }
    let store = Arc::new(Store::new(Client::new(backend, Seams::system())));
    let (ingest, name) = (Ingest::new(store.clone()), Name::new(args.collection)?);
    store.collection(&Meter::new(), &name).await?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    for n in 0_u32.. {
        let began = Instant::now();
        if began > end {
            break;
        }
        let vector = vec![args.number as f32, n as f32, 1.0, 1.0];
        let record = Record { id: format!("w{}-{n}", args.number), vector, ..Record::default() };
        let (meter, mut token) = (Meter::new(), None);
        let ack = loop {
            match ingest.upsert(&meter, &name, std::slice::from_ref(&record), token).await {
                Ok(ack) => break ack,
                Err(e) => {
                    writeln!(out, "again {:?} {e}", e.kind())?;
                    token = e.token().or(token);
                    tokio::time::sleep(e.retry_after().unwrap_or(Duration::from_millis(100))).await;
                }
            }
        };
        let io = meter.io();
        let requests = io.puts + io.gets + io.lists;
        writeln!(
            out,
            "{} {requests} {} {}",
            began.elapsed().as_secs_f64() * 1000.0,
            ack.position,
            ack.token
        )?;
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(write(Args::parse()))
}
