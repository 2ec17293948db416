use std::sync::Arc;

use super::*;
use crate::collection::tests::World;
use crate::directory::Directory;
use crate::open::Backend;
use crate::seams::Seams;

#[tokio::test(start_paused = true)]
async fn memory_and_directory_are_safe() {
    let root = tempfile::tempdir().unwrap();
    let disk = Backend::new(Arc::new(Directory::open(root.path(), true).unwrap()));
    let memory = World::default().process(1).client().clone();
    for client in [memory, Client::new(disk, Seams::system())] {
        let meter = Meter::new();
        assert_eq!(verdict(&client, &meter).await.unwrap(), None);
        let found = examine(&client, &meter).await.unwrap();
        let shown: Vec<String> = found.checks.iter().map(ToString::to_string).collect();
        assert!(found.safe(), "{shown:#?}");
        assert_eq!(verdict(&client, &meter).await.unwrap(), Some(found));
        assert!(client.list_all(&meter, DOCTOR).await.unwrap().is_empty());
        refuse_unsafe(&client, &meter).await.unwrap();
    }
}
