//! `esker delete`.

use std::io::BufRead;
use std::sync::Arc;

use esker_format::{Error, Name, Result, Seq, limits};
use esker_ingest::{Ingest, WriteOptions};
use esker_query::service::{Called, Deleted, Doomed, Service, Tombstones, Untouched};
use esker_query::sql;
use esker_store::{Meter, Store};
use indicatif::ProgressBar;
use serde_json::json;
use tonic::async_trait;

use super::{engine, known};
use crate::args::Delete;
use crate::output::{Output, cost_line, io_json, plural};
use crate::progress;
use crate::serve::tombstones::Writer;
use crate::settings::{name, open_store};

pub async fn run(args: Delete, url: &str, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let what = match args.filter {
        Some(filter) => What::Filter(filter),
        None => What::Ids(ids(args.ids)?),
    };
    let store = open_store(url, false)?;
    let meter = Meter::new();
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let (deleted, noun) = match what {
        What::Filter(filter) => {
            (by_filter(&store, &meter, &collection, &filter, output).await?, ("row", "rows"))
        }
        What::Ids(ids) => (by_id(&store, &meter, &collection, &ids).await?, ("id", "ids")),
    };
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    let Deleted { position, deleted, .. } = deleted;
    let value = json!({"deleted": deleted, "position": position, "io": io_json(&meter.io()), "took_ms": ms});
    output.result(&value, || {
        format!("deleted {} from {collection} at position {position}", plural(deleted, noun.0, noun.1))
    });
    output.dim(cost_line(&meter.io(), ms));
    Ok(())
}

enum What {
    Ids(Vec<String>),
    Filter(String),
}

async fn by_id(store: &Arc<Store>, meter: &Meter, collection: &Name, ids: &[String]) -> Result<Deleted> {
    let ingest = Ingest::new(store.clone());
    let mut done = Deleted { position: 0, deleted: 0, duplicate: false };
    for batch in ids.chunks(limits::BATCH_ROWS) {
        let ack = ingest.delete(meter, collection, batch, &WriteOptions::default()).await;
        let ack = ack.map_err(|e| match done.deleted {
            0 => e,
            n => e.context(format!("stopped, with {n} ids deleted")),
        });
        done.position = known(store, collection, ack).await?.position;
        done.deleted += batch.len() as u64;
    }
    Ok(done)
}

async fn by_filter(
    store: &Arc<Store>,
    meter: &Meter,
    collection: &Name,
    filter: &str,
    output: &Output,
) -> Result<Deleted> {
    let bar = progress::bar(output, "deleting", None);
    let writer = Counted { writer: Writer(Ingest::new(store.clone())), bar: bar.clone() };
    let service = Service::new(engine(store), Some(Arc::new(writer)), sql::Options::default());
    let filter = service.filter(filter)?;
    let done = service.delete_where(meter, collection, &filter).await;
    bar.finish_and_clear();
    known(store, collection, done).await
}

/// Shows how many rows are gone.
struct Counted {
    writer: Writer,
    bar: ProgressBar,
}

#[async_trait]
impl Tombstones for Counted {
    async fn delete(&self, meter: &Meter, name: &Name, doomed: Doomed, called: Called) -> Result<Deleted> {
        self.writer.delete(meter, name, doomed, called).await
    }

    async fn delete_untouched(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
    ) -> Result<Untouched> {
        let done = self.writer.delete_untouched(meter, name, ids, since).await?;
        self.bar.inc((ids.len() - done.touched.len().min(ids.len())) as u64);
        Ok(done)
    }
}

/// The ids of the arguments; `-` stands for the lines of stdin.
fn ids(given: Vec<String>) -> Result<Vec<String>> {
    let mut ids = Vec::with_capacity(given.len());
    for id in given {
        if id != "-" {
            ids.push(id);
            continue;
        }
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|e| Error::invalid("ids", "stdin cannot be read").with_source(e))?;
            if !line.is_empty() {
                ids.push(line);
            }
        }
    }
    match ids.is_empty() {
        true => Err(Error::invalid("ids", "stdin had no ids")),
        false => Ok(ids),
    }
}
