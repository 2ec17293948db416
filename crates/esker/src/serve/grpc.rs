//! The services of the gRPC port: those of the ingest and query crates, upkeep, health and reflection, each in gRPC-Web
//! too.

use std::sync::Arc;

use axum::Router;
use esker_format::{Error, Name, Result};
use esker_proto::grpc::{self, Call};
use esker_proto::v1;
use esker_proto::v1::admin_server::AdminServer;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::routes::Own;

/// All services. The reporter says what the health service answers: set everything to not serving before stopping.
///
/// # Errors
/// Internal, if the descriptors that were compiled in are broken.
pub async fn routes(own: Arc<Own>) -> Result<(Routes, HealthReporter)> {
    let broken = |e| Error::internal("the descriptors cannot be served").with_source(e);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(esker_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) =
        (reflection().build_v1().map_err(broken)?, reflection().build_v1alpha().map_err(broken)?);
    let (reporter, health) = tonic_health::server::health_reporter();
    let ingest = esker_ingest::grpc::service(own.store.clone());
    let query = esker_query::grpc::service(own.service.clone());
    let admin = AdminServer::new(Admin { own })
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    for name in [name(&ingest), name(&query), name(&admin)] {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let own = Routes::new(ingest).add_service(query).add_service(admin);
    Ok((own.add_service(health).add_service(v1).add_service(v1alpha), reporter))
}

fn name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

/// The port's router. gRPC-Web is outermost, so that the refusals of `guard` are translated as well.
pub fn router(routes: Routes, guard: impl FnOnce(Router) -> Router) -> Router {
    guard(routes.into_axum_router()).layer(tonic_web::GrpcWebLayer::new())
}

/// Handles the RPCs of `esker.v1.Admin`.
struct Admin {
    own: Arc<Own>,
}

#[async_trait]
impl v1::admin_server::Admin for Admin {
    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<v1::CompactReply>, Status> {
        let (call, message) = Call::split(request);
        call.reaches(Some(&message.collection))?;
        let name = Name::new(message.collection).map_err(|e| grpc::status(&e))?;
        let clock = &self.own.shell.seams.clock;
        let start = clock.elapsed();
        let (report, io) = self.own.compact(&name).await.map_err(|e| grpc::status(&e))?;
        let reply = v1::CompactReply {
            committed: report.committed,
            version: report.version,
            folded_entries: report.folded_entries,
            folded_rows: report.folded_rows,
            tombstones: report.tombstones,
            segments: report.segments_out as u64,
            live_rows: report.live_rows,
            bytes_written: report.bytes_written,
            took_ms: (clock.elapsed() - start).as_secs_f64() * 1000.0,
        };
        Ok(call.costing(reply, io))
    }
}
