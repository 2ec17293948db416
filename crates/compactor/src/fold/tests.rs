use std::collections::BTreeMap;

use esker_format::schema::{Metric, VectorType};
use proptest::prelude::*;

use super::*;
use crate::fixture::{NOW, Write, collection, entry, settings};

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
        let folded = fold(&collection(), &tail, NOW).unwrap();

        let last = oracle(&entries);
        let mut kept = BTreeMap::new();
        for batch in &folded.rows {
            prop_assert!(batch.num_rows() > 0);
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

        let touched: Vec<&str> = folded.touched.iter().map(|t| t.id.as_str()).collect();
        prop_assert!(folded.touched.is_sorted());
        prop_assert!(folded.touched.iter().all(|t| t.hash == collection().hash_id(&t.id)));
        prop_assert_eq!(touched.len(), last.len());
        prop_assert!(touched.iter().all(|id| last.contains_key(*id)));

        let hash = |id: &str, seq, row| SetHash::of(id, seq, row);
        prop_assert_eq!(folded.live, live.iter().map(|(id, (seq, row))| hash(id, *seq, *row)).sum());
        let accepted: SetHash = folded.accepted.iter().copied().sum();
        prop_assert_eq!(accepted, folded.live + folded.pruned);
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
    let gone = fold(&collection(), &[entry(&settings, 7, &[upsert(1.0), delete.clone()])], NOW).unwrap();
    assert!(gone.rows.is_empty());
    assert_eq!((gone.superseded, gone.tombstones), (1, 1));
    let back = fold(&collection(), &[entry(&settings, 7, &[upsert(1.0), delete, upsert(2.0)])], NOW).unwrap();
    assert_eq!(back.live, SetHash::of("a", 7, 2));
}

#[test]
fn an_untouched_batch_is_not_copied() {
    let settings = settings(1, Metric::Dot, VectorType::F32);
    let upsert = |id: &str| Write::Upsert { id: id.into(), vector: vec![1.0], expires_at: None };
    let decoded = entry(&settings, 1, &[upsert("a"), upsert("b")]);
    let folded = fold(&collection(), std::slice::from_ref(&decoded), NOW).unwrap();
    let memory = |b: &RecordBatch| b.column(1).to_data().child_data()[0].buffers()[0].as_ptr();
    assert_eq!(memory(&folded.rows[0]), memory(&decoded.rows));
}
