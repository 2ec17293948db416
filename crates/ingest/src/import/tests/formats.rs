use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use esker_format::avro::container;
use esker_format::record::{Record, Value};
use esker_format::schema::VectorType;
use parquet::arrow::ArrowWriter;

use super::*;

/// Two rows with a column of every type that can be imported.
pub(super) fn table() -> RecordBatch {
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        [Some([Some(0.6), Some(0.8)]), Some([Some(1.0), Some(0.0)])],
        2,
    );
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("x"), Some("y")]);
    tags.append_null();
    let topics: DictionaryArray<Int32Type> = [Some("sky"), None].into_iter().collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("embedding", Arc::new(vectors)),
        ("version", Arc::new(StringArray::from(vec![Some("1.0"), None]))),
        ("year", Arc::new(Int32Array::from(vec![Some(1969), None]))),
        ("rating", Arc::new(Float32Array::from(vec![4.5, -1.0]))),
        ("featured", Arc::new(BooleanArray::from(vec![true, false]))),
        ("tags", Arc::new(tags.finish())),
        ("topic", Arc::new(topics)),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, 2_000_000]).with_timezone("UTC"))),
        ("day", Arc::new(Date32Array::from(vec![1, 2]))),
        ("price", Arc::new(Decimal128Array::from(vec![1250, -50]).with_precision_and_scale(9, 2).unwrap())),
        ("none", Arc::new(NullArray::new(2))),
        ("_timestamp", Arc::new(TimestampMillisecondArray::from(vec![Some(77), None]).with_timezone("UTC"))),
        ("_version", Arc::new(Int64Array::from(vec![3, 4]))),
        ("_expires_at", Arc::new(Int64Array::from(vec![None, Some(99_999_999)]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

pub(super) fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    out
}

fn ints(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn times(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    rows.column_by_name(name).unwrap().as_primitive::<TimestampMillisecondType>().iter().collect()
}

fn floats(rows: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    rows.column_by_name(name).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn texts<'r>(rows: &'r RecordBatch, name: &str) -> Vec<Option<&'r str>> {
    rows.column_by_name(name).unwrap().as_string::<i32>().iter().collect()
}

fn vectors(rows: &RecordBatch) -> Vec<f32> {
    rows.column(1).as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec()
}

/// The rows of [`table`], less `_version` and its like if `fields` says so.
fn check(rows: &RecordBatch) {
    assert_eq!(texts(rows, "id"), [Some("a"), Some("b")]);
    assert_eq!(vectors(rows), [0.6, 0.8, 1.0, 0.0]);
    assert_eq!(texts(rows, "version"), [Some("1.0"), None]);
    assert_eq!(ints(rows, "year"), [Some(1969), None]);
    assert_eq!(floats(rows, "rating"), [Some(4.5), Some(-1.0)]);
    assert_eq!(rows.column_by_name("featured").unwrap().as_boolean(), &BooleanArray::from(vec![true, false]));
    let tags = rows.column_by_name("tags").unwrap().as_list::<i32>().clone();
    assert_eq!(tags.value(0).as_string::<i32>(), &StringArray::from(vec!["x", "y"]));
    assert!(tags.is_null(1));
    assert_eq!(texts(rows, "topic"), [Some("sky"), None]);
    assert_eq!(ints(rows, "at"), [Some(1_500), Some(2_000)]);
    assert_eq!(ints(rows, "day"), [Some(86_400_000), Some(172_800_000)]);
    assert_eq!(floats(rows, "price"), [Some(12.5), Some(-0.5)]);
    assert!(rows.column_by_name("none").is_none());
    assert_eq!(times(rows, "_timestamp"), [Some(77), Some(1_000)]);
    assert_eq!(ints(rows, "_version"), [Some(3), Some(4)]);
    assert_eq!(times(rows, "_expires_at"), [None, Some(99_999_999)]);
}

#[test]
fn columnar_files() {
    let dir = TempDir::new().unwrap();
    let batch = table();
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let files = [
        (Format::Parquet, write(&dir, "notes.parquet", &parquet(&batch)), Some(2)),
        (Format::ArrowFile, write(&dir, "notes.arrow", &file.into_inner().unwrap()), None),
        // The name does not matter.
        (Format::ArrowStream, write(&dir, "notes.json", &stream.into_inner().unwrap()), None),
    ];
    for (format, path, total) in files {
        let inspected = inspect(&path, &Overrides::default()).unwrap();
        assert_eq!((inspected.format, inspected.rows), (format, total));
        assert_eq!(inspected.bytes, std::fs::metadata(&path).unwrap().len());
        assert!(
            inspected.inference.notes.contains(&"metric: cosine (the vectors are of unit length)".to_owned())
        );
        let (report, rows) = import(&path, &Overrides::default()).unwrap();
        assert_eq!((report.rows, report.batches, report.skipped), (2, 1, 0));
        check(&rows);
    }
}

#[test]
fn vectors_of_every_kind() {
    let dir = TempDir::new().unwrap();
    let kinds: [(ArrayRef, VectorType); 6] = [
        (
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float16Type, _, _>(
                [[0.5f32, 2.0], [1.0, 4.0]].map(|v| Some(v.map(|v| Some(half::f16::from_f32(v))))),
                2,
            )),
            VectorType::F16,
        ),
        (
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(
                [[0.5, 2.0], [1.0, 4.0]].map(|v| Some(v.map(Some))),
                2,
            )),
            VectorType::F32,
        ),
        (
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(
                [[0.5, 2.0], [1.0, 4.0]].map(|v| Some(v.map(Some))),
            )),
            VectorType::F32,
        ),
        (
            Arc::new(LargeListArray::from_iter_primitive::<Float64Type, _, _>(
                [[0.5, 2.0], [1.0, 4.0]].map(|v| Some(v.map(Some))),
            )),
            VectorType::F32,
        ),
        (Arc::new(StringArray::from(vec!["[0.5, 2]", " [1.0, 4.0]"])), VectorType::F32),
        (Arc::new(StringViewArray::from(vec!["[0.5, 2]", "[1.0, 4.0]"])), VectorType::F32),
    ];
    for (i, (column, kind)) in kinds.into_iter().enumerate() {
        let batch = RecordBatch::try_from_iter([
            ("key", Arc::new(Int64Array::from(vec![10, 20])) as ArrayRef),
            ("v", column),
        ])
        .unwrap();
        let path = write(&dir, &format!("{i}.parquet"), &parquet(&batch));
        let inference = inspect(&path, &Overrides::default()).unwrap().inference;
        assert_eq!((inference.vector_type, inference.dimension), (kind, 2), "{i}");
        let as_f32 = Overrides { vector_type: Some(VectorType::F32), ..Overrides::default() };
        let (_, rows) = import(&path, &as_f32).unwrap();
        assert_eq!(vectors(&rows), [0.5, 2.0, 1.0, 4.0], "{i}");
        assert_eq!(texts(&rows, "id"), [Some("10"), Some("20")]);
    }
}

#[test]
fn ndjson() {
    let dir = TempDir::new().unwrap();
    let text = "\u{feff}{\"id\": 7, \"vector\": [1, 0.5], \"n\": 1, \"tags\": [\"x\"], \"gone\": {\"a\": 1}, \"_version\": 9}\r\n\
        \n\
        {\"id\": \"b\", \"vector\": [2, 1], \"n\": 1.5, \"tags\": [], \"new\": true, \"_timestamp\": 5}";
    let path = write(&dir, "x.ndjson", text.as_bytes());
    let e = inspect(&path, &Overrides::default()).unwrap_err();
    assert_eq!(e.to_string(), "column `gone` is an object, which metadata cannot hold");
    let overrides = Overrides { skip_columns: vec!["gone".to_owned()], ..Overrides::default() };
    let (report, rows) = import(&path, &overrides).unwrap();
    assert_eq!(report.rows, 2);
    assert_eq!(texts(&rows, "id"), [Some("7"), Some("b")]);
    assert_eq!(vectors(&rows), [1.0, 0.5, 2.0, 1.0]);
    assert_eq!(floats(&rows, "n"), [Some(1.0), Some(1.5)]);
    assert_eq!(ints(&rows, "_version"), [Some(9), Some(1)]);
    assert_eq!(times(&rows, "_timestamp"), [Some(1_000), Some(5)]);
    let tags = rows.column_by_name("tags").unwrap().as_list::<i32>();
    assert_eq!((tags.value(0).len(), tags.value(1).len(), tags.is_null(1)), (1, 0, false));
}

#[test]
fn ndjson_with_vectors_as_text_and_without_ids() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "x.jsonl", b"{\"e\":\"[1,2]\",\"t\":\"a\"}\n{\"e\":\"[3,4]\",\"t\":\"[\"}\n");
    let (_, rows) = import(&path, &Overrides::default()).unwrap();
    assert_eq!(texts(&rows, "id"), [Some("0"), Some("1")]);
    assert_eq!(vectors(&rows), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(texts(&rows, "t"), [Some("a"), Some("[")]);
}

fn records(n: usize) -> Vec<Record> {
    let record = |i: usize| Record {
        id: format!("r{i}"),
        vector: vec![i as f32 + 1.0, 0.5],
        metadata: [
            ("n".to_owned(), Value::Int(i as i64)),
            ("tags".to_owned(), Value::Strings(vec!["x".to_owned(); i % 3])),
            ("ok".to_owned(), Value::Bool(true)),
            ("f".to_owned(), Value::Float(0.5)),
            ("s".to_owned(), Value::String("text".to_owned())),
        ]
        .into(),
        expires_at: i.is_multiple_of(2).then_some(253_402_300_799_999),
        version: i as i64,
        ..Record::default()
    };
    (0..n).map(record).collect()
}

fn blocks(records: &[Record], per_block: usize) -> Vec<(u64, Vec<u8>)> {
    let block = |records: &[Record]| {
        let mut data = Vec::new();
        records.iter().for_each(|r| r.encode(&mut data));
        (records.len() as u64, data)
    };
    records.chunks(per_block).map(block).collect()
}

#[test]
fn avro_records_are_kept_byte_for_byte() {
    let dir = TempDir::new().unwrap();
    let records = records(10);
    let blocks = blocks(&records, 4);
    let parts: Vec<_> = blocks.iter().map(|(n, b)| (*n, &b[..])).collect();
    let path = write(&dir, "x.avro", &container::write(&Default::default(), &parts));
    let sink = MemorySink::default();
    let plan = plan(&path, &Overrides::default()).unwrap();
    let inference = plan.inspected().inference.clone();
    assert_eq!(
        inference.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["f", "n", "ok", "s", "tags"]
    );
    assert_eq!(import_plan(plan.clone(), &sink).unwrap().rows, 10);
    let stored: Vec<_> = sink.state.lock().unwrap().batches.iter().flat_map(|b| b.blocks.clone()).collect();
    assert_eq!(
        stored.iter().map(|b| b.data.to_vec()).collect::<Vec<_>>(),
        blocks.iter().map(|b| b.1.clone()).collect::<Vec<_>>()
    );

    // Blocks that are larger than a batch are taken apart.
    let small = MemorySink::default();
    assert_eq!(import_plan(plan.with_limits(3, 1 << 20), &small).unwrap().batches, 4);
    let settings = inference.settings();
    let ids = |s: &MemorySink| {
        texts(&s.rows(&settings), "id").iter().map(|t| t.unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&small), ids(&sink));
}

#[test]
fn avro_of_another_schema_is_columns() {
    use apache_avro::types::{Record as Tree, Value as V};
    let schema = r#"{"type": "record", "name": "Doc", "fields": [
        {"name": "key", "type": "string"},
        {"name": "embedding", "type": {"type": "array", "items": "float"}},
        {"name": "n", "type": ["null", "long"]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["a", "b"]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;
    let schema = apache_avro::Schema::parse_str(schema).unwrap();
    let dir = TempDir::new().unwrap();
    for (name, codec) in [("null", apache_avro::Codec::Null), ("snappy", apache_avro::Codec::Snappy)] {
        let mut writer = apache_avro::Writer::builder()
            .schema(&schema)
            .writer(Vec::new())
            .codec(codec)
            .block_size(100)
            .build()
            .unwrap();
        for i in 0..20i64 {
            let mut r = Tree::new(&schema).unwrap();
            r.put("key", format!("k{i}"));
            r.put("embedding", V::Array(vec![V::Float(i as f32), V::Float(1.0)]));
            r.put("n", if i % 2 == 0 { V::Union(0, V::Null.into()) } else { V::Union(1, V::Long(i).into()) });
            r.put("kind", V::Enum((i % 2) as u32, ["a", "b"][(i % 2) as usize].to_owned()));
            r.put("tags", V::Array(vec![V::String("x".to_owned()); (i % 3) as usize]));
            r.put("at", V::TimestampMicros(i * 1_000_000));
            writer.append_value(r).unwrap();
        }
        let path = write(&dir, name, &writer.into_inner().unwrap());
        let (report, rows) = import(&path, &Overrides::default()).unwrap();
        assert_eq!(report.rows, 20);
        assert_eq!(texts(&rows, "id")[19], Some("k19"));
        assert_eq!(vectors(&rows)[38..], [19.0, 1.0]);
        assert_eq!(ints(&rows, "n")[18..], [None, Some(19)]);
        assert_eq!(ints(&rows, "at")[19], Some(19_000));
        assert_eq!(texts(&rows, "kind")[19], Some("b"));
    }
}

#[test]
fn formats_that_are_nearly_right() {
    let table: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (b"[{\"id\": 1}]", "a JSON array"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"id,vector\n1,2", "in no format that can be imported"),
        (b"\x89PNG", "in no format that can be imported"),
    ];
    for (head, what) in table {
        let e = Format::detect(Path::new("x"), head).unwrap_err();
        assert_eq!(e.to_string(), format!("x is {what}"));
        assert!(e.hint().is_some());
    }
}

#[test]
fn names_from_files() {
    let table = [("/a/Deb 63k.parquet", "deb_63k"), ("notes.tar.avro", "notes_tar"), ("_x-", "x")];
    for (path, name) in table {
        assert_eq!(collection_name(Path::new(path)).unwrap().as_str(), name);
    }
    assert!(collection_name(Path::new("/é.parquet")).is_err());
}
