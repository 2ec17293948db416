use std::collections::BTreeMap;
use std::sync::Arc;

use esker_format::Seq;
use esker_format::schema::{Metric, VectorType};
use proptest::prelude::*;

use super::*;
use crate::fixture::{NOW, Write, collection, entry, settings};

/// Both passes.
fn fold(tail: &[Arc<Decoded>]) -> (Winners, Vec<RecordBatch>, SetHash) {
    let id = collection();
    let mut fold = Fold::new(&id, NOW, 0);
    tail.iter().for_each(|entry| fold.note(entry).unwrap());
    let winners = fold.settle();
    let (mut rows, mut live) = (Vec::new(), SetHash::default());
    for (number, entry) in tail.iter().enumerate() {
        let (kept, hash) = winners.keep(number, entry).unwrap();
        live += hash;
        rows.push(kept);
    }
    (winners, rows, live)
}

/// Of each id the last write, by walking the log once.
fn oracle(entries: &[Vec<Write>]) -> BTreeMap<String, (Seq, u32, Write)> {
    let mut last = BTreeMap::new();
    for (seq, writes) in (1..).zip(entries) {
        for (row, write) in (0u32..).zip(writes) {
            let (Write::Upsert { id, .. } | Write::Delete { id }) = write;
            last.insert(id.clone(), (seq, row, write.clone()));
        }
    }
    last
}

fn any_write() -> impl Strategy<Value = Write> {
    let grace = limits::EXPIRY_GRACE_MS;
    let expiry = prop_oneof![
        4 => Just(None),
        1 => Just(Some(NOW - grace)),
        1 => Just(Some(NOW - grace + 1)),
        1 => Just(Some(i64::MAX)),
        1 => Just(Some(i64::MIN)),
    ];
    (0..12u32, prop::bool::weighted(0.25), -1.0f32..1.0, expiry).prop_map(|(n, delete, x, expires_at)| {
        let id = format!("id-{n}");
        if delete { Write::Delete { id } } else { Write::Upsert { id, vector: vec![x, 1.0], expires_at } }
    })
}

proptest! {
    #[test]
    fn keeps_what_an_oracle_keeps(entries in prop::collection::vec(prop::collection::vec(any_write(), 0..9), 0..5)) {
        let settings = settings(2, Metric::L2, VectorType::F32);
        let tail: Vec<_> = (1..).zip(&entries).map(|(seq, writes)| entry(&settings, seq, writes)).collect();
        let (folded, rows, folded_live) = fold(&tail);

        let last = oracle(&entries);
        let mut kept = BTreeMap::new();
        for batch in &rows {
            for v in versions(batch).unwrap() {
                prop_assert!(kept.insert(v.id.to_owned(), (v.seq, v.row)).is_none());
            }
        }
        let live: BTreeMap<String, (Seq, u32)> = last
            .iter()
            .filter(|(_, (_, _, write))| match write {
                Write::Delete { .. } => false,
                Write::Upsert { expires_at, .. } => expires_at.is_none_or(|e| !is_expired(e, NOW)),
            })
            .map(|(id, (seq, row, _))| (id.clone(), (*seq, *row)))
            .collect();
        prop_assert_eq!(&kept, &live);

        let mut touched: Vec<u64> = last.keys().map(|id| collection().hash_id(id)).collect();
        touched.sort_unstable();
        prop_assert_eq!(folded.hashes(), touched);
        for n in 0..12 {
            let id = format!("id-{}", n);
            prop_assert_eq!(folded.touch(&id), last.contains_key(&id));
        }

        let hash = |id: &str, seq, row| SetHash::of(id, seq, row);
        prop_assert_eq!(folded_live, live.iter().map(|(id, (seq, row))| hash(id, *seq, *row)).sum());
        let writes = (1..).zip(&entries).flat_map(|(seq, e)| (0u32..).zip(e).map(move |(row, w)| (seq, row, w)));
        let accepted: SetHash = writes
            .map(|(seq, row, Write::Upsert { id, .. } | Write::Delete { id })| hash(id, seq, row))
            .sum();
        prop_assert_eq!(folded.accepted.iter().copied().sum::<SetHash>(), accepted);
        prop_assert_eq!(folded.accepted.len(), entries.len());
        let rows: usize = entries.iter().map(Vec::len).sum();
        prop_assert_eq!(folded.live_rows + folded.superseded + folded.expired + folded.tombstones, rows as u64);
    }
}

#[test]
fn a_delete_after_an_upsert_in_one_entry_wins() {
    let settings = settings(1, Metric::Dot, VectorType::F16);
    let upsert = |x| Write::Upsert { id: "a".into(), vector: vec![x], expires_at: None };
    let delete = Write::Delete { id: "a".into() };
    let (gone, rows, _) = fold(&[entry(&settings, 7, &[upsert(1.0), delete.clone()])]);
    assert_eq!(rows[0].num_rows(), 0);
    assert_eq!((gone.superseded, gone.tombstones), (1, 1));
    let (_, _, live) = fold(&[entry(&settings, 7, &[upsert(1.0), delete, upsert(2.0)])]);
    assert_eq!(live, SetHash::of("a", 7, 2));
}

#[test]
fn an_untouched_batch_is_not_copied() {
    let settings = settings(1, Metric::Dot, VectorType::F32);
    let upsert = |id: &str| Write::Upsert { id: id.into(), vector: vec![1.0], expires_at: None };
    let decoded = entry(&settings, 1, &[upsert("a"), upsert("b")]);
    let (_, rows, _) = fold(std::slice::from_ref(&decoded));
    let memory = |b: &RecordBatch| b.column(1).to_data().child_data()[0].buffers()[0].as_ptr();
    assert_eq!(memory(&rows[0]), memory(&decoded.rows));
}
