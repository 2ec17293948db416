use super::*;

fn tail(from: Seq, n: u64, bytes: u64) -> Vec<TailSeen> {
    (from..from + n).map(|seq| TailSeen { seq, bytes, arrived_ms: None }).collect()
}

const START: Duration = Duration::from_secs(1000);

#[test]
fn a_log_is_due_by_length_by_bytes_or_by_age() {
    let mut known = Known::default();
    assert_eq!(known.due(0, &[], START), Due::No);
    assert_eq!(known.due(0, &tail(1, 15, 10), START), Due::No);
    assert_eq!(known.due(0, &tail(1, 16, 10), START), Due::Now);
    assert_eq!(known.due(0, &tail(1, 1, 1 << 20), START), Due::Now);
    assert_eq!(known.due(0, &tail(1, 1, 10), START + AGE), Due::Now);
    // Folded meanwhile: the next entry's time begins anew.
    assert_eq!(known.due(16, &tail(17, 1, 10), START + AGE), Due::No);
    assert_eq!(known.due(16, &tail(17, 1, 10), START + AGE * 2), Due::Now);
}

#[test]
fn a_mark_of_another_process_counts_until_it_is_folded() {
    let mut known = Known { mark: 1, ..Known::default() };
    assert_eq!(known.due(0, &[], START), Due::No);
    assert_eq!(known.due(0, &[], START + AGE), Due::Now);
    known.mark = 16;
    assert_eq!(known.due(0, &[], START), Due::Now);
    assert_eq!(known.due(16, &[], START), Due::No);
}

#[test]
fn it_steps_back_further_each_time_and_not_forever() {
    let mut known = Known::default();
    known.step_back(START, 1.0);
    assert_eq!(known.not_before, START + BACK_OFF);
    assert_eq!(known.due(0, &tail(1, 16, 10), START + BACK_OFF / 2), Due::No);
    assert_eq!(known.due(0, &tail(1, 16, 10), START + BACK_OFF), Due::Now);
    (0..20).for_each(|_| known.step_back(START, 1.0));
    assert_eq!(known.not_before, START + MOST_BACK_OFF);
}

#[test]
fn marks_are_listed_sooner_where_others_write_fast() {
    let mut known = Known::default();
    assert_eq!(known.folded(900, START), MARKS / 4);
    // Eighty entries a second; then two in a while; then more than one may keep up with.
    assert_eq!(known.folded(800, START + Duration::from_secs(10)), MARKS.mul_f64(225.0 / 800.0));
    assert_eq!(known.folded(2, START + Duration::from_secs(20)), MARKS);
    assert_eq!(known.folded(900, START + Duration::from_secs(21)), TICK);
}
