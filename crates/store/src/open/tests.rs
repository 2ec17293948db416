use super::*;

#[test]
fn urls_are_read() {
    let s3 =
        |bucket: &str, prefix: &str| Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
    for (url, wanted) in [
        ("data", Location::Directory("data".into())),
        ("./a b", Location::Directory("./a b".into())),
        ("/var/lib/esker", Location::Directory("/var/lib/esker".into())),
        ("file:///var/lib/a%20b", Location::Directory("/var/lib/a b".into())),
        ("memory:", Location::Memory),
        ("s3://bucket", s3("bucket", "")),
        ("s3://bucket/", s3("bucket", "")),
        ("s3://bucket/a/b/", s3("bucket", "a/b")),
    ] {
        assert_eq!(Location::parse(url).unwrap(), wanted, "{url}");
    }
    for url in
        ["", "s3://", "s3:///x", "gs://bucket", "http://host/x", "s3://bucket/a/../b", "s3://user@bucket/x"]
    {
        let e = Location::parse(url).unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("store")), "{url}");
        assert!(e.hint().is_some());
    }
    assert!(Location::Memory.is_volatile());
    assert!(Location::Memory.to_string().contains("volatile"));
    assert!(!Location::parse("data").unwrap().is_volatile());
}

#[test]
fn s3_takes_its_settings_from_the_map() {
    let env = StoreEnv::from_iter([
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "eu-north-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
    ]);
    assert!(!format!("{env:?}").contains("secret\""));
    let backend = open(&Location::parse("s3://bucket/a/b").unwrap(), &env, false).unwrap();
    assert_eq!(backend.prefix, Path::from("a/b"));
    assert!(backend.pages.is_some());
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    let location = Location::Directory(path.clone());
    let e = open(&location, &StoreEnv::new(), false).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains("none"));
    open(&location, &StoreEnv::new(), true).unwrap();
    assert!(path.is_dir());
}
