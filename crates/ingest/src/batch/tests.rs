use esker_format::avro::ids;
use esker_format::record::Value;
use esker_format::schema::{Metric, VectorType};

use super::*;

pub(crate) fn target(dimension: u32) -> Target {
    Target {
        collection: "notes-1".parse().unwrap(),
        settings: Settings { dimension, metric: Metric::Cosine, vector_type: VectorType::F32 },
    }
}

fn record(id: &str, vector: &[f32]) -> Record {
    Record { id: id.to_owned(), vector: vector.to_vec(), ..Record::default() }
}

#[test]
fn a_request_is_one_batch() {
    let cut = target(2).records(Op::Upsert, &[record("a", &[1.0, 2.0]), record("b", &[3.0, 4.0])]).unwrap();
    assert_eq!((cut.rows(), cut.blocks.len(), cut.op), (2, 1, Op::Upsert));
    let cut = target(2).delete(&["a", "b", "c"]).unwrap();
    assert_eq!((cut.rows(), cut.op), (3, Op::Delete));
    let (pending, summary) = cut.into_pending(Token(7), true, 5);
    assert_eq!((pending.rows(), pending.token, pending.arrived_ms, summary.rows), (3, Token(7), 5, 3));
}

#[test]
fn bad_requests_name_the_field() {
    let target = target(2);
    let rank = Record { rank: Some(1), ..record("a", &[1.0, 2.0]) };
    let other = Record { collection_id: "other".to_owned(), ..record("a", &[1.0, 2.0]) };
    let nan =
        Record { metadata: [("x".to_owned(), Value::Float(f64::NAN))].into(), ..record("a", &[1.0, 2.0]) };
    let good = record("b", &[1.0, 2.0]);
    let cases: [(Result<Cut>, &str); 10] = [
        (target.records(Op::Upsert, &[]), "records"),
        (target.records(Op::Upsert, &[good.clone(), record("a", &[1.0])]), "records[1].vector"),
        (target.records(Op::Upsert, &[record("a", &[0.0, 0.0])]), "records[0].vector"),
        (target.records(Op::Upsert, &[record("a", &[f32::NAN, 0.0])]), "records[0].vector"),
        (target.records(Op::Upsert, &[record("", &[1.0, 2.0])]), "records[0].id"),
        (target.records(Op::Upsert, &[good.clone(), rank]), "records[1].rank"),
        (target.records(Op::Upsert, &[other]), "records[0].collection_id"),
        (target.records(Op::Upsert, &[nan]), "records[0].metadata.x"),
        (target.delete(&["x".repeat(257)]), "records[0].id"),
        (target.records(Op::Upsert, &vec![good; limits::BATCH_ROWS + 1]), "records"),
    ];
    for (answer, field) in cases {
        let e = answer.unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some(field)), "{e}");
    }
    assert_eq!(target.delete(&vec!["a"; 10_001]).unwrap_err().field(), Some("records"));
}

#[test]
fn a_container_is_kept_byte_for_byte() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    record("a", &[1.0, 2.0]).encode(&mut a);
    record("b", &[1.0, 2.0]).encode(&mut b);
    let file = container::write(&Default::default(), &[(1, &a), (1, &b)]);
    let cut = target(2).container(Op::Upsert, &file.into()).unwrap();
    let blocks: Vec<_> = cut.blocks.iter().map(|b| b.data.to_vec()).collect();
    assert_eq!(blocks, [a, b]);
}

fn cut_all(batcher: &mut Batcher, n: usize) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for i in 0..n {
        let id = format!("id-{i}");
        cuts.extend(
            batcher.record(&RecordRef { id: &id, vector: &[1.0, i as f32], ..RecordRef::default() }).unwrap(),
        );
    }
    cuts.extend(batcher.cut().unwrap());
    cuts
}

fn all_ids(cuts: &[Cut]) -> Vec<String> {
    cuts.iter()
        .flat_map(|c| &c.blocks)
        .flat_map(|b| ids(&b.data).map(|id| id.unwrap().to_owned()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn batches_are_cut_by_rows_and_by_bytes() {
    let by_rows = cut_all(&mut Batcher::with_limits(target(2), 10, usize::MAX), 25);
    assert_eq!(by_rows.iter().map(Cut::rows).collect::<Vec<_>>(), [10, 10, 5]);
    assert_eq!(by_rows.iter().map(|c| c.first_row).collect::<Vec<_>>(), [0, 10, 20]);

    let by_bytes = cut_all(&mut Batcher::with_limits(target(2), 1000, 200), 25);
    assert!(by_bytes.len() > 3 && by_bytes.iter().all(|c| c.bytes() <= 200));
    assert_eq!(all_ids(&by_bytes), all_ids(&by_rows));
    assert_eq!(by_bytes, cut_all(&mut Batcher::with_limits(target(2), 1000, 200), 25));
}

#[test]
fn blocks_and_records_keep_their_order() {
    let mut batcher = Batcher::with_limits(target(1), 3, usize::MAX);
    let block = |from: usize, n: usize| {
        let mut data = Vec::new();
        (from..from + n).for_each(|i| record(&format!("{i}"), &[1.0]).encode(&mut data));
        Block { rows: n as u64, data: data.into() }
    };
    let mut cuts = Vec::new();
    cuts.extend(batcher.record(&RecordRef { id: "0", vector: &[1.0], ..RecordRef::default() }).unwrap());
    cuts.extend(batcher.block(block(1, 2)).unwrap());
    cuts.extend(batcher.block(block(3, 1)).unwrap());
    assert_eq!(batcher.next_row(), 4);
    cuts.extend(batcher.encoded(&block(4, 1).data).unwrap());
    cuts.extend(batcher.cut().unwrap());
    assert_eq!(all_ids(&cuts), ["0", "1", "2", "3", "4"]);
    assert_eq!(cuts.iter().map(|c| (c.first_row, c.rows())).collect::<Vec<_>>(), [(0, 3), (3, 2)]);
    assert!(batcher.block(block(0, 4)).is_err());
}

#[test]
fn errors_count_rows_over_the_input() {
    let mut batcher = Batcher::with_limits(target(2), 10, usize::MAX);
    let mut push = |id: &str, vector: &[f32], value| {
        let metadata = [("a", value)];
        batcher.record(&RecordRef { id, vector, metadata: &metadata, ..RecordRef::default() })
    };
    use esker_format::record::ValueRef::{Bool, Int};
    (0..13).for_each(|i| drop(push(&i.to_string(), &[1.0, 1.0], Int(1)).unwrap()));
    push("13", &[1.0, 1.0], Bool(true)).unwrap();
    let e = batcher.cut().unwrap_err();
    assert_eq!(e.field(), Some("records[13].metadata.a"));
    assert_eq!(e.to_string(), "boolean here and int in records[10]");
}

#[test]
fn one_record_beyond_the_limit_is_refused() {
    let mut batcher = Batcher::with_limits(target(2), 10, 40);
    let id = "x".repeat(60);
    let e = batcher.record(&RecordRef { id: &id, vector: &[1.0, 1.0], ..RecordRef::default() }).unwrap_err();
    assert_eq!(e.field(), Some("records[0]"));
}
