//! The gRPC service of writes (`ingest.proto`), over [`Ingest`].

use std::sync::Arc;

use bytes::Bytes;
use esker_format::record::{Op, Record};
use esker_format::schema::{Column, Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Error, Name, Result};
use esker_proto::grpc::{self, Call};
use esker_proto::v1;
use esker_proto::v1::ingest_server::IngestServer;
use esker_store::{Meter, Store};
use futures::stream::{self, BoxStream, StreamExt};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::ingest::{Ack, Body, Condition, Ingest, Patch, WriteOptions};

/// The service, with its limits and compression set.
pub fn service(store: Arc<Store>) -> IngestServer<Service> {
    IngestServer::new(Service { ingest: Ingest::new(store.clone()), store })
        .max_decoding_message_size(grpc::MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
}

/// Handles the RPCs of `esker.v1.Ingest`.
#[derive(Debug, Clone)]
pub struct Service {
    ingest: Ingest,
    store: Arc<Store>,
}

/// A stream of batches, between two of them.
struct Upserts {
    service: Service,
    call: Call,
    messages: Streaming<v1::UpsertRequest>,
    /// The collection of the message before.
    collection: String,
}

#[async_trait]
impl v1::ingest_server::Ingest for Service {
    async fn create_collection(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionReply>, Status> {
        let (call, message) = Call::split(request);
        call.reaches(Some(&message.name))?;
        let meter = Meter::new();
        let (name, id) = self.create(&meter, message).await.map_err(failed)?;
        Ok(call.costing(v1::CreateCollectionReply { name: name.to_string(), id: id.to_string() }, meter.io()))
    }

    async fn drop_collection(
        &self,
        request: Request<v1::DropCollectionRequest>,
    ) -> Result<Response<v1::DropCollectionReply>, Status> {
        let (call, message) = Call::split(request);
        call.reaches(Some(&message.collection))?;
        let meter = Meter::new();
        let name = Name::new(message.collection).map_err(failed)?;
        self.store.drop_collection(&meter, &name).await.map_err(failed)?;
        Ok(call.costing(v1::DropCollectionReply { dropped: name.to_string() }, meter.io()))
    }

    async fn upsert(&self, request: Request<v1::UpsertRequest>) -> Result<Response<v1::UpsertReply>, Status> {
        let (call, message) = Call::split(request);
        let meter = Meter::new();
        let reply = self.upsert_batch(&meter, &call, message).await?;
        Ok(call.costing(reply, meter.io()))
    }

    type UpsertStreamStream = BoxStream<'static, Result<v1::UpsertReply, Status>>;

    async fn upsert_stream(
        &self,
        request: Request<Streaming<v1::UpsertRequest>>,
    ) -> Result<Response<Self::UpsertStreamStream>, Status> {
        let (call, messages) = Call::split(request);
        let upserts =
            Upserts { service: self.clone(), call: call.unnamed(), messages, collection: String::new() };
        // One at a time: the next message is taken when the one before is durable, and until then HTTP/2's windows, a
        // few KiB, are all that the server holds of it.
        let replies = stream::try_unfold(upserts, |mut upserts| async move {
            let Some(mut message) = upserts.messages.message().await? else { return Ok(None) };
            match message.collection.is_empty() {
                true => message.collection.clone_from(&upserts.collection),
                false => upserts.collection.clone_from(&message.collection),
            }
            let reply = upserts.service.upsert_batch(&Meter::new(), &upserts.call, message).await?;
            Ok(Some((reply, upserts)))
        });
        Ok(call.reply(replies.boxed()))
    }

    async fn patch(&self, request: Request<v1::PatchRequest>) -> Result<Response<v1::PatchReply>, Status> {
        let (call, message) = Call::split(request);
        call.reaches(Some(&message.collection))?;
        let meter = Meter::new();
        let ack = self.patch_batch(&meter, &call, message).await.map_err(failed)?;
        let reply = v1::PatchReply {
            position: ack.position,
            patched: ack.rows.into(),
            token: ack.token.to_string(),
            duplicate: ack.duplicate,
        };
        Ok(call.costing(reply, meter.io()))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteReply>, Status> {
        let (call, message) = Call::split(request);
        call.reaches(Some(&message.collection))?;
        let meter = Meter::new();
        let ack = self.delete_batch(&meter, &call, message).await.map_err(failed)?;
        let reply = v1::DeleteReply {
            position: ack.position,
            deleted: ack.rows.into(),
            token: ack.token.to_string(),
            duplicate: ack.duplicate,
        };
        Ok(call.costing(reply, meter.io()))
    }
}

impl Service {
    async fn create(
        &self,
        meter: &Meter,
        message: v1::CreateCollectionRequest,
    ) -> Result<(Name, CollectionId)> {
        let name = Name::new(message.name)?;
        let metric = match message.metric.as_str() {
            "" => Metric::Cosine,
            named => named.parse()?,
        };
        let vector_type = match message.vector_type.as_str() {
            "" => VectorType::F32,
            named => named.parse()?,
        };
        let settings = Settings { dimension: message.dimension, metric, vector_type };
        let columns = message.metadata.into_iter().map(|(name, kind)| {
            let kind = kind.parse()?;
            Ok(Column { name, kind, wide: false })
        });
        let schema = Schema { columns: columns.collect::<Result<_>>()? };
        let collection = self.store.create(meter, &name, settings, schema).await?;
        Ok((name, collection.id().clone()))
    }

    async fn upsert_batch(
        &self,
        meter: &Meter,
        call: &Call,
        message: v1::UpsertRequest,
    ) -> Result<v1::UpsertReply, Status> {
        call.reaches(Some(&message.collection))?;
        let ack = self.write_batch(meter, call, message).await.map_err(failed)?;
        Ok(v1::UpsertReply {
            position: ack.position,
            upserted: ack.rows.into(),
            token: ack.token.to_string(),
            duplicate: ack.duplicate,
            schema_version: esker_format::record::SCHEMA_VERSION,
        })
    }

    async fn write_batch(&self, meter: &Meter, call: &Call, message: v1::UpsertRequest) -> Result<Ack> {
        grpc::schema_version(message.schema_version)?;
        let name = Name::new(message.collection)?;
        let token = call.token(&message.idempotency_key)?;
        let condition = Condition::of(message.if_absent, message.if_version)?;
        let body = match one_of("records", message.records, message.avro_payload)? {
            Given::Avro(payload) => Body::Framed(payload),
            Given::Messages(records) => Body::Records(
                (0..)
                    .zip(records)
                    .map(|(i, r)| grpc::record(&format!("records[{i}]"), r))
                    .collect::<Result<Vec<Record>>>()?,
            ),
        };
        self.ingest
            .drawing(call.drawn())
            .write(meter, &name, Op::Upsert, body, &WriteOptions { token, condition })
            .await
    }

    async fn patch_batch(&self, meter: &Meter, call: &Call, message: v1::PatchRequest) -> Result<Ack> {
        grpc::schema_version(message.schema_version)?;
        let name = Name::new(message.collection)?;
        let token = call.token(&message.idempotency_key)?;
        let condition = Condition::of(false, message.if_version)?;
        let patches = (0..).zip(message.records).map(|(i, p)| patch(&format!("records[{i}]"), p));
        let patches: Vec<Patch> = patches.collect::<Result<_>>()?;
        self.ingest
            .drawing(call.drawn())
            .patch(meter, &name, &patches, &WriteOptions { token, condition })
            .await
    }

    async fn delete_batch(&self, meter: &Meter, call: &Call, message: v1::DeleteRequest) -> Result<Ack> {
        grpc::schema_version(message.schema_version)?;
        let name = Name::new(message.collection)?;
        let token = call.token(&message.idempotency_key)?;
        let options = WriteOptions { token, condition: Condition::of(false, message.if_version)? };
        let ingest = self.ingest.drawing(call.drawn());
        match one_of("ids", message.ids, message.avro_payload)? {
            Given::Avro(payload) => {
                ingest.write(meter, &name, Op::Delete, Body::Framed(payload), &options).await
            }
            Given::Messages(ids) if ids.is_empty() => Err(Error::invalid("ids", "the list of ids is empty")),
            Given::Messages(ids) => ingest.delete(meter, &name, &ids, &options).await,
        }
    }
}

fn failed(e: Error) -> Status {
    grpc::status(&e)
}

enum Given<T> {
    Messages(Vec<T>),
    Avro(Bytes),
}

fn one_of<T>(field: &str, messages: Vec<T>, avro: Bytes) -> Result<Given<T>> {
    match (messages.is_empty(), avro.is_empty()) {
        (_, true) => Ok(Given::Messages(messages)),
        (true, false) => Ok(Given::Avro(avro)),
        (false, false) => Err(Error::invalid("avro_payload", format!("give either {field} or avro_payload"))),
    }
}

fn patch(at: &str, mut p: v1::RecordPatch) -> Result<Patch> {
    let expires_at = match (p.expires_at, p.never_expires) {
        (Some(_), true) => {
            let field = format!("{at}.expires_at");
            return Err(Error::invalid(field, "a record that never expires has no time of expiry")
                .with_hint("give either expires_at or never_expires"));
        }
        (None, true) => Some(None),
        (at, false) => at.map(Some),
    };
    Ok(Patch {
        metadata: p.take_metadata(at)?,
        id: p.id,
        vector: (!p.vector.is_empty()).then_some(p.vector),
        timestamp: p.timestamp,
        expires_at,
        version: p.version,
    })
}

#[cfg(test)]
mod tests;
