use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::integration::{
    copy_if_not_exists, copy_rename_nonexistent_object, get_opts, list_uses_directories_correctly,
    list_with_delimiter, list_with_offset_exclusivity, multipart_out_of_order, multipart_race_condition,
    put_get_delete_list, put_opts, rename_and_copy, stream_get,
};

use super::*;

fn directory() -> (tempfile::TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(root.path(), false).unwrap();
    (root, store)
}

/// What is left out: attributes, `PutMode::Update` and `MultipartStore`, which a directory does not have.
#[tokio::test]
async fn conforms() {
    let (_root, store) = directory();
    put_get_delete_list(&store).await;
    list_with_offset_exclusivity(&store).await;
    get_opts(&store).await;
    list_uses_directories_correctly(&store).await;
    list_with_delimiter(&store).await;
    rename_and_copy(&store).await;
    copy_if_not_exists(&store).await;
    copy_rename_nonexistent_object(&store).await;
    stream_get(&store).await;
    put_opts(&store, false).await;
    multipart_out_of_order(&store).await;
    multipart_race_condition(&store, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_racing_creates_wins() {
    let (_root, store) = directory();
    let store = Arc::new(store);
    for round in 0..10 {
        let path = Path::from(format!("race/{round}"));
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..16 {
            let (store, path) = (store.clone(), path.clone());
            racers.spawn(async move {
                let body = format!("racer {racer}");
                (store.put_opts(&path, body.clone().into(), PutMode::Create.into()).await, body)
            });
        }
        let replies = racers.join_all().await;
        let won: Vec<&String> = replies.iter().filter(|(r, _)| r.is_ok()).map(|(_, b)| b).collect();
        assert_eq!(won.len(), 1);
        assert!(replies.iter().all(|(r, _)| r.is_ok() || matches!(r, Err(Error::AlreadyExists { .. }))));
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), won[0].as_bytes());
    }
}

#[tokio::test]
async fn temporary_files_are_hidden_and_gone() {
    let (root, store) = directory();
    let path = Path::from("a/b/object");
    store.put_opts(&path, "one".into(), PutMode::Create.into()).await.unwrap();
    store.put_opts(&path, "two".into(), PutMode::Create.into()).await.unwrap_err();
    store.put(&path, "three".into()).await.unwrap();
    drop(store.put_multipart(&Path::from("a/b/dropped")).await.unwrap());
    let names: Vec<_> =
        std::fs::read_dir(root.path().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["object"]);
    // What a crash leaves.
    std::fs::File::create(root.path().join("a/b/object#17")).unwrap();
    let listed: Vec<_> = store.list(None).map_ok(|m| m.location).try_collect().await.unwrap();
    assert_eq!(listed, [path]);
}

#[tokio::test]
async fn tags_of_put_get_and_list_agree() {
    let (_root, store) = directory();
    let path = Path::from("x");
    let put = store.put(&path, "body".into()).await.unwrap().e_tag;
    assert_eq!(put, store.get(&path).await.unwrap().meta.e_tag);
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(put, listed[0].e_tag);
}

#[tokio::test]
async fn a_directory_removed_meanwhile_is_made_again() {
    let (root, store) = directory();
    store.put(&Path::from("a/1"), "x".into()).await.unwrap();
    std::fs::remove_dir_all(root.path().join("a")).unwrap();
    store.put(&Path::from("a/2"), "x".into()).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_without_a_name_becomes_an_object() {
    use std::io::Write;
    let (root, store) = directory();
    let path = Path::from("a/b/object");
    let mut file = tempfile::tempfile_in(root.path()).unwrap();
    file.write_all(b"body").unwrap();
    let kept = file.try_clone().unwrap();
    let adopted = store.adopt(&path, file).await.unwrap().unwrap();
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })), "not before it is published");
    assert_eq!(store.temporary("a").await.unwrap().len(), 1);
    let put = adopted.publish().await.unwrap();
    let got = store.get(&path).await.unwrap();
    assert_eq!(got.meta.e_tag, put.e_tag);
    assert_eq!(got.bytes().await.unwrap(), "body");
    assert_eq!(store.temporary("").await.unwrap(), []);
    assert_eq!(kept.metadata().unwrap().nlink(), 1, "it is the same file");
    let made = std::fs::metadata(root.path().join("a/b/object")).unwrap().mode();
    store.put(&Path::from("a/b/put"), "x".into()).await.unwrap();
    assert_eq!(made, std::fs::metadata(root.path().join("a/b/put")).unwrap().mode());

    // Given up, it leaves nothing; a file that has, or had, a name is not taken, nor is one of another file system.
    drop(store.adopt(&path, tempfile::tempfile_in(root.path()).unwrap()).await.unwrap().unwrap());
    assert_eq!(store.temporary("").await.unwrap(), []);
    let named = tempfile::NamedTempFile::new_in(root.path()).unwrap();
    let (gone, _) = (named.reopen().unwrap(), drop(named));
    assert!(store.adopt(&path, gone).await.unwrap().is_none());
    let elsewhere = File::open("/proc/self/status").unwrap();
    assert!(store.adopt(&path, elsewhere).await.unwrap().is_none());
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "body");
}

#[tokio::test]
async fn what_is_evicted_is_still_there() {
    let (_root, store) = directory();
    let path = Path::from("a/object");
    store.put(&path, "body".into()).await.unwrap();
    store.evict(&path).await;
    store.evict(&Path::from("a/none")).await;
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "body");
}
