use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, UInt32Type};
use arrow::ipc::reader::StreamReader;
use esker_format::avro::{container, ids};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fixture::{ARROW, AVRO, Answer, App, NDJSON};

fn batches(reply: &Answer) -> Vec<RecordBatch> {
    let reader = StreamReader::try_new(std::io::Cursor::new(reply.body.clone()), None).unwrap();
    reader.collect::<Result<_, _>>().unwrap()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap().as_string::<i32>();
    (0..column.len()).map(|i| column.value(i).to_owned()).collect()
}

fn lines(reply: &Answer) -> Vec<Value> {
    reply.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn hits_go_out_in_every_encoding() {
    let app = App::with_docs(6).await;
    let search = json!({"vector": [0, 0.1], "k": 3, "include_vector": true});
    let path = "/v1/collections/docs/search";
    let expected = ["r0", "r1", "r2"];

    let reply = app.post_for(path, search.clone(), NDJSON).await;
    assert_eq!(reply.header("content-type"), Some(NDJSON));
    assert_eq!(lines(&reply).iter().map(|l| l["id"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    assert_eq!(lines(&reply)[1]["rank"], 2);

    let reply = app.post_for(path, search.clone(), AVRO).await;
    let file = container::read(&reply.body).unwrap();
    let found: Vec<&str> = ids(&file.blocks[0].data).map(|id| id.unwrap()).collect();
    assert_eq!((found, reply.header("esker-position")), (expected.to_vec(), Some("2")));

    let reply = app.post_for(path, search, ARROW).await;
    let batch = &batches(&reply)[0];
    assert_eq!(texts(batch, "id"), expected);
    assert_eq!(batch["distance"].as_primitive::<Float32Type>().values(), &[0.0, 1.0, 2.0]);
    assert_eq!(batch["section"].null_count(), 1);
    let vectors = batch["vector"].as_fixed_size_list().values();
    assert_eq!(vectors.as_primitive::<Float32Type>().value(4), 2.0);
}

#[tokio::test]
async fn hits_of_several_vectors_say_which() {
    let app = App::with_docs(6).await;
    let search = json!({"vectors": [[0, 0.1], [5, 0.1]], "k": 1, "include": []});
    let path = "/v1/collections/docs/search";
    let reply = app.post_for(path, search.clone(), NDJSON).await;
    assert_eq!(lines(&reply).iter().map(|l| l["query"].clone()).collect::<Vec<_>>(), [json!(0), json!(1)]);
    let batch = &batches(&app.post_for(path, search.clone(), ARROW).await)[0];
    assert_eq!(batch["query"].as_primitive::<UInt32Type>().values(), &[0, 1]);
    assert_eq!(texts(batch, "id"), ["r0", "r5"]);
    let refused = app.post_for(path, search, AVRO).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["field"]),
        (StatusCode::BAD_REQUEST, &json!("vectors"))
    );
}

/// What is read in an encoding can be written in it, and is the same afterwards.
#[tokio::test]
async fn records_make_the_round_trip_in_every_encoding() {
    let app = App::with_docs(7).await;
    let want = json!({"include_vector": true, "limit": 1000});
    let scan = "/v1/collections/docs/records/scan";
    let get = json!({"include_vector": true, "ids": (0..7).map(|i| format!("r{i}")).collect::<Vec<_>>()});
    for (encoding, from, body) in [
        (ARROW, scan, &want),
        (AVRO, scan, &want),
        (NDJSON, scan, &want),
        (ARROW, "/v1/collections/docs/records/get", &get),
        (AVRO, "/v1/collections/docs/records/get", &get),
        (NDJSON, "/v1/collections/docs/records/get", &get),
    ] {
        let read = app.post_for(from, body.clone(), encoding).await;
        assert_eq!((read.status, read.header("content-type")), (StatusCode::OK, Some(encoding)), "{from}");
        let bytes = match encoding {
            // Records say which collection they are of.
            NDJSON => read.text().replace("\"collection_id\":\"docs\",", "").into(),
            _ => read.body,
        };
        let create = json!({"name": "copy", "dimension": 2, "metric": "l2"});
        assert_eq!(app.post("/v1/collections", create).await.status, StatusCode::CREATED);
        let types = [encoding, "*/*"];
        let written = app.call(Method::POST, "/v1/collections/copy/records", types, bytes).await;
        if encoding == AVRO {
            // Its records name their collection, and bytes are never edited.
            assert_eq!(written.json()["error"]["field"], "records[0].collection_id", "{}", written.text());
        } else {
            assert_eq!(written.json()["upserted"], 7, "{} {}", encoding, written.text());
            let all =
                json!({"query": "SELECT id, year, section, tags, _version, vector FROM copy ORDER BY id"});
            let docs =
                json!({"query": "SELECT id, year, section, tags, _version, vector FROM docs ORDER BY id"});
            let (copy, docs) =
                (app.post("/v1/sql", all).await.json(), app.post("/v1/sql", docs).await.json());
            assert_eq!(copy["rows"], docs["rows"]);
        }
        app.call(Method::DELETE, "/v1/collections/copy", ["application/json", "*/*"], "").await;
    }
    // Into the collection it came from, an Avro file goes back as it is.
    let read = app.post_for(scan, want, AVRO).await;
    let types = [AVRO, "*/*"];
    let written = app.call(Method::POST, "/v1/collections/docs/records", types, read.body).await;
    assert_eq!(written.json()["upserted"], 7);
    assert_eq!(app.count(json!("year = 2003 AND tags IS NOT NULL")).await, 1);
}

#[tokio::test]
async fn rows_of_queries_are_streams_in_four_encodings() {
    let app = App::with_docs(4).await;
    let query = json!({"query": "SELECT id, year, vector FROM docs ORDER BY id"});
    let csv = app.post_for("/v1/sql", query.clone(), "text/csv").await;
    assert_eq!(
        csv.text(),
        "id,year,vector\nr0,2000,\"[0.0, 0.1]\"\nr1,2001,\"[1.0, 0.1]\"\nr2,2002,\"[2.0, 0.1]\"\nr3,2003,\"[3.0, 0.1]\"\n"
    );
    let rows = lines(&app.post_for("/v1/sql", query.clone(), NDJSON).await);
    assert_eq!(rows[3], json!({"id": "r3", "year": 2003, "vector": [3.0, 0.1]}));
    let found: Vec<RecordBatch> = batches(&app.post_for("/v1/sql", query, ARROW).await);
    assert_eq!(found.iter().map(|b| b.num_rows()).sum::<usize>(), 4);
    let none = json!({"query": "SELECT id, tags FROM docs WHERE year = 0"});
    assert_eq!(app.post_for("/v1/sql", none.clone(), "text/csv").await.text(), "id,tags\n");
    assert_eq!(app.post_for("/v1/sql", none.clone(), NDJSON).await.text(), "");
    assert_eq!(batches(&app.post_for("/v1/sql", none, ARROW).await).len(), 0);
}

#[tokio::test]
async fn a_query_that_fails_before_its_first_row_is_an_error() {
    let app = App::with_docs(4).await;
    let query = json!({"query": "SELECT 1 / (year - year) FROM docs"});
    for accept in ["application/json", NDJSON, ARROW, "text/csv"] {
        let reply = app.post_for("/v1/sql", query.clone(), accept).await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (StatusCode::BAD_REQUEST, Some("application/json"))
        );
        assert_eq!(reply.json()["error"]["kind"], "invalid");
    }
}
