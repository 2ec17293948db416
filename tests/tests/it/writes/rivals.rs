//! Writers that want the same record.

use super::*;
use esker_format::Kind;
use esker_ingest::Patch;
use futures::future::join_all;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn exactly_one_of_many_creates_a_record() {
    for seed in 0..12 {
        let world = World::new();
        Process::create(&world).await;
        let rivals: Vec<Process> = (0..5)
            .map(|n| Process::new(&world, Plan::none().seed(seed * 10 + n).jitter(6), 100 + n))
            .collect();
        // Each rival sends two, so that those of one process race as well.
        let writes = rivals.iter().zip(1..).flat_map(|(rival, n)| {
            [n, n + 100].map(|version| rival.put(record("x", version), None, Condition::IfAbsent))
        });
        let done = join_all(writes).await;
        let won: Vec<&Ack> = done.iter().flatten().collect();
        assert_eq!(won.len(), 1, "seed {seed}: {done:?}");
        for e in done.iter().filter_map(|d| d.as_ref().err()) {
            assert_eq!(e.kind(), Kind::Conflict);
            assert!(e.to_string().contains("`x` exists"), "{e}");
        }
        assert_eq!(rivals[0].position().await, 1);
    }
}

/// Adds one, as often as it takes.
async fn add_one(process: &Process, by_patch: bool) {
    loop {
        let now = process.get("x").await.unwrap();
        let condition = Condition::IfVersion(now.version);
        let done = match by_patch {
            true => {
                let patch = Patch { id: "x".into(), version: Some(now.version + 1), ..Patch::default() };
                let options = WriteOptions { condition, token: None };
                process.ingest.patch(&Meter::new(), &name(), &[patch], &options).await
            }
            false => process.put(record("x", now.version + 1), None, condition).await,
        };
        match done {
            Ok(_) => return,
            Err(e) => {
                assert_eq!(e.kind(), Kind::Conflict, "{e}");
                let wait = e.retry_after().unwrap_or(Duration::from_millis(1));
                process.store.client().seams().clock.sleep(wait).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn counters_lose_no_update() {
    for seed in 0..4 {
        let world = World::new();
        let first = Process::create(&world).await;
        first.put(record("x", 1), None, Condition::IfAbsent).await.unwrap();
        let rivals: Vec<Process> = (0..4)
            .map(|n| Process::new(&world, Plan::none().seed(seed * 10 + n).jitter(4), 200 + n))
            .collect();
        let adds = rivals.iter().zip(0..).flat_map(|(rival, n)| {
            (0..2).map(move |line| async move {
                for _ in 0..3 {
                    add_one(rival, (n + line) % 2 == 0).await;
                }
            })
        });
        join_all(adds).await;
        assert_eq!(first.get("x").await.unwrap().version, 1 + 4 * 2 * 3);
        assert_eq!(first.position().await, 1 + 4 * 2 * 3, "one entry for each");
    }
}

#[tokio::test(start_paused = true)]
async fn patches_of_different_keys_all_stay() {
    let world = World::new();
    let first = Process::create(&world).await;
    first.put(record("x", 1), None, Condition::None).await.unwrap();
    let rivals: Vec<Process> =
        (0..4).map(|n| Process::new(&world, Plan::none().seed(n).jitter(5), 300 + n)).collect();
    let patches = (0..12).map(|n| {
        let rival = &rivals[n % rivals.len()];
        async move {
            let patch = Patch {
                id: "x".into(),
                metadata: Some(values([(format!("key{n}").as_str(), Value::Int(n as i64))])),
                ..Patch::default()
            };
            loop {
                let done = rival
                    .ingest
                    .patch(&Meter::new(), &name(), std::slice::from_ref(&patch), &WriteOptions::default())
                    .await;
                match done {
                    Ok(ack) => return assert_eq!(ack.rows, 1),
                    // Contended: told when to come back.
                    Err(e) => {
                        let wait = e.retry_after().unwrap_or_else(|| panic!("{e}"));
                        rival.store.client().seams().clock.sleep(wait).await;
                    }
                }
            }
        }
    });
    join_all(patches).await;
    let record = first.get("x").await.unwrap();
    assert_eq!(record.metadata.len(), 12);
    assert!((0..12).all(|n| record.metadata[&format!("key{n}")] == Value::Int(n)));
}

#[tokio::test(start_paused = true)]
async fn writes_of_other_records_do_not_disturb() {
    let world = World::new();
    Process::create(&world).await;
    let process = Process::new(&world, Plan::none().jitter(3), 2);
    let own = (0..40).map(|n| {
        let (process, id) = (&process, format!("r{n}"));
        async move {
            let condition = if n % 2 == 0 { Condition::IfAbsent } else { Condition::None };
            process.put(record(&id, 1), None, condition).await
        }
    });
    let done: Result<Vec<Ack>> = join_all(own).await.into_iter().collect();
    assert_eq!(done.unwrap().len(), 40);
}
