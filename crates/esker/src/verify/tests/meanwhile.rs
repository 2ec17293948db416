//! Verification while writers, a compactor and a collector work: no false alarm.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esker_compactor::{CollectOptions, Collector, Compactor, Options};
use esker_store::{Client, Collection, Meter, Seams};
use tokio::task::JoinSet;

use super::lab::{Lab, id, memory};
use super::{assert_sound, collection};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changes_meanwhile_is_no_finding() {
    let backend = memory();
    let client = Client::new(backend.clone(), Seams::system());
    let mut lab = Lab::over(backend, Seams::system(), 8).await;
    static DONE: AtomicBool = AtomicBool::new(false);
    let mut tasks: JoinSet<usize> = JoinSet::new();
    let compacting = Collection::new(client.clone(), id(1));
    tasks.spawn(async move {
        let compactor = Compactor::new(Options { threads: 1, ..Options::default() });
        while !DONE.load(Ordering::Relaxed) {
            compactor.compact(&Meter::new(), &compacting, &|_| {}).await.ok();
            tokio::task::yield_now().await;
        }
        0
    });
    let collecting = Collection::new(client.clone(), id(1));
    tasks.spawn(async move {
        // Less than a minute of grace: readers meet what is being deleted.
        let options = CollectOptions { retain: Duration::ZERO, grace: Duration::from_millis(5) };
        while !DONE.load(Ordering::Relaxed) {
            Collector::new(options).run(&Meter::new(), &collecting, &|_| {}).await.ok();
            tokio::task::yield_now().await;
        }
        0
    });
    for _ in 0..2 {
        let client = client.clone();
        tasks.spawn(async move {
            let mut sound = 0;
            while !DONE.load(Ordering::Relaxed) {
                match collection(&client, &Meter::new(), &id(1), super::DEEP, &|_| {}).await {
                    Ok(report) => {
                        assert_eq!(report.findings, [], "{report:?}");
                        sound += 1;
                    }
                    Err(e) => assert_eq!(e.kind(), esker_format::Kind::Busy, "{e}"),
                }
            }
            sound
        });
    }
    for _ in 0..60 {
        lab.write(10).await;
        lab.delete(3).await;
        lab.client.seams().clock.sleep(Duration::from_millis(20)).await;
    }
    DONE.store(true, Ordering::Relaxed);
    let sound: usize = tasks.join_all().await.into_iter().sum();
    assert!(sound > 5, "{sound} verifications finished");
    assert_sound(&client, lab.live.len()).await;
}
