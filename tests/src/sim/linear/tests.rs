use super::*;
use crate::sim::history::View;
use std::collections::BTreeMap;

fn cell(version: i64) -> Cell {
    Cell { vector: [version as u32, 0], text: None, version, expires: None }
}

fn op(ask: Ask, from: u64, to: Option<u64>, outcome: Outcome) -> Op {
    Op {
        client: 0,
        ask,
        token: None,
        invoked: from,
        invoked_ms: 0,
        wall_ms: 0,
        responded: to,
        responded_ms: 0,
        outcome,
    }
}

fn put(version: i64, from: u64, to: Option<u64>) -> Op {
    put_if(If::Always, version, from, to)
}

fn put_if(condition: If, version: i64, from: u64, to: Option<u64>) -> Op {
    let rows = vec![("a".to_owned(), Change::Put(cell(version)))];
    let outcome = if to.is_some() { Outcome::Acknowledged { position: 0 } } else { Outcome::Unknown };
    op(Ask::Write { rows, condition }, from, to, outcome)
}

fn read(version: Option<i64>, from: u64, to: u64) -> Op {
    let rows = BTreeMap::from([("a".to_owned(), version.map(cell))]);
    let view = View { position: 0, version: 0, staleness_ms: 0, rows };
    op(Ask::Read(How::Strong { min: 0 }), from, Some(to), Outcome::Seen(view))
}

fn verdict(ops: Vec<Op>) -> bool {
    match check_id(&History { ops }, "a", &|_| false) {
        Verdict::Linearisable => true,
        Verdict::Broken(_) => false,
        Verdict::Undecided => panic!("undecided"),
    }
}

#[test]
fn what_was_acknowledged_is_read() {
    assert!(verdict(vec![put(1, 1, Some(2)), read(Some(1), 3, 4)]));
    assert!(!verdict(vec![put(1, 1, Some(2)), read(None, 3, 4)]));
    assert!(!verdict(vec![read(Some(1), 1, 2), put(1, 3, Some(4))]));
    // At the same time either may be first.
    assert!(verdict(vec![put(1, 1, Some(4)), read(None, 2, 3)]));
    assert!(verdict(vec![put(1, 1, Some(4)), read(Some(1), 2, 3)]));
}

#[test]
fn a_read_does_not_go_back() {
    let writes = [put(1, 1, Some(2)), put(2, 3, Some(10))];
    let with = |a, b| verdict([&writes[..], &[read(Some(a), 4, 5), read(Some(b), 6, 7)]].concat());
    assert!(with(1, 2) && with(1, 1) && with(2, 2) && !with(2, 1));
}

#[test]
fn an_unknown_write_may_come_late_or_never() {
    assert!(verdict(vec![put(1, 1, None), read(None, 2, 3), read(None, 4, 5)]));
    assert!(verdict(vec![put(1, 1, None), read(None, 2, 3), read(Some(1), 4, 5)]));
    assert!(!verdict(vec![put(1, 1, None), read(Some(1), 2, 3), read(None, 4, 5)]));
    assert!(!verdict(vec![read(Some(1), 1, 2), put(1, 3, None)]));
}

#[test]
fn conditions_hold_where_they_take_effect() {
    let absent = |n, from, to| put_if(If::Absent, n, from, Some(to));
    assert!(!verdict(vec![absent(1, 1, 4), absent(2, 2, 3)]), "both cannot be first");
    assert!(verdict(vec![absent(1, 1, 2), put_if(If::Version(1), 2, 3, Some(4)), read(Some(2), 5, 6)]));
    assert!(!verdict(vec![put(1, 1, Some(2)), put(2, 3, Some(4)), put_if(If::Version(1), 3, 5, Some(6))]));
}

#[test]
fn many_at_once_are_decided() {
    let mut ops: Vec<Op> = (0..20).map(|n| put(n, 1 + n as u64, None)).collect();
    ops.extend((0..12).map(|n| put(100 + n, 50, Some(90))));
    ops.push(read(Some(105), 91, 92));
    ops.push(read(Some(7), 93, 94));
    assert!(verdict(ops));
}
