//! object_store's own conformance suite over our stores, faults off.

use esker_tests::fault::{FaultStore, Plan};
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
