//! `esker delete`.

use std::io::BufRead;

use esker_format::{Error, Result, limits};
use esker_ingest::Ingest;
use esker_store::Meter;
use serde_json::json;

use super::known;
use crate::args::Delete;
use crate::output::{Output, cost_line, io_json, plural};
use crate::settings::{name, open_store};

pub async fn run(args: Delete, url: &str, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let ids = ids(args.ids)?;
    let store = open_store(url, false)?;
    let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
    let clock = store.client().seams().clock.clone();
    let (start, mut position, mut done) = (clock.elapsed(), 0, 0);
    for batch in ids.chunks(limits::BATCH_ROWS) {
        let ack = ingest.delete(&meter, &collection, batch, None).await;
        let ack = ack
            .map_err(|e| if done > 0 { e.context(format!("stopped, with {done} ids deleted")) } else { e });
        position = known(&store, &collection, ack).await?.position;
        done += batch.len();
    }
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    let value =
        json!({"deleted": ids.len(), "position": position, "io": io_json(&meter.io()), "took_ms": ms});
    output.result(&value, || {
        format!("deleted {} from {collection} at position {position}", plural(ids.len() as u64, "id", "ids"))
    });
    output.dim(cost_line(&meter.io(), ms));
    Ok(())
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
