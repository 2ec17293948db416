//! What the first strong search of a fresh process asks of an S3 server, as the server sees it: a small collection in a
//! segment, two entries in its tail.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_compactor::Compactor;
use esker_format::Name;
use esker_format::keys::parse_descending;
use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_ingest::Ingest;
use esker_query::{Engine, Filter, Options, Search};
use esker_store::{Client, Location, Meter, Seams, Store, StoreEnv};
use esker_tests::s3::{Request, S3Options, S3Server};

const ROWS: usize = 500;

fn name() -> Name {
    Name::new("notes").unwrap()
}

/// A process that knows nothing.
fn process(server: &S3Server) -> Arc<Store> {
    let env: StoreEnv = server.env().into_iter().collect();
    let location = Location::parse(&server.url("store")).unwrap();
    let backend = esker_store::open(&location, &env, true).unwrap();
    Arc::new(Store::new(Client::new(backend, Seams::system())))
}

fn record(i: usize) -> Record {
    let vector = (0..16).map(|d| ((i * (2 * d + 3)) % 31) as f32 - 15.0 + d as f32 / 8.0).collect();
    let section = Value::String(["a", "b", "c", "d"][i % 4].to_owned());
    let metadata =
        BTreeMap::from([("section".to_owned(), section), ("number".to_owned(), Value::Int(i as i64))]);
    Record { id: format!("r{i}"), vector, metadata, ..Record::default() }
}

async fn filled(server: &S3Server) {
    let (store, meter, name) = (process(server), Meter::new(), name());
    let settings = Settings { dimension: 16, metric: Metric::L2, vector_type: VectorType::F32 };
    let collection = store.create(&meter, &name, settings, Schema::default()).await.unwrap();
    let ingest = Ingest::new(store.clone());
    let rows: Vec<Record> = (0..ROWS).map(record).collect();
    ingest.upsert(&meter, &name, &rows, None).await.unwrap();
    Compactor::default().compact(&meter, &collection, &|_| {}).await.unwrap();
    ingest.upsert(&meter, &name, &[record(ROWS), record(3)], None).await.unwrap();
    ingest.delete(&meter, &name, &["r5"], &esker_ingest::WriteOptions::default()).await.unwrap();
}

/// A line per request, the same in every run: the descending numbers of keys counted from 1, tokens left out, and of
/// ranges only that there is one.
fn line(request: &Request) -> String {
    let number = |part: &str| {
        let (stem, ending) =
            part.split_once('.').map_or((part, String::new()), |(s, e)| (s, format!(".{e}")));
        match parse_descending(stem).filter(|_| stem.len() == 20) {
            Some(n) => format!("{{~{n}}}{ending}"),
            None if stem.len() > 50 => format!("{{made}}{ending}"),
            None => part.to_owned(),
        }
    };
    let key: Vec<String> = request.key.split('/').map(number).collect();
    let key = match request.is_list() {
        true => request.query.clone(),
        false => key.join("/"),
    };
    let part = if request.range.is_some() { " part" } else { "" };
    format!("{} {} {key}{part}", request.status, request.method)
}

/// The search's requests as the server saw them, sorted, with how often; and its waves as the meter counted them.
async fn asked(server: &S3Server, search: &Search) -> (String, u32) {
    let store = process(server);
    server.reset();
    let meter = Meter::recording();
    let reply =
        Engine::new(store, Options::default()).collection(&name()).search(&meter, search).await.unwrap();
    assert_eq!(reply.results[0].len(), search.k);
    let requests = server.requests();
    let io = meter.io();
    assert_eq!(requests.len() as u64, io.gets + io.lists, "the meter counts what the server sees");
    assert_eq!((io.lists, io.puts, io.deletes), (1, 0, 0));
    assert!(requests.iter().all(|r| r.method == "GET"), "no HEAD");
    let absent = requests.iter().filter(|r| r.status == 404).count();
    assert!(absent <= 2, "{absent} requests learn an absence");
    let mut lines = BTreeMap::<String, usize>::new();
    requests.iter().for_each(|r| *lines.entry(line(r)).or_default() += 1);
    let lines: Vec<String> = lines.iter().map(|(line, times)| format!("{times} × {line}")).collect();
    (format!("{} waves, {} GETs, 1 LIST\n{}", io.waves, io.gets, lines.join("\n")), io.waves)
}

#[tokio::test]
async fn a_search_of_a_fresh_process() {
    let server = S3Server::start(S3Options::default()).unwrap();
    filled(&server).await;
    let search = Search::new(record(17).vector, 10);
    let (list, waves) = asked(&server, &search).await;
    assert!(waves <= 3, "{list}");
    insta::assert_snapshot!("search", list);
    let filter = Some(Filter::sql("section = 'b' AND number < 400").unwrap());
    let (list, waves) = asked(&server, &Search { filter, ..search.clone() }).await;
    assert!(waves <= 3, "{list}");
    insta::assert_snapshot!("filtered", list);
    let filter = Some(Filter::sql("section LIKE '%b' AND id LIKE 'r1%'").unwrap());
    let (list, waves) = asked(&server, &Search { filter, ..search.clone() }).await;
    assert!(waves <= 4, "{list}");
    insta::assert_snapshot!("filtered_by_columns", list);
    let (list, waves) =
        asked(&server, &Search { like: Some("r17".to_owned()), vectors: Vec::new(), ..search }).await;
    assert!(waves <= 4, "{list}");
    insta::assert_snapshot!("like", list);
}
