//! Bodies of writes over HTTP, in every encoding: the first byte says which, and whether records are written, uploaded and
//! committed, or patched.
//! An answer is 2xx or 4xx; nothing a client sends is the server's fault.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use esker_format::Name;
use esker_format::schema::{Metric, Schema};
use esker_ingest::http::{State, router};
use esker_store::{Client, Location, Meter, Seams, Store, StoreEnv};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const TYPES: [&str; 5] = [
    "application/json",
    "application/x-ndjson",
    "application/avro",
    "application/x-esker-avro",
    "application/vnd.apache.arrow.stream",
];
/// Requests to one store, which keeps what was written: a patch reads all of it.
const REQUESTS: u32 = 60;

struct Server {
    runtime: Runtime,
    routes: Router,
    left: u32,
}

fn server() -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let routes = runtime.block_on(async {
        let backend = esker_store::open(&Location::Memory, &StoreEnv::default(), true).expect("memory");
        let store = Arc::new(Store::new(Client::new(backend, Seams::system())));
        let name = Name::new("notes").expect("a name");
        let settings = esker_fuzz::settings(4, Metric::L2);
        store.create(&Meter::new(), &name, settings, Schema::default()).await.expect("an empty store");
        Router::from(router(State::new(store)))
    });
    Server { runtime, routes, left: REQUESTS }
}

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(server());
}

fn request(method: &str, path: &str, kind: &str, body: &[u8]) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("/v1/collections/notes/{path}"))
        .header(header::CONTENT_TYPE, kind)
        .body(Body::from(body.to_vec()))
        .expect("a request")
}

fuzz_target!(|data: &[u8]| {
    let Some((pick, body)) = data.split_first() else { return };
    let kind = TYPES[usize::from(*pick) % TYPES.len()];
    SERVER.with_borrow_mut(|server| {
        if server.left == 0 {
            *server = self::server();
        }
        server.left -= 1;
        let upload = format!("uploads/{:032x}", server.left);
        let commit = format!(r#"{{"content_type":"{kind}"}}"#);
        let requests = match *pick {
            0..64 => vec![request("POST", "records", kind, body)],
            64..128 => vec![
                request("PUT", &upload, "application/octet-stream", body),
                request("POST", &format!("{upload}/commit"), "application/json", commit.as_bytes()),
            ],
            128.. => vec![request("PATCH", "records", kind, body)],
        };
        for request in requests {
            let status = esker_fuzz::bounded(data.len(), || {
                let reply = server.runtime.block_on(server.routes.clone().oneshot(request));
                reply.expect("routes are infallible").status()
            });
            assert!(status.is_success() || status.is_client_error(), "{status}");
        }
    });
});
