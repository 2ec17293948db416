//! object_store's own conformance suite over our stores, faults off.

use esker_tests::fault::{FaultStore, Plan};
use esker_tests::s3::{S3Options, S3Server};
use esker_tests::world::World;
use object_store::integration;

/// Left out: `multipart` (part-level `MultipartStore`, which nothing of ours uses; `put_multipart` is covered by the
/// two below).
#[tokio::test]
async fn fault_store_conforms_with_faults_off() {
    let store = FaultStore::new(&World::unchecked(), Plan::none().jitter(2));
    integration::put_get_delete_list(&store).await;
    integration::list_with_offset_exclusivity(&store).await;
    integration::get_opts(&store).await;
    integration::list_uses_directories_correctly(&store).await;
    integration::list_with_delimiter(&store).await;
    integration::rename_and_copy(&store).await;
    integration::copy_if_not_exists(&store).await;
    integration::copy_rename_nonexistent_object(&store).await;
    integration::stream_get(&store).await;
    integration::put_opts(&store, true).await;
    integration::put_get_attributes(&store).await;
    integration::list_paginated(&store, &store).await;
    integration::multipart_race_condition(&store, true).await;
    integration::multipart_out_of_order(&store).await;
}

/// Left out: `copy_if_not_exists` and `copy_rename_nonexistent_object` (S3 has no conditional copy), `signing` and
/// `s3_encryption` (private to object_store).
#[tokio::test]
async fn s3_server_conforms() {
    let server = S3Server::start(S3Options::default()).unwrap();
    let store = server.client().unwrap();
    integration::put_get_delete_list(&store).await;
    integration::list_with_offset_exclusivity(&store).await;
    integration::get_opts(&store).await;
    integration::list_uses_directories_correctly(&store).await;
    integration::list_with_delimiter(&store).await;
    integration::rename_and_copy(&store).await;
    integration::stream_get(&store).await;
    integration::put_opts(&store, true).await;
    integration::put_get_attributes(&store).await;
    integration::list_paginated(&store, &store).await;
    // 80 MB; hashing them twice is slow in a debug build.
    let store = server.builder().with_unsigned_payload(true).build().unwrap();
    integration::multipart(&store, &store).await;
    integration::multipart_race_condition(&store, true).await;
    integration::multipart_out_of_order(&store).await;
}
