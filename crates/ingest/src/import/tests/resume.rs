use super::*;

fn file(dir: &TempDir, rows: impl IntoIterator<Item = (String, f32)>) -> PathBuf {
    let lines: String = rows
        .into_iter()
        .map(|(id, x)| format!("{{\"id\":\"{id}\",\"vector\":[{x},1],\"n\":{x:?}}}\n"))
        .collect();
    write(dir, "x.jsonl", lines.as_bytes())
}

fn distinct(n: usize) -> impl Iterator<Item = (String, f32)> {
    (0..n).map(|i| (format!("id{i}"), i as f32))
}

fn ids(sink: &MemorySink, settings: &Settings) -> Vec<String> {
    use arrow::array::AsArray;
    sink.rows(settings).column(0).as_string::<i32>().iter().map(|s| s.unwrap().to_owned()).collect()
}

#[test]
fn a_killed_import_runs_on_without_duplicates() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, distinct(100));
    let plan = plan(&path, &Overrides::default()).unwrap().with_limits(7, 1 << 20);
    let settings = plan.inspected().inference.settings();
    for dies_after in 0..15 {
        let sink = MemorySink::default();
        sink.state.lock().unwrap().left = Some(dies_after);
        let e = import_plan(plan.clone(), &sink).unwrap_err();
        assert_eq!(e.kind(), Kind::Gone);
        assert_eq!(
            e.to_string(),
            format!("stopped, with {} rows in the collection: the store is gone", dies_after * 7)
        );
        sink.state.lock().unwrap().left = None;
        let report = import_plan(plan.clone(), &sink).unwrap();
        assert_eq!((report.rows, report.batches), (100, 15));
        assert_eq!(report.skipped, dies_after as u64 * 7);
        let mut ids = ids(&sink, &settings);
        ids.sort();
        let mut expect: Vec<_> = distinct(100).map(|(id, _)| id).collect();
        expect.sort();
        assert_eq!(ids, expect);
    }
}

#[test]
fn a_batch_whose_answer_was_lost_is_offered_again() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, distinct(100));
    let plan = plan(&path, &Overrides::default()).unwrap().with_limits(50, 1 << 20);
    let sink = MemorySink::default();
    sink.state.lock().unwrap().lost = 1;
    let report = import_plan(plan, &sink).unwrap();
    assert_eq!((report.rows, report.skipped, report.batches), (100, 0, 2));
    assert_eq!(sink.state.lock().unwrap().batches.len(), 2);
}

#[test]
fn another_file_is_another_import() {
    let dir = TempDir::new().unwrap();
    let sink = MemorySink::default();
    let limited = |path: &Path| plan(path, &Overrides::default()).unwrap().with_limits(50, 1 << 20);
    let path = file(&dir, distinct(100));
    assert_eq!(import_plan(limited(&path), &sink).unwrap().skipped, 0);
    // A file of equal size with one changed row: what the ends do not show, the batch's content does.
    let path = file(&dir, distinct(100).map(|(id, x)| (id, if x == 60.0 { 61.0 } else { x })));
    let report = import_plan(limited(&path), &sink).unwrap();
    assert_eq!((report.rows, report.skipped), (100, 0));
    // Again, on request.
    assert_eq!(import_plan(limited(&path), &sink).unwrap().skipped, 100);
    assert_eq!(import_plan(limited(&path).again(Token(1)), &sink).unwrap().skipped, 0);
}

#[test]
fn the_last_of_equal_ids_wins() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, (0..60).map(|i| (format!("id{}", i % 10), i as f32)));
    let as_id = Overrides { id_column: Some("id".to_owned()), ..Overrides::default() };
    let plan = plan(&path, &as_id).unwrap().with_limits(7, 1 << 20);
    let settings = plan.inspected().inference.settings();
    let sink = MemorySink::default();
    sink.state.lock().unwrap().reorders = true;
    import_plan(plan, &sink).unwrap();
    use arrow::array::AsArray;
    let rows = sink.rows(&settings);
    let n = rows.column_by_name("n").unwrap();
    let n: Vec<f64> = n.as_primitive::<arrow::datatypes::Float64Type>().values().to_vec();
    let ids = ids(&sink, &settings);
    let last: BTreeMap<_, _> = ids.into_iter().zip(n).collect();
    assert!(last.iter().all(|(id, n)| *id == format!("id{}", *n as u32 % 10) && *n >= 50.0), "{last:?}");
}

#[test]
fn what_was_forgotten_does_not_overtake_what_is_known() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, (0..200).map(|i| (format!("id{}", i % 10), i as f32)));
    let as_id = Overrides { id_column: Some("id".to_owned()), ..Overrides::default() };
    let plan = plan(&path, &as_id).unwrap().with_limits(7, 1 << 20);
    let settings = plan.inspected().inference.settings();
    let sink = MemorySink::default();
    import_plan(plan.clone(), &sink).unwrap();
    // The oldest names are let go, as a collection does with more than it keeps.
    sink.state.lock().unwrap().positions.retain(|_, position| *position > 9);
    let report = import_plan(plan, &sink).unwrap();
    assert_eq!(report.rows, 200);
    use arrow::array::AsArray;
    let rows = sink.rows(&settings);
    let n = rows.column_by_name("n").unwrap();
    let n = n.as_primitive::<arrow::datatypes::Float64Type>().values().to_vec();
    let last: BTreeMap<_, _> = ids(&sink, &settings).into_iter().zip(n).collect();
    assert!(last.values().all(|n| *n >= 190.0), "{last:?}");
}

#[test]
fn a_full_log_is_compacted_and_offered_again() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, distinct(100));
    let sink = MemorySink::default();
    sink.state.lock().unwrap().capacity = Some(2);
    let plan = plan(&path, &Overrides::default()).unwrap().with_limits(7, 1 << 20);
    assert_eq!(import_plan(plan, &sink).unwrap().rows, 100);
    assert!(sink.state.lock().unwrap().compactions > 3);
}

#[test]
fn progress_is_told() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, distinct(100));
    let plan = plan(&path, &Overrides::default()).unwrap().with_limits(10, 1 << 20);
    let (sink, seen) = (MemorySink::default(), Mutex::new(Vec::new()));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let report = runtime.block_on(async {
        let clock = SimulatedClock::new(1_000);
        run(plan, &sink, &clock, &|p| seen.lock().unwrap().push(p)).await.unwrap()
    });
    let seen = seen.into_inner().unwrap();
    let last = *seen.last().unwrap();
    assert_eq!(seen.len(), 10);
    assert!(seen.windows(2).all(|w| w[0].rows < w[1].rows && w[0].file_read <= w[1].file_read));
    assert_eq!((last.rows, last.file_read, last.bytes), (100, last.file_bytes, report.bytes));
}
