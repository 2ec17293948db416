use super::*;
use crate::manifest::Hashes;
use crate::manifest::tests::first;
use crate::schema::{Column, ColumnType};

fn segment(base: Version, token: u128) -> Segment {
    let made = Made { base, token: Token(token) };
    Segment {
        made,
        rows: 10,
        rows_size: 1,
        index_size: 1,
        header_size: 1,
        header_crc: 0,
        seqs: (1, 1),
        deletes: None,
    }
}

fn marks(count: u64, token: u128) -> Deletes {
    Deletes { made: Made { base: 1, token: Token(token) }, count, size: 9 }
}

fn fold(from: Seq, to: Seq, add: Segment, inputs: &[Segment]) -> Publish {
    Publish {
        base: add.made.base,
        fold: (from, to),
        inputs: inputs.to_vec(),
        add: vec![add],
        accepted: SetHash::of("a", to, 0),
        ..Publish::default()
    }
}

fn commit(m: &Manifest, change: Change) -> Result<Manifest, Refusal> {
    next(m, Token(u128::from(m.version) + 100), 5, &change)
}

fn publish_of(p: Publish) -> Change {
    Change::Publish(Box::new(p))
}

#[test]
fn a_fold_moves_the_watermark_and_conserves() {
    let m = commit(&first(), publish_of(fold(0, 3, segment(1, 1), &[]))).unwrap();
    assert_eq!((m.version, m.watermark, m.segments.len()), (2, 3, 1));
    assert_eq!(m.parent, Some(Token(7)));
    assert_eq!(
        m.hashes,
        Hashes { accepted: SetHash::of("a", 3, 0), live: SetHash::of("a", 3, 0), ..Hashes::default() }
    );
}

#[test]
fn the_second_of_two_folds_is_overtaken() {
    let m = commit(&first(), publish_of(fold(0, 3, segment(1, 1), &[]))).unwrap();
    assert_eq!(commit(&m, publish_of(fold(0, 3, segment(1, 2), &[]))), Err(Refusal::Overtaken));
    // It did not look its ids up in the segment it does not know.
    assert_eq!(commit(&m, publish_of(fold(3, 4, segment(1, 2), &[]))), Err(Refusal::Overtaken));
    assert!(commit(&m, publish_of(fold(3, 4, segment(2, 2), &m.segments))).is_ok());
}

#[test]
fn a_merge_rebases_over_new_marks_only() {
    let m = commit(&first(), publish_of(fold(0, 3, segment(1, 1), &[]))).unwrap();
    let merge = Publish {
        base: 2,
        fold: (3, 3),
        inputs: m.segments.clone(),
        remove: vec![m.segments[0].made],
        add: vec![segment(2, 5)],
        ..Publish::default()
    };
    let mut rival = fold(3, 4, segment(2, 6), &m.segments);
    rival.mark = vec![(m.segments[0].made, marks(2, 8))];
    let m2 = commit(&m, publish_of(rival)).unwrap();
    assert_eq!(commit(&m2, publish_of(merge.clone())), Err(Refusal::Marked(vec![m.segments[0].made])));
    let mut carried = merge;
    carried.inputs = vec![m2.segments[0].clone()];
    carried.add[0].deletes = Some(marks(2, 9));
    let m3 = commit(&m2, publish_of(carried)).unwrap();
    assert_eq!(m3.segments.len(), 2);
    assert_eq!(m3.hashes, m2.hashes);
    assert_eq!(m3.watermark, 4);
}

#[test]
fn nothing_below_a_floor_is_published() {
    let m = commit(&first(), Change::Alter(one_column(ColumnType::Int))).unwrap();
    let m = commit(&m, Change::Collect(Floors { wal: 0, base: 2, version: 2 })).unwrap();
    assert_eq!(commit(&m, publish_of(fold(0, 1, segment(1, 1), &[]))), Err(Refusal::BelowFloor));
    assert!(matches!(commit(&m, Change::Collect(Floors::default())), Err(Refusal::Broken(_))));
    assert!(matches!(
        commit(&m, Change::Collect(Floors { wal: 1, base: 2, version: 2 })),
        Err(Refusal::Broken(_))
    ));
}

fn one_column(kind: ColumnType) -> Schema {
    Schema { columns: vec![Column { name: "n".into(), kind, wide: false }] }
}

#[test]
fn schemas_only_grow_or_widen() {
    let m = commit(&first(), Change::Alter(one_column(ColumnType::Int))).unwrap();
    assert_eq!(commit(&m, Change::Alter(one_column(ColumnType::Int))), Err(Refusal::Nothing));
    let m = commit(&m, Change::Alter(one_column(ColumnType::Float))).unwrap();
    assert_eq!(commit(&m, Change::Alter(one_column(ColumnType::Int))), Err(Refusal::Schema));
    assert_eq!(commit(&m, Change::Alter(Schema::default())), Err(Refusal::Schema));
}

#[test]
fn nothing_follows_a_drop() {
    let m = commit(&first(), Change::Drop).unwrap();
    assert_eq!(commit(&m, Change::Alter(one_column(ColumnType::Int))), Err(Refusal::Dropped));
}

#[test]
fn read_back_settles_every_put() {
    let entry = RegisterEntry::Manifest(Box::new(first()));
    assert_eq!(settle(Token(7), Some(&entry)), Settled::Committed);
    assert_eq!(settle(Token(8), Some(&entry)), Settled::Rebase);
    assert_eq!(settle(Token(7), None), Settled::PutAgain);
}
