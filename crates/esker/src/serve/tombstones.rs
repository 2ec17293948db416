//! Deletes on behalf of the query service, which itself writes nothing.

use esker_format::record::Op;
use esker_format::{Name, Result, Seq, Token};
use esker_ingest::{Body, Ingest, WriteOptions};
use esker_query::service::{Deleted, Doomed, Tombstones, Untouched};
use esker_store::Meter;
use tonic::async_trait;

/// Writes tombstones through ingest.
pub struct Writer(pub Ingest);

#[async_trait]
impl Tombstones for Writer {
    async fn delete(
        &self,
        meter: &Meter,
        name: &Name,
        doomed: Doomed,
        token: Option<Token>,
    ) -> Result<Deleted> {
        let options = WriteOptions::from(token);
        let ack = match doomed {
            Doomed::Ids(ids) => self.0.delete(meter, name, &ids, &options).await?,
            Doomed::Container(file) => {
                self.0.write(meter, name, Op::Delete, Body::Container(file), &options).await?
            }
            Doomed::Framed(payload) => {
                self.0.write(meter, name, Op::Delete, Body::Framed(payload), &options).await?
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
