use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::Float32Type;

use super::formats::{parquet, table};
use super::*;

fn batch(
    ids: Vec<Option<&str>>,
    vectors: Vec<Option<Vec<Option<f32>>>>,
    extra: Option<(&str, ArrayRef)>,
) -> RecordBatch {
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from(ids))),
        ("emb", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(vectors))),
    ];
    columns.extend(extra);
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

/// A file of `SAMPLE_ROWS` good rows, so that what follows is not seen by the inference, then these.
fn after_good(bad: RecordBatch) -> RecordBatch {
    let n = 1_024;
    let ids: Vec<String> = (0..n).map(|i| format!("good{i}")).collect();
    let good = batch(
        ids.iter().map(|s| Some(s.as_str())).collect(),
        vec![Some(vec![Some(1.0), Some(2.0)]); n],
        None,
    );
    let mut columns = good.columns().to_vec();
    if bad.num_columns() > 2 {
        columns.push(new_null_array(bad.column(2).data_type(), n));
    }
    let good = RecordBatch::try_new(bad.schema(), columns).unwrap();
    arrow::compute::concat_batches(&bad.schema(), [&good, &bad]).unwrap()
}

#[test]
fn bad_rows_are_named_with_their_column() {
    let two = |a: f32, b: f32| Some(vec![Some(a), Some(b)]);
    let list = |item: Option<&str>| {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([item]);
        lists.append_value([Some("x")]);
        Arc::new(lists.finish()) as ArrayRef
    };
    let good = || vec![two(1.0, 1.0), two(1.0, 1.0)];
    let ids = || vec![Some("a"), Some("b")];
    let cases = [
        (
            batch(ids(), vec![two(1.0, 1.0), Some(vec![Some(1.0)])], None),
            "row 1025, column `emb`: 1 dimensions, the collection has 2",
        ),
        (batch(ids(), vec![two(1.0, 1.0), None], None), "row 1025, column `emb`: there is no vector"),
        (
            batch(ids(), vec![Some(vec![Some(1.0), None]), two(1.0, 1.0)], None),
            "row 1024, column `emb`: the vector has an element without a value",
        ),
        (
            batch(ids(), vec![two(0.0, 0.0), two(1.0, 1.0)], None),
            "row 1024, column `emb`: a zero vector has no direction, which cosine needs",
        ),
        (
            batch(ids(), vec![two(f32::NAN, 0.0), two(1.0, 1.0)], None),
            "row 1024, column `emb`: a number that is not finite",
        ),
        (batch(vec![Some("a"), None], good(), None), "row 1025, column `id`: there is no id"),
        (
            batch(vec![Some("a"), Some("")], good(), None),
            "row 1025, column `id`: an id has 1 to 256 bytes, this one 0",
        ),
        (
            batch(ids(), good(), Some(("n", Arc::new(UInt64Array::from(vec![1, u64::MAX]))))),
            "row 1025, column `n`: Cast error: Can't cast value 18446744073709551615 to type Int64",
        ),
        (
            batch(ids(), good(), Some(("x", Arc::new(Float64Array::from(vec![1.0, f64::INFINITY]))))),
            "row 1025, column `x`: a number that is not finite",
        ),
        (
            batch(ids(), good(), Some(("tags", list(None)))),
            "row 1024, column `tags`: a list has an item without a value",
        ),
    ];
    let dir = TempDir::new().unwrap();
    for (bad, message) in cases {
        let path = write(&dir, "x.parquet", &parquet(&after_good(bad)));
        let sink = MemorySink::default();
        let plan = plan(&path, &Overrides::default()).unwrap().with_limits(1_000, 1 << 20);
        let e = import_plan(plan, &sink).unwrap_err();
        // A column that cannot be converted stops the import where its rows are read, a few batches ahead.
        let there = if message.contains("Cast error") { 0 } else { 1 };
        assert_eq!(
            e.to_string(),
            format!("stopped, with {} rows in the collection: {message}", there * 1000)
        );
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(e.field().unwrap().starts_with("records[102"), "{:?}", e.field());
        assert_eq!(sink.state.lock().unwrap().batches.len(), there);
    }
}

#[test]
fn bad_lines_are_named() {
    let cases = [
        ("{\"id\": 1", "row 1: line 2: EOF while parsing an object (character 8)"),
        ("{\"vector\": [1, 2]}", "row 1, column `id`: line 2: there is no id"),
        ("{\"id\": \"b\"}", "row 1, column `vector`: line 2: there is no vector"),
        (
            "{\"id\": \"b\", \"vector\": [1, \"x\"]}",
            "row 1: line 2: column `vector`: invalid type: string \"x\", expected f32",
        ),
        (
            "{\"id\": \"b\", \"vector\": [1, 2], \"m\": {}}",
            "row 1: line 2: column `m`: nested values are not supported",
        ),
        (
            "{\"id\": \"b\", \"vector\": [1, 2], \"n\": \"x\"}",
            "row 1, column `n`: string here and int in records[0]",
        ),
        (
            "{\"id\": \"b\", \"vector\": [1, 2], \"_x\": 1}",
            "row 1, column `_x`: the metadata key `_x` is reserved",
        ),
        (
            "{\"id\": \"b\", \"vector\": [1, 2, 3]}",
            "row 1, column `vector`: 3 dimensions, the collection has 2",
        ),
        ("[1]", "row 1: line 2: invalid type: sequence, expected an object"),
        ("{\"id\": \"b\", \"vector\": [1, 2]} x", "row 1: line 2: trailing characters (character 31)"),
    ];
    let dir = TempDir::new().unwrap();
    for (line, message) in cases {
        let path = write(&dir, "good.jsonl", b"{\"id\": \"a\", \"vector\": [1, 2], \"n\": 1}\n");
        let good = inspect(&path, &Overrides::default()).unwrap();
        let settings = good.inference.settings();
        write(
            &dir,
            "good.jsonl",
            format!("{{\"id\": \"a\", \"vector\": [1, 2], \"n\": 1}}\n{line}\n").as_bytes(),
        );
        let plan = Plan::new(&path, good, collection(), settings).unwrap();
        let e = import_plan(plan, &MemorySink::default()).unwrap_err().to_string();
        let (e, _) =
            e.split_once(" (character").filter(|_| !message.contains("(character")).unwrap_or((&e, ""));
        assert_eq!(e, format!("stopped, with 0 rows in the collection: {message}"));
    }
}

#[test]
fn unreadable_files() {
    let dir = TempDir::new().unwrap();
    let missing = inspect(&dir.path().join("nope"), &Overrides::default()).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    let whole = parquet(&table());
    for (name, bytes) in [
        ("cut.parquet", &whole[..whole.len() / 2]),
        ("head.parquet", b"PAR1"),
        ("head.arrow", b"ARROW1\0\0"),
        ("head.avro", b"Obj\x01\x02"),
        ("long.avro", b"Obj\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("stream", b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("line", b"{\"id\": "),
    ] {
        let e = inspect(&write(&dir, name, bytes), &Overrides::default()).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{name}: {e}");
    }
}

#[test]
fn a_damaged_avro_file_is_refused_at_every_length() {
    let dir = TempDir::new().unwrap();
    let mut block = Vec::new();
    let record = esker_format::record::Record { id: "a".to_owned(), vector: vec![1.0], ..Default::default() };
    record.encode(&mut block);
    let whole = esker_format::avro::container::write(&Default::default(), &[(1, &block)]);
    let start = whole.len() - block.len() - 18;
    for end in (4..start).step_by(41).chain(start + 1..whole.len()) {
        let path = write(&dir, "x", &whole[..end]);
        let result = plan(&path, &Overrides::default()).and_then(|p| import_plan(p, &MemorySink::default()));
        assert_eq!(result.unwrap_err().kind(), Kind::Invalid, "{end}");
    }
}

/// An uncompressed Avro file of one block that is said to have `rows` records.
fn avro(schema: &str, rows: i64, data: &[u8]) -> Vec<u8> {
    let bytes = |b: &[u8]| [long(b.len() as i64), b.to_vec()].concat();
    let header =
        [b"Obj\x01".to_vec(), long(1), bytes(b"avro.schema"), bytes(schema.as_bytes()), long(0)].concat();
    let marker = [7; 16];
    [&header[..], &marker, &long(rows), &bytes(data), &marker].concat()
}

fn long(n: i64) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), (n as u64) << 1);
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// Thirty bytes of it say that there are 2^60 values.
#[test]
fn an_avro_array_of_items_without_bytes_is_refused() {
    let schema = r#"{"type": "record", "name": "R", "fields": [
        {"name": "v", "type": {"type": "array", "items": "float"}},
        {"name": "n", "type": {"type": "array", "items": "null"}}]}"#;
    let row = [long(1), 1f32.to_le_bytes().to_vec(), long(0), long(1 << 60), long(0)].concat();
    let dir = TempDir::new().unwrap();
    let e = inspect(&write(&dir, "x.avro", &avro(schema, 1, &row)), &Overrides::default()).unwrap_err();
    assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("avro.schema")), "{e}");
    assert!(e.to_string().contains("items take no bytes"), "{e}");
}

#[test]
fn an_avro_block_has_the_records_that_it_announces() {
    let schema = r#"{"type": "record", "name": "R", "fields": [
        {"name": "key", "type": "string"},
        {"name": "v", "type": {"type": "array", "items": "float"}}]}"#;
    let row = |key: &str| {
        let vector = [long(2), 1f32.to_le_bytes().to_vec(), 2f32.to_le_bytes().to_vec(), long(0)].concat();
        [long(key.len() as i64), key.as_bytes().to_vec(), vector].concat()
    };
    let three = [row("a"), row("b"), row("c")].concat();
    let dir = TempDir::new().unwrap();
    for (rows, sound) in [(0, false), (1, false), (2, false), (3, true), (4, false), (i64::MAX / 2, false)] {
        let found = inspect(&write(&dir, "x.avro", &avro(schema, rows, &three)), &Overrides::default());
        assert_eq!(found.is_ok(), sound, "{rows}");
        assert!(found.err().is_none_or(|e| e.kind() == Kind::Invalid), "{rows}");
    }
}

#[test]
fn vectors_must_fit_the_collection() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "x.parquet", &parquet(&table()));
    let inspected = inspect(&path, &Overrides::default()).unwrap();
    let settings = Settings { dimension: 3, ..inspected.inference.settings() };
    let e = Plan::new(&path, inspected, collection(), settings).unwrap_err();
    assert_eq!(e.to_string(), "column `embedding` has 2 dimensions, the collection has 3");
}
