//! What a patch keeps, what expires, what a token remembers, what a delete leaves alone.

use super::*;
use esker_compactor::Compactor;
use esker_format::{Kind, limits};
use esker_ingest::Patch;
use std::time::Duration;

async fn compact(process: &Process) {
    Compactor::default().compact(&Meter::new(), &process.open().await, &|_| {}).await.unwrap();
}

fn now(process: &Process) -> i64 {
    process.store.client().seams().clock.now_ms()
}

async fn patch(process: &Process, patches: &[Patch], condition: Condition) -> Result<Ack> {
    let options = WriteOptions { token: None, condition };
    process.ingest.patch(&Meter::new(), &name(), patches, &options).await
}

#[tokio::test(start_paused = true)]
async fn a_patch_keeps_what_it_does_not_give() {
    for folded in [false, true] {
        let world = World::new();
        let process = Process::create(&world).await;
        let metadata = values([
            ("text", Value::String("t".into())),
            ("tags", Value::Strings(vec!["a".into(), "b".into()])),
            ("gone", Value::Bool(true)),
            ("year", Value::Int(1999)),
        ]);
        let created = now(&process);
        let old = Record { metadata, timestamp: 5, expires_at: Some(created + 1_000_000), ..record("x", 3) };
        process.put(old.clone(), None, Condition::None).await.unwrap();
        process.put(record("y", 1), None, Condition::None).await.unwrap();
        if folded {
            compact(&process).await;
        }
        tokio::time::advance(Duration::from_secs(100)).await;
        let change = values([("gone", Value::Null), ("year", Value::Float(0.5)), ("new", Value::Int(1))]);
        let first = Patch { id: "x".into(), metadata: Some(change), ..Patch::default() };
        let second =
            Patch { id: "y".into(), vector: Some(vec![8.0, 9.0]), version: Some(7), ..Patch::default() };
        let ack = patch(&process, &[first, second], Condition::None).await.unwrap();
        assert_eq!((ack.position, ack.rows, ack.duplicate), (3, 2, false));
        let x = process.get("x").await.unwrap();
        let metadata = values([
            ("text", Value::String("t".into())),
            ("tags", Value::Strings(vec!["a".into(), "b".into()])),
            ("year", Value::Float(0.5)),
            ("new", Value::Int(1)),
        ]);
        let wanted = Record { metadata, created_at: created, updated_at: x.updated_at, ..old };
        assert_eq!(x, wanted, "folded: {folded}");
        assert!(x.updated_at >= created + 100_000);
        let y = process.get("y").await.unwrap();
        assert_eq!((y.vector, y.version), (vec![8.0, 9.0], 7));
        // Its expiry alone, then none.
        let never = Patch { id: "x".into(), expires_at: Some(None), ..Patch::default() };
        patch(&process, &[never], Condition::IfVersion(3)).await.unwrap();
        assert_eq!(
            process.get("x").await.unwrap(),
            Record { expires_at: None, updated_at: now(&process), ..wanted }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_cannot_be_done_changes_nothing() {
    let world = World::new();
    let process = Process::create(&world).await;
    process.put(record("x", 1), None, Condition::None).await.unwrap();
    let of = |id: &str| Patch { id: id.into(), timestamp: Some(9), ..Patch::default() };
    let refused = [
        (patch(&process, &[of("x"), of("y")], Condition::None).await, Kind::NotFound, "`y`"),
        (patch(&process, &[of("x"), of("x")], Condition::None).await, Kind::Invalid, "`x` is given twice"),
        (
            patch(&process, &[of("x")], Condition::IfVersion(2)).await,
            Kind::Conflict,
            "`x` has version 1, not 2",
        ),
        (patch(&process, &[of("x")], Condition::IfAbsent).await, Kind::Invalid, "records that are there"),
        (patch(&process, &[], Condition::None).await, Kind::Invalid, "0 patches"),
    ];
    for (done, kind, text) in refused {
        let e = done.unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(text), "{e}");
    }
    let short = Patch { vector: Some(vec![1.0]), ..of("x") };
    let e = patch(&process, &[short], Condition::None).await.unwrap_err();
    assert_eq!(e.field(), Some("records[0].vector"));
    assert_eq!(process.position().await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_not_there() {
    for folded in [false, true] {
        let world = World::new();
        let process = Process::create(&world).await;
        let expires_at = now(&process) + 10_000;
        let short = Record { expires_at: Some(expires_at), ..record("x", 1) };
        process.put(short, None, Condition::None).await.unwrap();
        if folded {
            compact(&process).await;
        }
        // Visible at the instant, not after it.
        tokio::time::advance(Duration::from_millis((expires_at - now(&process)) as u64)).await;
        assert_eq!(now(&process), expires_at);
        let e = process.put(record("x", 2), None, Condition::IfAbsent).await.unwrap_err();
        assert!(e.to_string().contains("`x` exists, with version 1"), "{e}");
        tokio::time::advance(Duration::from_millis(1)).await;
        let e = process.put(record("x", 2), None, Condition::IfVersion(1)).await.unwrap_err();
        assert!(e.to_string().contains("does not exist"), "{e}");
        let of = Patch { id: "x".into(), ..Patch::default() };
        assert_eq!(patch(&process, &[of], Condition::None).await.unwrap_err().kind(), Kind::NotFound);
        process.put(record("x", 2), None, Condition::IfAbsent).await.unwrap();
        assert_eq!(process.get("x").await.unwrap().version, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_known_for_a_day_through_folds() {
    let world = World::new();
    let process = Process::create(&world).await;
    let token = Some(Token::from_key("a client's key"));
    let first = process.put(record("x", 1), token, Condition::IfAbsent).await.unwrap();
    assert!(!first.duplicate);
    compact(&process).await;
    let again = process.put(record("x", 1), token, Condition::IfAbsent).await.unwrap();
    assert_eq!((again.position, again.duplicate), (first.position, true));
    tokio::time::advance(Duration::from_millis(limits::TOKEN_RETENTION_MS as u64 - 60_000)).await;
    process.put(record("y", 1), None, Condition::None).await.unwrap();
    compact(&process).await;
    let cold = Process::new(&world, Plan::none(), 2);
    assert!(cold.put(record("x", 1), token, Condition::None).await.unwrap().duplicate);
    tokio::time::advance(Duration::from_secs(120)).await;
    process.put(record("y", 2), None, Condition::None).await.unwrap();
    compact(&process).await;
    let later = Process::new(&world, Plan::none(), 3);
    let e = later.put(record("x", 1), token, Condition::IfAbsent).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict, "a day later it is a new write");
}

#[tokio::test(start_paused = true)]
async fn one_token_in_one_process_is_one_write() {
    let world = World::new();
    Process::create(&world).await;
    let process = Process::new(&world, Plan::none().jitter(4), 2);
    for condition in [Condition::None, Condition::IfAbsent] {
        let token = Some(Token::from_key(&format!("{condition:?}")));
        let id = format!("{condition:?}");
        let writes = (0..6).map(|_| process.put(record(&id, 1), token, condition));
        let done: Result<Vec<Ack>> = futures::future::join_all(writes).await.into_iter().collect();
        let done = done.unwrap();
        assert_eq!(done.iter().filter(|ack| !ack.duplicate).count(), 1, "{done:?}");
        assert!(done.iter().all(|ack| ack.position == done[0].position), "{done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_by_filter_leaves_what_changed_since() {
    let world = World::new();
    let process = Process::create(&world).await;
    let meter = Meter::new();
    let ids: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    let records: Vec<Record> = ids.iter().map(|id| record(id, 1)).collect();
    process.ingest.upsert(&meter, &name(), &records, None).await.unwrap();
    let since = process.position().await;
    let rival = Process::new(&world, Plan::none(), 2);
    rival.put(record("b", 2), None, Condition::None).await.unwrap();
    rival.ingest.delete(&meter, &name(), &["d"], &WriteOptions::default()).await.unwrap();
    let delete = async |since, token| {
        process.ingest.delete_untouched(&meter, &name(), &ids, since, Some(Token(token))).await.unwrap()
    };
    let done = delete(since, 5).await;
    assert_eq!(done.touched, ["b", "d"]);
    let ack = done.ack.unwrap();
    assert_eq!((ack.rows, ack.deleted, ack.duplicate), (2, Some(2), false));
    assert_eq!(process.position().await, ack.position);
    let again = delete(since, 5).await;
    assert_eq!((again.ack, again.touched.len()), (Some(Ack { duplicate: true, ..ack }), 0));
    // All were touched by now.
    let none = delete(since, 6).await;
    assert_eq!((none.ack, none.touched.len()), (None, 4));
    assert!(process.get("a").await.is_none() && process.get("b").await.is_some());
    // A fold does not change what is known of the entries since.
    compact(&process).await;
    let e = delete(ack.position, 8).await;
    assert_eq!((e.touched.len(), e.ack.unwrap().rows), (0, 4));
    assert!(process.get("b").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_conditional_delete_counts_what_was_there() {
    let world = World::new();
    let process = Process::create(&world).await;
    process.put(record("x", 4), None, Condition::None).await.unwrap();
    let delete = async |ids: &[&str], condition| {
        let options = WriteOptions { token: None, condition };
        process.ingest.delete(&Meter::new(), &name(), ids, &options).await
    };
    assert_eq!(delete(&["x", "y"], Condition::IfVersion(4)).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(delete(&["x"], Condition::IfAbsent).await.unwrap_err().kind(), Kind::Invalid);
    let ack = delete(&["x"], Condition::IfVersion(4)).await.unwrap();
    assert_eq!((ack.rows, ack.deleted), (1, Some(1)));
    assert_eq!(delete(&["x"], Condition::None).await.unwrap().deleted, None);
}
