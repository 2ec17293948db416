//! `esker serve`.

use esker_format::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Output, plural};
use crate::serve::Server;
use crate::serve::settings::{LogFormat, Settings};
use crate::settings::{Resources, open_store_with, serve_log};

pub async fn run(mut settings: Settings, url: &str, resources: &Resources, output: &Output) -> Result<()> {
    settings.check()?;
    settings.scratch.clone_from(&resources.scratch);
    let _traces = serve_log(settings.log_format, settings.otlp_endpoint.as_deref())?;
    let store = open_store_with(url, true, settings.cache_memory())?;
    let listen = |kind| signal(kind).map_err(|e| Error::internal("signals cannot be heard").with_source(e));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let server = Server::start(&settings, store).await?;
    say(&server, &settings, url, output);
    let stop = server.stopper();
    let heard = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests under way are finished");
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server.finished() => {}
        () = heard => {}
    }
    tracing::info!("stopped");
    Ok(())
}

/// What is served where, in the form of the log.
fn say(server: &Server, settings: &Settings, store: &str, output: &Output) {
    let (http, grpc) = (server.http, server.grpc);
    if settings.log_format == LogFormat::Json {
        return tracing::info!(store, %http, %grpc, tls = server.tls, keys = server.keys, "serving");
    }
    let scheme = if server.tls { "https" } else { "http" };
    let keys = match server.keys {
        Some(n) => plural(n as u64, "key", "keys"),
        None => "no key needed".to_owned(),
    };
    output.say(format_args!("serving {store} on {scheme}://{http}, gRPC on {scheme}://{grpc} ({keys})"));
}
