//! The table.

use esker_format::Kind;
use serde_json::{Value as Json, json};

/// An operation with what HTTP takes as its body.
#[derive(Debug, Clone)]
pub struct Step {
    pub op: &'static str,
    pub collection: &'static str,
    pub body: Json,
    pub key: Option<String>,
    /// How it is to fail.
    pub kind: Option<Kind>,
}

impl Step {
    pub fn new(op: &'static str, collection: &'static str, body: Json) -> Step {
        Step { op, collection, body, key: None, kind: None }
    }

    fn named(self, key: &str) -> Step {
        Step { key: Some(key.to_owned()), ..self }
    }

    fn fails(self, kind: Kind) -> Step {
        Step { kind: Some(kind), ..self }
    }
}

/// Every operation of WIRE §4 and the ways in which they are refused, in an order in which they make sense.
pub fn steps() -> Vec<Step> {
    [collections(), writes(), reads(), searches(), queries(), deletes()].concat()
}

fn collections() -> Vec<Step> {
    let docs = json!({"name": "docs", "dimension": 4, "metric": "cosine", "metadata": {"section": "string"}});
    let of = |fields: Json| {
        let mut body = json!({"name": "new", "dimension": 4, "metric": "l2"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Step::new("create", "", body)
    };
    vec![
        Step::new("create", "", docs.clone()),
        Step::new(
            "upsert",
            "docs",
            json!({"records": [
            {"id": "a", "vector": [1, 0, 0, 0], "metadata": {"section": "x", "year": 2020, "rating": 0.5, "draft": false,
                "tags": ["s", "t"]}, "timestamp": 5, "created_at": 6, "version": 3},
            {"id": "b", "vector": [0.1, 1, 0, 0], "metadata": {"year": 2021, "section": null}},
            {"id": "c", "vector": [0, 0.3, 1, 0], "expires_at": 9_000_000_000_000_i64}]}),
        ),
        Step::new("create", "", json!({"name": "plain", "dimension": 2, "vector_type": "f16"})),
        Step::new("describe", "plain", json!({})),
        Step::new("list", "", json!({})),
        Step::new("create", "", docs).fails(Kind::Conflict),
        of(json!({"name": "Née"})).fails(Kind::Invalid),
        of(json!({"dimension": 0})).fails(Kind::Invalid),
        of(json!({"dimension": 9000})).fails(Kind::Invalid),
        of(json!({"metadata": {"score": "float"}})).fails(Kind::Invalid),
        Step::new("describe", "nosuch", json!({})).fails(Kind::NotFound),
        Step::new("stats", "nosuch", json!({})).fails(Kind::NotFound),
        Step::new("drop", "nosuch", json!({})).fails(Kind::NotFound),
    ]
}

fn writes() -> Vec<Step> {
    let one = |record: Json| Step::new("upsert", "docs", json!({ "records": [record] }));
    let vector = json!([1, 1, 0, 0]);
    let patch = |patch: Json| Step::new("patch", "docs", json!({ "records": [patch] }));
    vec![
        one(json!({"id": "d", "vector": vector, "collection_id": "docs"})).named("order 7"),
        one(json!({"id": "d", "vector": vector, "collection_id": "docs"})).named("order 7"),
        one(json!({"id": "", "vector": vector})).fails(Kind::Invalid),
        one(json!({"id": "x".repeat(257), "vector": vector})).fails(Kind::Invalid),
        one(json!({"id": "x", "vector": [1, 2]})).fails(Kind::Invalid),
        one(json!({"id": "x", "vector": [0, 0, 0, 0]})).fails(Kind::Invalid),
        one(json!({"id": "x", "vector": vector, "collection_id": "other"})).fails(Kind::Invalid),
        one(json!({"id": "x", "vector": vector, "metadata": {"year": "text"}})).fails(Kind::Invalid),
        one(json!({"id": "x", "vector": vector, "metadata": {"_seq": 1}})).fails(Kind::Invalid),
        Step::new("upsert", "docs", json!({"records": []})).fails(Kind::Invalid),
        Step::new("upsert", "nosuch", json!({"records": [{"id": "x", "vector": [1]}]})).fails(Kind::NotFound),
        Step::new("upsert", "docs", json!({"records": [{"id": "n", "vector": vector}], "if_absent": true})),
        Step::new("upsert", "docs", json!({"records": [{"id": "n", "vector": vector}], "if_absent": true}))
            .fails(Kind::Conflict),
        Step::new("upsert", "docs", json!({"records": [{"id": "a", "vector": vector}], "if_version": 9}))
            .fails(Kind::Conflict),
        Step::new(
            "upsert",
            "docs",
            json!({"records": [{"id": "a", "vector": vector}], "if_version": 9, "if_absent": true}),
        )
        .fails(Kind::Invalid),
        patch(
            json!({"id": "b", "metadata": {"year": null, "section": "y"}, "vector": [0, 1, 0, 0], "version": 4}),
        ),
        patch(json!({"id": "c", "expires_at": null, "timestamp": 77})),
        patch(json!({"id": "nobody", "version": 4})).fails(Kind::NotFound),
        patch(json!({"id": "b", "vector": [1]})).fails(Kind::Invalid),
        Step::new("patch", "docs", json!({"records": [{"id": "b", "timestamp": 8}], "if_version": 4})),
        Step::new("patch", "docs", json!({"records": [{"id": "b", "timestamp": 8}], "if_version": 5}))
            .fails(Kind::Conflict),
    ]
}

fn reads() -> Vec<Step> {
    let docs = |op, body| Step::new(op, "docs", body);
    vec![
        docs("get", json!({"id": "a", "include_vector": true})),
        docs("get", json!({"id": "b"})),
        docs("get", json!({"id": "c", "include_vector": true})),
        docs("get", json!({"id": "nobody"})).fails(Kind::NotFound),
        Step::new("get", "nosuch", json!({"id": "a"})).fails(Kind::NotFound),
        docs("get_many", json!({"ids": ["c", "nobody", "a"], "include": ["year"], "include_vector": true})),
        docs("get_many", json!({"ids": []})),
        docs("get_many", json!({"ids": ["a"], "include": ["yaer"]})).fails(Kind::Invalid),
        docs("scan", json!({"limit": 2})),
        docs(
            "scan",
            json!({"limit": 50, "filter": "year >= 2020", "include": ["year"], "include_vector": true}),
        ),
        docs("scan", json!({"limit": 1, "cursor": "nonsense"})).fails(Kind::Invalid),
        docs("scan", json!({"limit": 1, "include": ["nosuch"]})).fails(Kind::Invalid),
        docs("scan", json!({"limit": 1, "filter": "nosuch = 1"})).fails(Kind::Invalid),
        Step::new("scan", "nosuch", json!({"limit": 1})).fails(Kind::NotFound),
        docs("count", json!({"min_position": 1})),
        docs("count", json!({"filter": "year >= 2020"})),
        docs("count", json!({"filter": {"section": {"$in": ["x", "y"]}}})),
        docs("count", json!({"filter": "yaer = 1"})).fails(Kind::Invalid),
        docs("count", json!({"filter": {"year": {"$gtt": 1}}})).fails(Kind::Invalid),
        docs("count", json!({"filter": ""})).fails(Kind::Invalid),
        docs("describe", json!({})),
    ]
}

fn searches() -> Vec<Step> {
    let search = |body| Step::new("search", "docs", body);
    let vector = json!([1, 0.2, 0, 0]);
    vec![
        search(json!({"vector": vector})),
        search(
            json!({"vector": vector, "k": 2, "include": ["year"], "include_vector": true, "explain": true}),
        ),
        search(json!({"vectors": [vector, [0, 0, 1, 0]], "k": 2, "include": []})),
        search(json!({"vectors": [vector], "k": 1, "filter": "section = 'y'"})),
        search(json!({"like": "a", "k": 1, "max_distance": 0.5, "min_recall": 0.9})),
        search(json!({"vector": vector, "k": 0})).fails(Kind::Invalid),
        search(json!({"vector": vector, "k": 10_001})).fails(Kind::Invalid),
        search(json!({"k": 1})).fails(Kind::Invalid),
        search(json!({"vector": vector, "like": "a"})).fails(Kind::Invalid),
        search(json!({"like": "nobody"})).fails(Kind::NotFound),
        search(json!({"vector": [1, 2]})).fails(Kind::Invalid),
        search(json!({"vectors": [vector, [1]]})).fails(Kind::Invalid),
        search(json!({"vector": [0, 0, 0, 0]})).fails(Kind::Invalid),
        search(json!({"vector": vector, "min_recall": 1.5})).fails(Kind::Invalid),
        search(json!({"vector": vector, "include": ["nosuch"]})).fails(Kind::Invalid),
        search(json!({"vector": vector, "filter": "nosuch = 1"})).fails(Kind::Invalid),
        search(json!({"vector": vector, "as_of": 99})).fails(Kind::NotFound),
        search(json!({"vector": vector, "as_of": 1, "consistency": "eventual"})).fails(Kind::Invalid),
        Step::new("search", "nosuch", json!({"vector": [1]})).fails(Kind::NotFound),
        Step::new("warm", "docs", json!({})),
        Step::new("warm", "nosuch", json!({})).fails(Kind::NotFound),
        search(json!({"vector": vector, "k": 3})),
        search(json!({"vector": vector, "k": 1, "consistency": "eventual"})),
    ]
}

fn queries() -> Vec<Step> {
    let sql = |body| Step::new("sql", "", body);
    vec![
        sql(json!({"query": "SELECT id, year, tags FROM docs ORDER BY id"})),
        sql(json!({"query": "SELECT id FROM docs WHERE year >= $1 AND section = $2", "params": [2020, "x"]})),
        sql(json!({"query": "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 2",
            "params": [[1, 0, 0, 0.5]]})),
        sql(json!({"query": "SELECT count(*) AS n FROM docs WHERE false"})),
        sql(json!({"query": "SELECT id FROM nosuch"})).fails(Kind::NotFound),
        sql(json!({"query": "DROP TABLE docs"})).fails(Kind::Invalid),
        sql(json!({"query": "selec"})).fails(Kind::Invalid),
        sql(json!({"query": "SELECT $1", "params": [{"a": 1}]})).fails(Kind::Invalid),
        sql(json!({"query": "SELECT $1", "params": [[1, "x"]]})).fails(Kind::Invalid),
    ]
}

fn deletes() -> Vec<Step> {
    let docs = |op, body| Step::new(op, "docs", body);
    vec![
        docs("delete", json!({"ids": ["d", "nobody"]})).named("delete d"),
        docs("delete", json!({"ids": ["d", "nobody"]})).named("delete d"),
        docs("delete", json!({"ids": []})).fails(Kind::Invalid),
        docs("delete", json!({"ids": [""]})).fails(Kind::Invalid),
        docs("delete", json!({"filter": "yaer = 1"})).fails(Kind::Invalid),
        Step::new("delete", "nosuch", json!({"ids": ["a"]})).fails(Kind::NotFound),
        docs("delete", json!({"filter": "year = 2020"})),
        docs("delete", json!({"filter": {"section": "nothing has it"}})),
        docs("count", json!({})),
        docs("stats", json!({})),
        docs("drop", json!({})),
        docs("count", json!({})).fails(Kind::NotFound),
        Step::new("list", "", json!({})),
    ]
}
