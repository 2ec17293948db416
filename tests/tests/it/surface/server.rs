//! Both surfaces over a store.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use esker_format::record::Op;
use esker_format::{Name, Result, Seq};
use esker_ingest::{Body, Ingest, WriteOptions};
use esker_query::service::{Called, Deleted, Doomed, Tombstones, Untouched};
use esker_query::{Engine, Options, Service, sql};
use esker_store::{Backend, Client, Meter, Seams, Store};
use esker_tests::fault::FaultStore;
use object_store::path::Path;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;

/// A process on a fault store.
pub fn store(faults: &FaultStore, seed: u64) -> Arc<Store> {
    let backend = Backend::paged(Arc::new(faults.clone()), Path::default());
    Arc::new(Store::new(Client::new(backend, Seams::simulated(seed))))
}

/// The reads of a store, with deletes through its writer.
pub fn reads(store: &Arc<Store>) -> Service {
    let engine = Engine::new(store.clone(), Options::default());
    Service::new(engine, Some(Arc::new(Writer(Ingest::new(store.clone())))), sql::Options::default())
}

struct Writer(Ingest);

#[async_trait]
impl Tombstones for Writer {
    async fn delete(&self, meter: &Meter, name: &Name, doomed: Doomed, called: Called) -> Result<Deleted> {
        let (ingest, options) = (self.0.drawing(called.drawn), WriteOptions::from(called.given));
        let body = match doomed {
            Doomed::Ids(ids) => {
                let ack = ingest.delete(meter, name, &ids, &options).await?;
                return Ok(Deleted {
                    position: ack.position,
                    deleted: ack.rows.into(),
                    duplicate: ack.duplicate,
                });
            }
            Doomed::Container(file) => Body::Container(file),
            Doomed::Framed(payload) => Body::Framed(payload),
        };
        let ack = ingest.write(meter, name, Op::Delete, body, &options).await?;
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

/// A gRPC server on a socket; stops when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(store: Arc<Store>) -> Server {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let router = tonic::transport::Server::builder()
            .add_service(esker_ingest::grpc::service(store.clone()))
            .add_service(esker_query::grpc::service(reads(&store)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Server { address, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
