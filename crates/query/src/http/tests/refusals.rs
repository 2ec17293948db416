use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fixture::App;

/// A path under `/v1`, a body, and what is said of it: status, kind, field, message.
type Case = (&'static str, Value, u16, &'static str, Value, &'static str);

fn cases() -> Vec<Case> {
    let search = "/collections/docs/search";
    let scan = "/collections/docs/records/scan";
    vec![
        (
            "/collections/Docs/search",
            json!({"vector": [1, 2]}),
            400,
            "invalid",
            json!("collection"),
            "`Docs` is not a collection name",
        ),
        (
            "/collections/none/search",
            json!({"vector": [1, 2]}),
            404,
            "not_found",
            Value::Null,
            "collection `none` does not exist",
        ),
        (search, json!({"vektor": [1, 2]}), 400, "invalid", json!("vektor"), "unknown field `vektor`"),
        (search, json!({}), 400, "invalid", json!("vector"), "give exactly one of vector, vectors and like"),
        (
            search,
            json!({"vector": [1, 2], "like": "r1"}),
            400,
            "invalid",
            json!("vector"),
            "give exactly one of vector, vectors and like",
        ),
        (search, json!({"vectors": []}), 400, "invalid", json!("vectors"), "the list of vectors is empty"),
        (
            search,
            json!({"vector": [1]}),
            400,
            "invalid",
            json!("vector"),
            "1 dimensions, the collection has 2",
        ),
        (
            search,
            json!({"vector": [1, "x"]}),
            400,
            "invalid",
            json!("vector[1]"),
            "invalid type: string \"x\", expected f32",
        ),
        (
            search,
            json!({"vector": [1, 2], "k": 0}),
            400,
            "invalid",
            json!("k"),
            "k is 0, it must be between 1 and 10000",
        ),
        (
            search,
            json!({"vector": [1, 2], "k": -1}),
            400,
            "invalid",
            json!("k"),
            "invalid value: integer `-1`, expected usize",
        ),
        (
            search,
            json!({"vector": [1, 2], "filter": 3}),
            400,
            "invalid",
            json!("filter"),
            "filter: a filter is an object, not a number",
        ),
        (
            search,
            json!({"vector": [1, 2], "filter": "yaer = 1"}),
            400,
            "invalid",
            json!("yaer"),
            "unknown column yaer",
        ),
        (
            search,
            json!({"vector": [1, 2], "filter": {"year": {"$gtt": 1}}}),
            400,
            "invalid",
            json!("filter.year.$gtt"),
            "filter.year.$gtt: unknown operator $gtt",
        ),
        (
            search,
            json!({"vector": [1, 2], "include": ["yaer"]}),
            400,
            "invalid",
            json!("include"),
            "unknown column yaer",
        ),
        (
            search,
            json!({"vector": [1, 2], "consistency": "weak"}),
            400,
            "invalid",
            json!("consistency"),
            "unknown variant `weak`, expected `strong` or `eventual`",
        ),
        (
            search,
            json!({"vector": [1, 2], "as_of": 1, "consistency": "eventual"}),
            400,
            "invalid",
            json!("as_of"),
            "as_of names one state: it goes with strong consistency only",
        ),
        (
            search,
            json!({"vector": [1, 2], "as_of": 99}),
            404,
            "not_found",
            Value::Null,
            "docs-1 has no version 99",
        ),
        (
            search,
            json!({"vector": [1, 2], "min_position": 99}),
            400,
            "invalid",
            json!("min_position"),
            "position 99 is beyond the state that was read, 2",
        ),
        (
            search,
            json!({"like": "nobody"}),
            404,
            "not_found",
            Value::Null,
            "there is no row `nobody` to search like",
        ),
        (search, json!([]), 400, "invalid", json!("body"), "the body is not a JSON object"),
        (
            scan,
            json!({"limit": 0}),
            400,
            "invalid",
            json!("limit"),
            "limit is 0, it must be between 1 and 10000",
        ),
        (scan, json!({"include": ["vector"]}), 400, "invalid", json!("include"), "unknown column vector"),
        (
            scan,
            json!({"as_of": 1, "consistency": "eventual"}),
            400,
            "invalid",
            json!("as_of"),
            "as_of names one state: it goes with strong consistency only",
        ),
        ("/collections/docs/records/get", json!({}), 400, "invalid", json!("ids"), "missing field `ids`"),
        (
            "/collections/docs/records/get",
            json!({"ids": ["r1"], "include": ["x"]}),
            400,
            "invalid",
            json!("include"),
            "unknown column x",
        ),
        (
            "/collections/docs/records/count",
            json!({"filter": "year"}),
            400,
            "invalid",
            json!("filter"),
            "the filter is a value of type Int64, not a condition",
        ),
        (
            "/collections/docs/records/count",
            json!({"limit": 1}),
            400,
            "invalid",
            json!("limit"),
            "unknown field `limit`",
        ),
        (
            "/sql",
            json!({"query": "DROP TABLE docs"}),
            400,
            "invalid",
            json!("query"),
            "SQL is read-only: DROP is not a query",
        ),
        (
            "/sql",
            json!({"query": "SELECT * FROM none"}),
            404,
            "not_found",
            Value::Null,
            "no collection is named none",
        ),
        (
            "/sql",
            json!({"query": "SELECT $1", "params": [{"a": 1}]}),
            400,
            "invalid",
            json!("params"),
            "a parameter cannot be an object",
        ),
        ("/sql", json!({"sql": "SELECT 1"}), 400, "invalid", json!("sql"), "unknown field `sql`"),
    ]
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let app = App::with_docs(4).await;
    for (path, body, status, kind, field, message) in cases() {
        let reply = app.post(&format!("/v1{path}"), body.clone()).await;
        let error = &reply.json()["error"];
        let found = (reply.status.as_u16(), &error["kind"], &error["field"], &error["message"]);
        assert_eq!(found, (status, &json!(kind), &field, &json!(message)), "{path} {body}");
        assert!(error.as_object().unwrap().contains_key("hint"));
    }
}

#[tokio::test]
async fn deletes_and_gets_are_refused_in_the_same_form() {
    let app = App::with_docs(4).await;
    for (body, field) in [
        (json!({}), "ids"),
        (json!({"ids": []}), "ids"),
        (json!({"ids": ["r1"], "filter": "year > 0"}), "ids"),
        (json!({"ids": [""]}), "records[0].id"),
        (json!({"filter": "nope = 1"}), "nope"),
        (json!({"id": "r1"}), "id"),
    ] {
        let reply = app.delete(body.clone()).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{body}"
        );
    }
    assert_eq!(app.count(json!(null)).await, 4);
    for (path, status, field) in [
        ("/v1/collections/docs/records/nobody", 404, Value::Null),
        ("/v1/collections/docs/records/r1?vector=true", 400, json!("vector")),
        ("/v1/collections/docs/records/r1?min_position=x", 400, json!("min_position")),
        ("/v1/collections/docs/records/%FF", 400, json!("path")),
        ("/v1/collections/none", 404, Value::Null),
        ("/v1/collections/none/stats", 404, Value::Null),
    ] {
        let reply = app.get(path).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["field"]), (status, &field), "{path}");
    }
}

#[tokio::test]
async fn types_that_are_not_taken_or_offered_are_refused() {
    let app = App::with_docs(2).await;
    let search = json!({"vector": [1, 2]}).to_string();
    for (types, status, field) in [
        (["text/plain", "*/*"], StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type"),
        (["application/avro", "*/*"], StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type"),
        (["application/json", "text/html"], StatusCode::NOT_ACCEPTABLE, "accept"),
        (["application/json", "text/csv"], StatusCode::NOT_ACCEPTABLE, "accept"),
    ] {
        let reply = app.call(Method::POST, "/v1/collections/docs/search", types, search.clone()).await;
        assert_eq!((reply.status, &reply.json()["error"]["field"]), (status, &json!(field)));
    }
    let long = vec![b' '; super::super::BODY_BYTES + 1];
    let reply = app.call(Method::POST, "/v1/sql", ["application/json", "*/*"], long).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["field"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body"))
    );
}
