use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{RecordBatch, StringArray};
use async_trait::async_trait;
use esker_format::avro::{container, encode_tombstone, framing};
use esker_format::record::Record;
use esker_format::{Name, Result, Seq};
use esker_ingest::Ingest;
use esker_store::Meter;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use serde_json::json;

use super::fixture::{ARROW, AVRO, App, NDJSON, Writer};
use crate::service::{Called, Deleted, Doomed, Tombstones, Untouched};

const RECORDS: &str = "/v1/collections/docs/records";

#[tokio::test]
async fn records_are_deleted_by_id_in_every_encoding() {
    let app = App::with_docs(12).await;
    let reply = app.delete(json!({"ids": ["r0", "nobody"]})).await;
    assert_eq!(reply.json(), json!({"position": 3, "deleted": 2}));
    assert_eq!(app.count(json!(null)).await, 11);
    let tombstones = |ids: &[&str]| {
        let mut block = Vec::new();
        ids.iter().for_each(|id| encode_tombstone(&mut block, id));
        block
    };
    let ids = Arc::new(StringArray::from(vec!["r7", "r8"]));
    let batch = RecordBatch::try_from_iter([("id", ids as _)]).unwrap();
    for (encoding, body) in [
        (NDJSON, b"{\"id\": \"r1\"}\n\n{\"id\": \"r2\"}\n".to_vec()),
        (AVRO, container::write(&Default::default(), &[(2, &tombstones(&["r3", "r4"]))])),
        ("application/x-esker-avro", framing::encode("delete", &tombstones(&["r5", "r6"]))),
        (ARROW, crate::http::encode::arrow(&batch.schema(), &[batch]).unwrap()),
    ] {
        let reply = app.call(Method::DELETE, RECORDS, [encoding, "*/*"], body).await;
        assert_eq!((reply.status, &reply.json()["deleted"]), (StatusCode::OK, &json!(2)), "{encoding}");
    }
    assert_eq!(app.count(json!(null)).await, 3);
}

#[tokio::test]
async fn a_delete_that_is_sent_again_is_one_delete() {
    let app = App::with_docs(4).await;
    let send = || {
        let body = json!({"ids": ["r1"]}).to_string();
        let request = Request::delete(RECORDS).header(CONTENT_TYPE, "application/json");
        app.send(request.header("idempotency-key", "once").body(body.into()).unwrap())
    };
    assert_eq!(send().await.json(), json!({"position": 3, "deleted": 1}));
    app.fill(1..2).await;
    let again = send().await.json();
    assert_eq!((&again["position"], &again["duplicate"]), (&json!(3), &json!(true)));
    assert_eq!(app.count(json!(null)).await, 4);
}

#[tokio::test]
async fn a_filter_deletes_what_passes() {
    let app = App::with_docs(20).await;
    let reply = app.delete(json!({"filter": "section = 'even' AND year < 2016"})).await;
    assert_eq!((reply.status, &reply.json()["deleted"]), (StatusCode::OK, &json!(8)), "{}", reply.text());
    assert_eq!(app.count(json!({"section": "even"})).await, 2);
    let position = reply.json()["position"].as_u64().unwrap();
    let nothing = app.delete(json!({"filter": {"year": 1}})).await.json();
    assert_eq!(nothing, json!({"position": position, "deleted": 0}));
}

/// A writer between whose read and write someone else writes.
struct Rival {
    writer: Writer,
    times: AtomicU32,
}

#[async_trait]
impl Tombstones for Rival {
    async fn delete(&self, _: &Meter, _: &Name, _: Doomed, _: Called) -> Result<Deleted> {
        unreachable!("deletes are by filter here")
    }

    async fn delete_untouched(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
    ) -> Result<Untouched> {
        if self.times.load(Ordering::Relaxed) > 0 {
            self.times.fetch_sub(1, Ordering::Relaxed);
            // r0 still passes afterwards, r2 does not.
            let section = |id: &str, section: &str| Record {
                id: id.to_owned(),
                vector: vec![0.0, 0.0],
                metadata: [("section".to_owned(), esker_format::record::Value::String(section.to_owned()))]
                    .into(),
                ..Record::default()
            };
            let records = [section("r0", "even"), section("r2", "odd")];
            self.writer.0.upsert(&Meter::new(), name, &records, None).await?;
        }
        self.writer.delete_untouched(meter, name, ids, since).await
    }
}

#[tokio::test]
async fn rows_that_are_written_meanwhile_are_looked_at_again() {
    let app = App::with_docs(8).await;
    for (times, status, left) in [(1, StatusCode::OK, 0), (99, StatusCode::CONFLICT, 1)] {
        let writer = Writer(Ingest::new(app.store.clone()));
        let rival = Rival { writer, times: AtomicU32::new(times) };
        let app = App::with(app.objects.clone(), app.store.clone(), Some(Arc::new(rival)));
        app.fill(0..1).await;
        let reply = app.delete(json!({"filter": "section = 'even'"})).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(app.count(json!("section = 'even'")).await, left);
        assert_eq!(app.count(json!("section = 'odd'")).await, 1);
    }
}

#[tokio::test]
async fn a_server_that_only_reads_deletes_nothing() {
    let app = App::with_docs(4).await;
    let app = App::with(app.objects.clone(), app.store.clone(), None);
    for body in [json!({"ids": ["r1"]}), json!({"filter": "year > 0"})] {
        let reply = app.delete(body).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["field"]),
            (StatusCode::BAD_REQUEST, &json!("records"))
        );
    }
    assert_eq!(app.count(json!(null)).await, 4);
}
