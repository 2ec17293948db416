use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use esker_format::Kind;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutResult,
};

use super::*;
use crate::directory::Directory;

fn memory() -> Client {
    let mut backend = Backend::new(Arc::new(InMemory::new()));
    backend.prefix = Path::from("team/store");
    Client::new(backend, Seams::simulated(1))
}

fn on_disk() -> (tempfile::TempDir, Client) {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(root.path(), false).unwrap();
    (root, Client::new(Backend::new(Arc::new(store)), Seams::simulated(1)))
}

async fn tour(client: &Client) {
    let meter = Meter::new();
    let key = "c/x-1/wal/1.avro";
    assert!(client.get(&meter, key).await.unwrap().is_none());
    assert!(matches!(client.create(&meter, key, Bytes::from("hello world")).await, CreateReply::Created));
    assert!(matches!(client.create(&meter, key, Bytes::from("other")).await, CreateReply::Exists));
    let (bytes, etag) = client.get(&meter, key).await.unwrap().unwrap();
    assert_eq!(bytes, "hello world");
    assert_eq!(client.get_if_match(&meter, key, &etag).await.unwrap(), IfMatch::Some(bytes));
    assert_eq!(client.range(&meter, key, 6..11).await.unwrap(), "world");
    let pieces = [(key, 0..5), (key, 3..3), (key, 4..7)];
    assert_eq!(client.ranges(&meter, &pieces).await.unwrap(), ["hello", "", "o w"]);
    assert_eq!(client.suffix(&meter, key, 5).await.unwrap(), (Bytes::from("world"), 11));
    assert_eq!(client.suffix(&meter, key, 50).await.unwrap().0, "hello world");

    for past in [8..12, 11..12, 20..30] {
        let e = client.range(&meter, key, past.clone()).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt, "{past:?}: {e}");
        assert!(e.to_string().contains(key));
    }
    assert_eq!(client.range(&meter, "none", 0..1).await.unwrap_err().kind(), Kind::NotFound);

    client.overwrite(&meter, key, Bytes::from("another")).await.unwrap();
    assert_eq!(client.get_if_match(&meter, key, &etag).await.unwrap(), IfMatch::Gone);
    client.delete(&meter, key).await.unwrap();
    client.delete(&meter, key).await.unwrap();
    assert_eq!(client.get_if_match(&meter, key, &etag).await.unwrap(), IfMatch::Gone);
}

#[tokio::test]
async fn every_request_on_memory_and_directory() {
    tour(&memory()).await;
    tour(&on_disk().1).await;
}

#[tokio::test]
async fn listings_are_sorted_pages() {
    let (_root, disk) = on_disk();
    for client in [memory(), disk] {
        let meter = Meter::new();
        for n in [3, 1, 2, 4] {
            client.overwrite(&meter, &format!("a/{n}"), Bytes::from("x")).await.unwrap();
        }
        client.overwrite(&meter, "ab/5", Bytes::from("x")).await.unwrap();
        let keys = |page: &[Listed]| page.iter().map(|l| l.key.clone()).collect::<Vec<_>>();
        let page = client.list_page(&meter, "a/", None, 2).await.unwrap();
        assert_eq!((keys(&page.objects), page.more), (vec!["a/1".to_owned(), "a/2".to_owned()], true));
        let page = client.list_page(&meter, "a/", Some("a/2"), 2).await.unwrap();
        assert_eq!((keys(&page.objects), page.more), (vec!["a/3".to_owned(), "a/4".to_owned()], false));
        assert_eq!(client.list_all(&meter, "").await.unwrap().len(), 5);
        assert!(client.list_page(&meter, "none/", None, 2).await.unwrap().objects.is_empty());
        assert_eq!(meter.io().lists, 4);
        let (_, etag) = client.get(&meter, "a/1").await.unwrap().unwrap();
        assert_eq!(client.list_all(&meter, "a/").await.unwrap()[0].etag, etag);
        assert_eq!(client.list_page(&meter, "a", None, 2).await.unwrap_err().kind(), Kind::Internal);
    }
}

#[tokio::test]
async fn no_key_leaves_the_prefix() {
    let client = memory();
    let meter = Meter::new();
    for key in ["../x", "a/../../x", "/x", "a//b", "a/", ""] {
        let reply = client.create(&meter, key, Bytes::new()).await;
        assert!(matches!(reply, CreateReply::Refused(_)), "{key}");
        assert_eq!(client.get(&meter, key).await.unwrap_err().kind(), Kind::Internal, "{key}");
    }
    assert_eq!(meter.io().puts + meter.io().gets, 0);
    client.overwrite(&meter, "x", Bytes::new()).await.unwrap();
    let all: Vec<_> = client.backend.objects.list(None).try_collect().await.unwrap();
    assert_eq!(all[0].location.as_ref(), "team/store/x");
}

#[tokio::test]
async fn large_objects_go_in_parts() {
    let (_root, disk) = on_disk();
    for client in [memory(), disk] {
        let meter = Meter::new();
        let body: Bytes = (0..20_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
        client.put_immutable(&meter, "segment/a", body.clone()).await.unwrap();
        assert_eq!(meter.io().puts, 5);
        assert_eq!(client.get(&meter, "segment/a").await.unwrap().unwrap().0, body);

        let mut upload = client.upload(&meter, "segment/b");
        for chunk in body.chunks(1_234_567) {
            upload.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        assert!(client.get(&meter, "segment/b").await.unwrap().is_none());
        assert_eq!(upload.finish().await.unwrap(), body.len() as u64);
        assert_eq!(client.get(&meter, "segment/b").await.unwrap().unwrap().0, body);

        let mut upload = client.upload(&meter, "segment/c");
        upload.write(Bytes::from("small, ")).await.unwrap();
        upload.write(Bytes::from("one put")).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(client.get(&meter, "segment/c").await.unwrap().unwrap().0, "small, one put");
    }
}

/// Fails the first `failures` calls, or never answers.
#[derive(Debug)]
struct Flaky {
    inner: InMemory,
    failures: AtomicU32,
    stall: bool,
}

impl Flaky {
    async fn pass(&self) -> object_store::Result<()> {
        let failing =
            self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        match (failing, self.stall) {
            (false, _) => Ok(()),
            (true, false) => Err(error::generic("503 slow down".to_owned())),
            (true, true) => std::future::pending().await,
        }
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(
        &self,
        at: &Path,
        body: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.pass().await?;
        self.inner.put_opts(at, body, opts).await
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, opts: GetOptions) -> object_store::Result<GetResult> {
        self.pass().await?;
        self.inner.get_opts(at, opts).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, opts: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, opts).await
    }
}

fn flaky(failures: u32, stall: bool) -> Client {
    let store = Flaky { inner: InMemory::new(), failures: failures.into(), stall };
    Client::new(Backend::new(Arc::new(store)), Seams::simulated(1))
}

/// A client of `inner` whose first `calls` get no reply.
pub(super) fn stalling(inner: InMemory, calls: u32) -> Client {
    let store = Flaky { inner, failures: calls.into(), stall: true };
    Client::new(Backend::new(Arc::new(store)), Seams::simulated(1))
}

#[tokio::test(start_paused = true)]
async fn reads_and_overwrites_are_retried_and_counted() {
    let client = flaky(3, false);
    let meter = Meter::new();
    client.overwrite(&meter, "a", Bytes::from("x")).await.unwrap();
    assert_eq!((meter.io().puts, meter.io().waves), (4, 4));

    let client = flaky(100, false);
    let meter = Meter::new();
    let e = client.get(&meter, "a").await.unwrap_err();
    assert_eq!((e.kind(), meter.io().gets), (Kind::Unavailable, 6));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reply_is_given_up() {
    let client = flaky(1, true);
    let meter = Meter::new();
    assert!(client.get(&meter, "a").await.unwrap().is_none());
    assert_eq!(meter.io().gets, 2);
    let client = flaky(100, true);
    let e = client.get(&meter, "a").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(client.seams.clock.elapsed() < Duration::from_secs(120));
}

#[tokio::test(start_paused = true)]
async fn a_create_is_tried_once() {
    let client = flaky(1, false);
    let meter = Meter::new();
    let reply = client.create(&meter, "a", Bytes::new()).await;
    assert!(matches!(reply, CreateReply::Unresolved(ref e) if e.kind() == Kind::Unavailable));
    assert_eq!(meter.io().puts, 1);
    assert!(matches!(client.create(&meter, "a", Bytes::new()).await, CreateReply::Created));
}

#[test]
fn an_xml_reply_is_told_in_a_line() {
    let body = "Server returned non-2xx status code: 404 Not Found: <?xml version=\"1.0\"?>\n<Error>\
                <Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message>\
                <BucketName>notes</BucketName><RequestId>4442587FB7D0A2F9</RequestId></Error>";
    let generic = |text: String| object_store::Error::Generic { store: "S3", source: text.into() };
    let failure = Failure::Store(generic(body.to_owned()));
    assert!(!failure.is_transient() && failure.is_refusal());
    let e = failed("LIST", "names/a/", failure);
    assert_eq!(e.kind(), Kind::Unavailable);
    assert_eq!(
        e.to_string(),
        "LIST names/a/ failed: NoSuchBucket `notes`: The specified bucket does not exist"
    );
    assert_eq!(e.hint(), Some("create the bucket, or check the store's URL"));
    // Not the absence of one object.
    let source = body.to_owned().into();
    let absent = Failure::Store(object_store::Error::NotFound { path: "names/a".into(), source });
    assert!(!missing(&absent));
    assert_eq!(failed("GET", "a", absent).kind(), Kind::Unavailable);
    let long = failed("GET", "a", Failure::Store(generic(format!("{}\nmore", "x".repeat(1000)))));
    assert!(long.to_string().len() < 400 && long.to_string().ends_with("…"), "{long}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_in_parts_is_resumed_by_another_client() {
    let objects = Arc::new(InMemory::new());
    let client = |seed| {
        let backend = Backend::new(objects.clone()).with_parts(objects.clone());
        Client::new(backend, Seams::simulated(seed))
    };
    let (meter, key) = (Meter::new(), "c/x-1/segment/1.parquet");
    let upload = client(1).begin_parts(&meter, key).await.unwrap();
    let first = client(1).put_part(&meter, key, &upload, 0, Bytes::from("hello ")).await.unwrap();
    client(2).put_part(&meter, key, &upload, 1, Bytes::from("WORLD")).await.unwrap();
    // Sent again, as after a crash before it was noted.
    let last = client(3).put_part(&meter, key, &upload, 1, Bytes::from("world")).await.unwrap();
    assert!(client(3).get(&meter, key).await.unwrap().is_none());
    let parts = vec![first, last];
    client(3).complete_parts(&meter, key, &upload, parts.clone(), 11).await.unwrap();
    client(4).complete_parts(&meter, key, &upload, parts.clone(), 11).await.unwrap();
    assert!(client(4).complete_parts(&meter, key, &upload, parts, 12).await.is_err());
    assert_eq!(client(4).get(&meter, key).await.unwrap().unwrap().0, "hello world");
    let (_root, on_disk) = on_disk();
    assert!(client(1).keeps_parts() && !on_disk.keeps_parts());
    assert_eq!(on_disk.begin_parts(&meter, key).await.unwrap_err().kind(), Kind::Unavailable);
}
