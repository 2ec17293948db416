//! The S3 server is atomic, counts, takes its time and can be made worse.

use bytes::Bytes;
use esker_format::Kind;
use esker_store::{Client, Location, Meter, Seams, open};
use esker_tests::s3::{Request, S3Options, S3Server, Weakness};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode};
use std::time::Duration;

fn start() -> (S3Server, AmazonS3) {
    let server = S3Server::start(S3Options::default()).unwrap();
    let client = server.client().unwrap();
    (server, client)
}

async fn winners(client: &AmazonS3, racers: usize) -> usize {
    let path = Path::from("race");
    client.delete(&path).await.unwrap();
    let races = (0..racers).map(|n| client.put_opts(&path, n.to_string().into(), PutMode::Create.into()));
    let results = join_all(races).await;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    }
    results.iter().filter(|result| result.is_ok()).count()
}

#[tokio::test]
async fn a_create_has_one_winner() {
    let (server, client) = start();
    for _ in 0..10 {
        assert_eq!(winners(&client, 64).await, 1);
    }
    server.weaken(Weakness::NonAtomicCreate);
    assert!(winners(&client, 16).await > 1);
    server.weaken(Weakness::IgnoreIfNoneMatch);
    assert_eq!(winners(&client, 4).await, 4);
    server.mend();
    assert_eq!(winners(&client, 4).await, 1);
}

/// As where ETags are not of the content alone and two send the same part.
#[tokio::test]
async fn an_upload_with_a_part_that_another_sent_anew_is_not_completed() {
    let server = S3Server::start(S3Options::default()).unwrap();
    let env = server.env().into_iter().collect();
    let location = Location::parse(&server.url("some/prefix")).unwrap();
    let client = Client::new(open(&location, &env, true).unwrap(), Seams::system());
    let (meter, key) = (Meter::new(), "c/x-1/segment/1.parquet");
    let upload = client.begin_parts(&meter, key).await.unwrap();
    let first = client.put_part(&meter, key, &upload, 0, Bytes::from("hello")).await.unwrap();
    client.put_part(&meter, key, &upload, 0, Bytes::from("HELLO")).await.unwrap();
    let before = server.requests().len();
    let e = client.complete_parts(&meter, key, &upload, vec![first], 5).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert!(e.to_string().contains(key), "{e}");
    assert!(server.requests().len() <= before + 2, "it is not tried again");
}

#[tokio::test]
async fn requests_are_logged() {
    let (server, client) = start();
    let path = Path::from("a/b c");
    client.put(&path, "hello".into()).await.unwrap();
    client.get_range(&path, 1..3).await.unwrap();
    client.get(&Path::from("none")).await.unwrap_err();
    client.list(Some(&Path::from("a"))).try_collect::<Vec<_>>().await.unwrap();
    client.head(&path).await.unwrap();
    let seen: Vec<_> = server
        .requests()
        .into_iter()
        .map(|Request { method, key, query, range, status, bytes, sent, .. }| {
            let bytes = if status == 200 || status == 206 { bytes } else { 0 };
            let bytes = if query.is_empty() { bytes } else { bytes.min(1) };
            (method, key, query, range, status, bytes, sent)
        })
        .collect();
    let row = |method: &str, key: &str, query: &str, range: Option<&str>, status, bytes, sent| {
        (method.into(), key.into(), query.into(), range.map(str::to_owned), status, bytes, sent)
    };
    assert_eq!(
        seen,
        [
            row("PUT", "a/b c", "", None, 200, 0, 5),
            row("GET", "a/b c", "", Some("bytes=1-2"), 206, 2, 0),
            row("GET", "none", "", None, 404, 0, 0),
            row("GET", "", "list-type=2&prefix=a%2F", None, 200, 1, 0),
            row("HEAD", "a/b c", "", None, 200, 0, 0),
        ]
    );
    assert!(server.requests()[3].is_list());
    server.reset();
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn latency_is_added_to_each_of_many_connections() {
    let (server, client) = start();
    client.put(&Path::from("a"), "hello".into()).await.unwrap();
    server.reset();
    server.set_latency(Duration::from_millis(50));
    let path = Path::from("a");
    let reads = join_all((0..64).map(|_| client.get(&path))).await;
    assert!(reads.iter().all(Result::is_ok));
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.took_us >= 50_000));
    let first = requests.iter().map(|r| r.at_us).min().unwrap();
    let last = requests.iter().map(|r| r.at_us + r.took_us).max().unwrap();
    assert!(last - first < 64 * 50_000 / 2, "served one after the other: {} us", last - first);
}

#[tokio::test]
async fn ranges_and_conditions_of_a_read() {
    let (server, client) = start();
    let path = Path::from("a");
    let put = client.put(&path, "0123456789".into()).await.unwrap();
    let read = async |range: GetRange| {
        let result = client.get_opts(&path, GetOptions::new().with_range(Some(range))).await?;
        assert_eq!(result.meta.size, 10);
        result.bytes().await
    };
    assert_eq!(read(GetRange::Suffix(3)).await.unwrap(), "789");
    assert_eq!(read(GetRange::Offset(8)).await.unwrap(), "89");
    assert_eq!(read(GetRange::Bounded(8..20)).await.unwrap(), "89");
    assert!(read(GetRange::Offset(10)).await.is_err());
    let matching = |tag: &str| GetOptions::new().with_if_match(Some(tag.to_owned()));
    client.get_opts(&path, matching(&put.e_tag.unwrap())).await.unwrap();
    let other = client.get_opts(&path, matching("\"other\"")).await;
    assert!(matches!(other, Err(Error::Precondition { .. })));
    server.weaken(Weakness::IgnoreIfMatch);
    client.get_opts(&path, matching("\"other\"")).await.unwrap();
    server.weaken(Weakness::IgnoreSuffixRange);
    assert!(read(GetRange::Suffix(3)).await.is_err());
    server.weaken(Weakness::IgnoreRange);
    assert!(read(GetRange::Offset(8)).await.is_err());
    server.weaken(Weakness::MissingIsForbidden);
    let missing = client.get(&Path::from("none")).await.unwrap_err();
    assert!(matches!(missing, Error::PermissionDenied { .. }), "{missing}");
}

#[tokio::test]
async fn listings_can_be_wrong_in_three_ways() {
    let (server, client) = start();
    for key in ["l/1", "l/2", "l/3"] {
        client.put(&Path::from(key), "x".into()).await.unwrap();
    }
    let list = async || -> Vec<String> {
        let offset = Path::from("l/1");
        let names = client.list_with_offset(Some(&Path::from("l")), &offset);
        names.map(|meta| meta.unwrap().location.to_string()).collect().await
    };
    assert_eq!(list().await, ["l/2", "l/3"]);
    server.weaken(Weakness::UnorderedList);
    assert_eq!(list().await, ["l/3", "l/2"]);
    server.weaken(Weakness::IgnoreStartAfter);
    assert_eq!(list().await, ["l/1", "l/2", "l/3"]);
    server.weaken(Weakness::StaleList);
    assert_eq!(list().await, [""; 0]);
    server.mend();
    let one = PaginatedListOptions { max_keys: Some(2), ..Default::default() };
    let page = client.list_paginated(Some("l/"), one).await.unwrap();
    assert_eq!((page.result.objects.len(), page.page_token.is_some()), (2, true));
}

#[tokio::test]
async fn only_the_known_key_is_let_in() {
    let (server, _) = start();
    for (key, secret) in [("esker-test", "wrong"), ("other", "esker-test-secret")] {
        let client = server.builder().with_access_key_id(key).with_secret_access_key(secret).build().unwrap();
        let error = client.put(&Path::from("a"), "x".into()).await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    }
    assert_eq!(server.world().keys(""), Vec::<String>::new());
}
