//! `esker serve`: ingest, query and background work in one process, behind one guard.
//!
//! [`listen`] accepts connections, [`guard`] is what every request passes on both ports, [`access`] says what each route
//! needs of a key of [`keys`], [`admission`] bounds what is worked on, [`background`] compacts and collects garbage.

mod access;
mod admission;
mod background;
mod cors;
mod garbage;
mod grpc;
mod guard;
pub mod keys;
mod listen;
mod measure;
mod pace;
mod reply;
mod routes;
mod seen;
pub mod settings;
mod tls;
pub mod tombstones;
pub mod trace;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use esker_compactor::{Compactor, DirectoryScratch};
use esker_format::{Error, Result};
use esker_ingest::Ingest;
use esker_proto::refusal;
use esker_query::{Engine, Service, sql};
use esker_store::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use cors::Origins;
use guard::Shell;
use keys::Keys;
use listen::Ports;
use refusal::Surface;
use seen::Seen;
use settings::Settings;
use tls::Tls;

/// Files of keys and certificates are looked at this often.
const WATCH: Duration = Duration::from_secs(1);

/// A server that runs.
pub struct Server {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// How many keys there are; none = none are needed.
    pub keys: Option<usize>,
    shell: Arc<Shell>,
    ports: JoinSet<()>,
    background: JoinSet<()>,
    health: HealthReporter,
}

impl Server {
    /// Listens on both ports. It serves until [`Server::stopper`] fires.
    ///
    /// # Errors
    /// Invalid, naming the setting.
    pub async fn start(settings: &Settings, store: Arc<Store>) -> Result<Server> {
        settings.check()?;
        let origins = Origins::new(&settings.cors_origin)?;
        measure::start();
        let tls = match (&settings.tls_cert, &settings.tls_key) {
            (Some(cert), Some(key)) => Some(Arc::new(Tls::open(cert, key)?)),
            _ => None,
        };
        let keys = settings.keys.as_deref().map(Keys::open).transpose()?;
        let seams = store.client().seams().clone();
        let shell = Arc::new(Shell {
            seams: seams.clone(),
            keys,
            admission: admission::Admission::new(
                settings.requests(),
                settings.body_memory(),
                settings.max_body,
            ),
            deadline: settings.deadline,
            writes: TaskTracker::new(),
            seen: Seen::default(),
            stop: CancellationToken::new(),
        });
        let ports = Arc::new(Ports {
            connections: Arc::new(Semaphore::new(settings.max_connections as usize)),
            tls: tls.clone(),
            stop: shell.stop.clone(),
            clock: seams.clock.clone(),
        });
        let own = Arc::new(routes::Own {
            store: store.clone(),
            service: service(&store, settings),
            compactor: compactor(settings),
            compacting: tokio::sync::Mutex::new(()),
            asked: Semaphore::new(routes::COMPACTIONS),
            shell: shell.clone(),
            ready: tokio::sync::Mutex::new(None),
            document: Mutex::default(),
        });
        let (services, health) = grpc::routes(own.clone()).await?;
        let rest = across(origins.clone(), rest_router(&own));
        let grpc = grpc::router(services, |all| all.layer(from_fn_with_state(shell.clone(), guard::grpc)));
        let grpc = across(origins, grpc);
        let (http_listener, http) = bind("--http", settings.http).await?;
        let (grpc_listener, grpc_address) = bind("--grpc", settings.grpc).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::serve(ports.clone(), http_listener, Surface::Rest, rest));
        tasks.spawn(listen::serve(ports.clone(), grpc_listener, Surface::Grpc, grpc));
        let mut background = JoinSet::new();
        background.spawn(watch(shell.clone(), tls.clone()));
        if !settings.no_compaction {
            background.spawn(background::run(own.clone()));
            background.spawn(garbage::run(own.clone(), settings.retain));
        }
        Ok(Server {
            http,
            grpc: grpc_address,
            tls: tls.is_some(),
            keys: shell.keys.as_ref().map(|keys| keys.ring().len()),
            shell,
            ports: tasks,
            background,
            health,
        })
    }

    /// Stops the server when it fires.
    pub fn stopper(&self) -> CancellationToken {
        self.shell.stop.clone()
    }

    /// Ends after the server was stopped: requests under way are finished first, then writes whose clients left, then
    /// background work, each for as long as it is worth waiting.
    pub async fn finished(mut self) {
        self.shell.stop.cancelled().await;
        for service in ["", "esker.v1.Ingest", "esker.v1.Query", "esker.v1.Admin"] {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        while self.ports.join_next().await.is_some() {}
        self.shell.writes.close();
        let clock = &self.shell.seams.clock;
        tokio::select! {
            () = self.shell.writes.wait() => {}
            () = clock.sleep(listen::GRACE) => tracing::warn!("writes are still under way and are left unknown"),
        }
        let rest = async { while self.background.join_next().await.is_some() {} };
        tokio::select! {
            () = rest => {}
            () = clock.sleep(listen::GRACE) => tracing::warn!("background work is broken off"),
        }
    }
}

/// Reads, and deletes of what reads find.
fn service(store: &Arc<Store>, settings: &Settings) -> Service {
    let options = esker_query::Options { memory: settings.kept_memory(), ..Default::default() };
    let engine = Engine::new(store.clone(), options);
    let writer = tombstones::Writer(Ingest::new(store.clone()));
    let memory = usize::try_from(settings.query_memory()).unwrap_or(usize::MAX);
    Service::new(engine, Some(Arc::new(writer)), sql::Options { memory })
}

/// Leaves half of the cores to requests.
fn compactor(settings: &Settings) -> Compactor {
    let threads = (crate::settings::threads() / 2).max(1);
    let memory = settings.compaction_memory();
    Compactor::new(esker_compactor::Options { threads, memory, ..Default::default() })
        .with_scratch(Arc::new(DirectoryScratch::new(&settings.scratch)))
}

async fn bind(flag: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let failed =
        |e: std::io::Error| Error::invalid(flag, format!("cannot listen on {address}: {e}")).with_source(e);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Lets pages of these origins call. Outermost: a preflight has no key.
fn across(origins: Option<Arc<Origins>>, router: Router) -> Router {
    match origins {
        None => router,
        Some(origins) => router.layer(from_fn_with_state(origins, cors::answer)),
    }
}

/// Looks at the files of keys and certificates, and keeps the metrics small.
async fn watch(shell: Arc<Shell>, tls: Option<Arc<Tls>>) {
    loop {
        tokio::select! {
            () = shell.stop.cancelled() => return,
            () = shell.seams.clock.sleep(WATCH) => {}
        }
        if let Some(keys) = &shell.keys {
            keys.refresh();
        }
        if let Some(tls) = &tls {
            tls.refresh();
        }
        measure::upkeep();
    }
}

/// Every route of the HTTP port behind its guard.
fn rest_router(own: &Arc<routes::Own>) -> Router {
    let writes = esker_ingest::http::router(esker_ingest::http::State::new(own.store.clone()));
    let reads = esker_query::http::router(own.service.clone());
    let all = routes::router(own.clone()).merge(writes).merge(reads);
    let (router, document) = all.split_for_parts();
    let text = routes::describe(document).to_json().unwrap_or_default();
    *own.document.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = text;
    // The guard answers for both itself.
    let none = || async { http::StatusCode::NOT_FOUND };
    router
        .fallback(none)
        .method_not_allowed_fallback(none)
        .layer(from_fn_with_state(own.shell.clone(), guard::rest))
}

#[cfg(test)]
mod tests;
