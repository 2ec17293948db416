//! Deletes on behalf of the query service, which itself writes nothing.

use esker_format::record::Op;
use esker_format::{Name, Result, Seq};
use esker_ingest::{Body, Ingest, WriteOptions};
use esker_query::service::{Called, Deleted, Doomed, Tombstones, Untouched};
use esker_store::Meter;
use tonic::async_trait;

/// Writes tombstones through ingest.
pub struct Writer(pub Ingest);

#[async_trait]
impl Tombstones for Writer {
    async fn delete(&self, meter: &Meter, name: &Name, doomed: Doomed, called: Called) -> Result<Deleted> {
        let (ingest, options) = (self.0.drawing(called.drawn), WriteOptions::from(called.given));
        let ack = match doomed {
            Doomed::Ids(ids) => ingest.delete(meter, name, &ids, &options).await?,
            Doomed::Container(file) => {
                ingest.write(meter, name, Op::Delete, Body::Container(file), &options).await?
            }
            Doomed::Framed(payload) => {
                ingest.write(meter, name, Op::Delete, Body::Framed(payload), &options).await?
            }
        };
        Ok(Deleted { position: ack.position, deleted: ack.rows.into(), duplicate: ack.duplicate })
    }

    async fn delete_untouched(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
    ) -> Result<Untouched> {
        let done = self.0.delete_untouched(meter, name, ids, since, None).await?;
        Ok(Untouched { position: done.ack.map(|ack| ack.position), touched: done.touched })
    }
}
