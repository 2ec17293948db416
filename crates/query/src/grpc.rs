//! The gRPC service of reads (`query.proto`), over [`Service`].

use esker_format::{Error, Name, Result};
use esker_proto::grpc::{self, Call};
use esker_proto::v1;
use esker_proto::v1::query_server::QueryServer;
use esker_store::Meter;
use futures::stream::{BoxStream, StreamExt};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, async_trait};

use crate::engine::Access;
use crate::filter::Filter;
use crate::search::Consistency;
use crate::service::{Service, Warmed};
use crate::sql::Param;

mod messages;
mod streams;

use messages::{Records, collection, io, search};

/// The service, with its limits and compression set.
pub fn service(service: Service) -> QueryServer<Handler> {
    QueryServer::new(Handler { service })
        .max_decoding_message_size(grpc::MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
}

/// Handles the RPCs of `esker.v1.Query`.
#[derive(Debug, Clone)]
pub struct Handler {
    service: Service,
}

/// What a streaming RPC answers.
type Pieces<T> = BoxStream<'static, Result<T, Status>>;

#[async_trait]
impl v1::query_server::Query for Handler {
    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsReply>, Status> {
        let (call, _) = Call::split(request);
        call.reaches(None)?;
        let meter = Meter::new();
        let all = self.service.collections(&meter).await.map_err(failed)?;
        let collections = all.into_iter().map(collection).collect();
        let io = meter.io();
        Ok(call.costing(v1::ListCollectionsReply { collections, io: Some(messages::io(&io)) }, io))
    }

    async fn describe_collection(
        &self,
        request: Request<v1::DescribeCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let (call, message) = Call::split(request);
        let (name, meter) = (named(&call, &message.collection)?, Meter::new());
        let described = self.service.describe(&meter, &name).await.map_err(failed)?;
        Ok(call.costing(collection(described), meter.io()))
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsReply>, Status> {
        let (call, message) = Call::split(request);
        let (name, meter) = (named(&call, &message.collection)?, Meter::new());
        let stats = self.service.stats(&meter, &name).await.map_err(failed)?;
        Ok(call.costing(messages::stats(&name, stats), meter.io()))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetReply>, Status> {
        let (call, m) = Call::split(request);
        let (name, meter) = (named(&call, &m.collection)?, Meter::new());
        let read = async {
            grpc::schema_version(m.schema_version)?;
            let access = access(m.consistency, m.min_position, m.as_of)?;
            self.service.get(&meter, &name, &m.id, m.include_vector, access).await
        };
        let (record, seen) = read.await.map_err(failed)?;
        let Records { mut messages, avro } = Records::new("get", m.avro, vec![record]);
        let io = meter.io();
        let reply = v1::GetReply {
            record: messages.pop(),
            avro_payload: avro,
            position: seen.position,
            staleness_ms: seen.staleness_ms,
            io: Some(messages::io(&io)),
        };
        Ok(call.costing(reply, io))
    }

    async fn get_many(
        &self,
        request: Request<v1::GetManyRequest>,
    ) -> Result<Response<v1::GetManyReply>, Status> {
        let (call, m) = Call::split(request);
        let (name, meter) = (named(&call, &m.collection)?, Meter::new());
        let read = async {
            grpc::schema_version(m.schema_version)?;
            let access = access(m.consistency, m.min_position, m.as_of)?;
            let include = m.include.map(|c| c.names);
            self.service.get_many(&meter, &name, &m.ids, include.as_deref(), m.include_vector, access).await
        };
        let got = read.await.map_err(failed)?;
        let missing = m.ids.into_iter().zip(&got.records).filter(|(_, r)| r.is_none());
        let missing = missing.map(|(id, _)| id).collect();
        let Records { messages, avro } =
            Records::new("get", m.avro, got.records.into_iter().flatten().collect());
        let io = meter.io();
        let reply = v1::GetManyReply {
            records: messages,
            avro_payload: avro,
            position: got.seen.position,
            staleness_ms: got.seen.staleness_ms,
            io: Some(messages::io(&io)),
            missing,
        };
        Ok(call.costing(reply, io))
    }

    type ScanStream = Pieces<v1::ScanReply>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (call, message) = Call::split(request);
        let name = named(&call, &message.collection)?;
        let scan = streams::scan(self.service.clone(), name, message).map_err(failed)?;
        Ok(call.reply(scan.map(|piece| piece.map_err(failed)).boxed()))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountReply>, Status> {
        let (call, m) = Call::split(request);
        let (name, meter) = (named(&call, &m.collection)?, Meter::new());
        let read = async {
            let access = access(m.consistency, m.min_position, m.as_of)?;
            let filter = filter(&self.service, m.filter)?;
            self.service.count(&meter, &name, filter.as_ref(), access).await
        };
        let (count, seen) = read.await.map_err(failed)?;
        let io = meter.io();
        let reply = v1::CountReply {
            count,
            position: seen.position,
            staleness_ms: seen.staleness_ms,
            io: Some(messages::io(&io)),
        };
        Ok(call.costing(reply, io))
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchReply>, Status> {
        let start = self.service.elapsed_ms();
        let (call, message) = Call::split(request);
        let (name, meter) = (named(&call, &message.collection)?, Meter::new());
        let avro = message.avro;
        let found = async {
            let search = search(&self.service, message)?;
            self.service.search(&meter, &name, &search).await
        };
        let found = found.await.map_err(failed)?;
        let results = found.results.into_iter().map(|hits| messages::result(&name, avro, hits));
        let reply = v1::SearchReply {
            results: results.collect(),
            position: found.position,
            staleness_ms: found.staleness_ms,
            io: Some(io(&found.io)),
            took_ms: self.service.elapsed_ms() - start,
            explain_json: messages::explain(found.explain.as_ref()).map_err(failed)?,
        };
        Ok(call.costing(reply, found.io))
    }

    type SearchStreamStream = Pieces<v1::SearchPart>;

    async fn search_stream(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<Self::SearchStreamStream>, Status> {
        let (call, message) = Call::split(request);
        let name = named(&call, &message.collection)?;
        let avro = message.avro;
        let search = search(&self.service, message).map_err(failed)?;
        let parts = streams::search(self.service.clone(), name, search, avro);
        Ok(call.reply(parts.map(|part| part.map_err(failed)).boxed()))
    }

    type SqlStream = Pieces<v1::SqlReply>;

    async fn sql(&self, request: Request<v1::SqlRequest>) -> Result<Response<Self::SqlStream>, Status> {
        let (call, message) = Call::split(request);
        call.reaches(None)?;
        let started = async {
            let format = v1::SqlFormat::try_from(message.format)
                .map_err(|_| Error::invalid("format", format!("there is no format {}", message.format)))?;
            let params = message.params.into_iter().map(|p| Param::json(&grpc::json("params", p)?));
            let params = params.collect::<Result<Vec<Param>>>()?;
            let meter = Meter::new();
            let rows = self.service.sql(&meter, &message.query, &params).await?;
            streams::sql(format, rows, meter)
        };
        let pieces = started.await.map_err(failed)?;
        Ok(call.reply(pieces.map(|piece| piece.map_err(failed)).boxed()))
    }

    async fn warm(&self, request: Request<v1::WarmRequest>) -> Result<Response<v1::WarmReply>, Status> {
        let (call, message) = Call::split(request);
        let (name, meter) = (named(&call, &message.collection)?, Meter::new());
        let warm = self.service.warm(&meter, &name).await.map_err(failed)?;
        let io = meter.io();
        let Warmed { rows, position, resident, bytes } = warm;
        let reply = v1::WarmReply { rows, position, io: Some(messages::io(&io)), resident, bytes };
        Ok(call.costing(reply, io))
    }

    async fn delete_by_filter(
        &self,
        request: Request<v1::DeleteByFilterRequest>,
    ) -> Result<Response<v1::DeleteByFilterReply>, Status> {
        let (call, message) = Call::split(request);
        let (name, meter) = (named(&call, &message.collection)?, Meter::new());
        let done = async {
            let missing =
                || Error::invalid("filter", "there is no filter").with_hint("say which records to delete");
            let filter = filter(&self.service, message.filter)?.ok_or_else(missing)?;
            self.service.delete_where(&meter, &name, &filter).await
        };
        let done = done.await.map_err(failed)?;
        let io = meter.io();
        let reply = v1::DeleteByFilterReply {
            position: done.position,
            deleted: done.deleted,
            io: Some(messages::io(&io)),
        };
        Ok(call.costing(reply, io))
    }
}

fn failed(e: Error) -> Status {
    grpc::status(&e)
}

/// The collection that a message names, if the caller may name it.
fn named(call: &Call, collection: &str) -> Result<Name, Status> {
    call.reaches(Some(collection))?;
    Name::new(collection).map_err(failed)
}

fn access(consistency: i32, min_position: Option<u64>, as_of: Option<u64>) -> Result<Access> {
    let consistency = match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Strong) => Consistency::Strong,
        Ok(v1::Consistency::Eventual) => Consistency::Eventual,
        Err(_) => {
            return Err(Error::invalid("consistency", format!("there is no consistency {consistency}"))
                .with_hint("use CONSISTENCY_STRONG or CONSISTENCY_EVENTUAL"));
        }
    };
    Ok(Access { consistency, min_position, as_of })
}

fn filter(service: &Service, given: Option<v1::Filter>) -> Result<Option<Filter>> {
    use v1::filter::Form;
    let Some(form) = given.and_then(|f| f.form) else { return Ok(None) };
    match form {
        Form::Sql(text) => service.filter(&text).map(Some),
        Form::Json(text) => {
            let json = serde_json::from_str(&text)
                .map_err(|e| Error::invalid("filter", format!("the filter is not JSON: {e}")))?;
            service.filter_json(&json)
        }
    }
}

#[cfg(test)]
mod tests;
