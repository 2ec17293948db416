#![allow(clippy::disallowed_macros, clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]
use arrow::array::*;
use arrow::datatypes::*;
use esker_compactor::*;
use esker_format::schema::{self, Schema, *};
use esker_format::{CollectionId, Name};
use std::sync::Arc;
fn main() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    let f = std::fs::File::open("/work/shared/data/deb63k/base.parquet").unwrap();
    let b = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(f).unwrap();
    println!(
        "{:?}",
        b.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>()
    );
    let batches: Vec<RecordBatch> = b.with_batch_size(10000).build().unwrap().map(|x| x.unwrap()).collect();
    let s0 = batches[0].schema();
    let mut cols = vec![];
    for f in s0.fields() {
        let kind = match f.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => ColumnType::String,
            DataType::Int64 | DataType::Int32 => ColumnType::Int,
            DataType::Float64 => ColumnType::Float,
            DataType::Boolean => ColumnType::Boolean,
            DataType::List(i) if matches!(i.data_type(), DataType::Utf8) => ColumnType::Strings,
            _ => continue,
        };
        if f.name() == "id" {
            continue;
        }
        cols.push(Column { name: f.name().clone(), kind, wide: false });
    }
    let settings = Settings {
        dimension: 384,
        metric: schema::Metric::Cosine,
        vector_type: if std::env::args().nth(2).as_deref() == Some("f16") {
            VectorType::F16
        } else {
            VectorType::F32
        },
    };
    let schema = Schema { columns: cols };
    let arrow = arrow_schema(&settings, &schema);
    let mut out = vec![];
    let mut n = 0i64;
    for b in &batches {
        let rows = b.num_rows();
        let mut columns: Vec<ArrayRef> = vec![];
        for f in arrow.fields() {
            let c: ArrayRef = match f.name().as_str() {
                "id" => arrow::compute::cast(b.column_by_name("id").unwrap(), &DataType::Utf8).unwrap(),
                "vector" => {
                    let v = b
                        .schema()
                        .fields()
                        .iter()
                        .position(|f| {
                            matches!(f.data_type(), DataType::FixedSizeList(..) | DataType::List(_))
                                && (f.name().contains("vec") || f.name().contains("emb"))
                        })
                        .unwrap();
                    let c = b.column(v);
                    let vals = match c.data_type() {
                        DataType::FixedSizeList(..) => c.as_fixed_size_list().values().clone(),
                        _ => c.as_list::<i32>().values().clone(),
                    };
                    let vals = arrow::compute::cast(
                        &vals,
                        if settings.vector_type == VectorType::F16 {
                            &DataType::Float16
                        } else {
                            &DataType::Float32
                        },
                    )
                    .unwrap();
                    let DataType::FixedSizeList(item, d) = vector_type(&settings) else { panic!() };
                    Arc::new(FixedSizeListArray::new(item, d, vals, None))
                }
                "_expires_at" => new_null_array(f.data_type(), rows),
                "_timestamp" | "_created_at" | "_updated_at" => Arc::new(
                    TimestampMillisecondArray::from(vec![1_767_225_600_000i64; rows]).with_timezone("UTC"),
                ),
                "_version" => Arc::new(Int64Array::from(vec![1i64; rows])),
                "_seq" => Arc::new(Int64Array::from(vec![n + 1; rows])),
                "_row" => Arc::new(Int32Array::from_iter_values(0..rows as i32)),
                name => {
                    let a = b.column_by_name(name).unwrap();
                    if matches!(f.data_type(), DataType::List(_)) {
                        let l = a.as_list::<i32>();
                        let DataType::List(fi) = f.data_type() else { panic!() };
                        Arc::new(ListArray::new(
                            fi.clone(),
                            l.offsets().clone(),
                            l.values().clone(),
                            l.nulls().cloned(),
                        ))
                    } else {
                        arrow::compute::cast(a, f.data_type()).unwrap()
                    }
                }
            };
            columns.push(c);
        }
        n += 1;
        out.push(RecordBatch::try_new(arrow.clone(), columns).unwrap());
    }
    drop(batches);
    if std::env::args().nth(3).is_some() {
        end_to_end(out, settings, schema);
        return;
    }
    let id = CollectionId::new(Name::new("deb").unwrap(), 1);
    let threads = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(2);
    let clock = esker_store::seams::SystemClock::default();
    let t = std::time::Instant::now();
    let built = build_segment(
        out,
        Target { collection: &id, settings: &settings, schema: &schema },
        BuildOptions { seed: 1, threads },
        &clock,
        &|_, _| {},
    )
    .unwrap()
    .unwrap();
    println!(
        "total {:?} rows file {} index {} header {} leaves {}",
        t.elapsed(),
        built.rows_file.len(),
        built.index_file.len(),
        built.summary.header_len,
        built.leaf_starts.len() - 1
    );
    let h = esker_format::segment::index::Header::parse("x", built.index_file.clone()).unwrap();
    for c in h.calibration() {
        println!("{c:?}");
    }
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{}",
        s.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")).collect::<Vec<_>>().join(" ")
    );
}

fn end_to_end(batches: Vec<RecordBatch>, settings: Settings, schema: Schema) {
    use esker_format::record::*;
    use esker_store::*;
    let dir = std::path::PathBuf::from(std::env::args().nth(3).unwrap());
    let _ = std::fs::remove_dir_all(&dir);
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let seams = Seams::system();
        let backend = open(&Location::Directory(dir), &StoreEnv::new(), true).unwrap();
        let store = Store::new(Client::new(backend.clone(), seams.clone()));
        let meter = Meter::new();
        let c =
            store.create(&meter, &Name::new("deb").unwrap(), settings.clone(), schema.clone()).await.unwrap();
        for (n, b) in batches.iter().enumerate() {
            let mut data = Vec::new();
            let ids = b.column(0).as_string::<i32>();
            let vecs =
                arrow::compute::cast(b.column(1).as_fixed_size_list().values(), &DataType::Float32).unwrap();
            let vecs = vecs.as_primitive::<Float32Type>().values().clone();
            for i in 0..b.num_rows() {
                let tags: Vec<Option<Vec<String>>> = schema
                    .columns
                    .iter()
                    .enumerate()
                    .map(|(k, c)| {
                        if c.kind == ColumnType::Strings && b.column(2 + k).is_valid(i) {
                            let l = b.column(2 + k).as_list::<i32>().value(i);
                            let l = l.as_string::<i32>();
                            Some((0..l.len()).map(|j| l.value(j).to_owned()).collect())
                        } else {
                            None
                        }
                    })
                    .collect();
                let mut md = vec![];
                for (k, c) in schema.columns.iter().enumerate() {
                    let col = b.column(2 + k);
                    if col.is_null(i) {
                        continue;
                    }
                    md.push((
                        c.name.as_str(),
                        match c.kind {
                            ColumnType::Int => ValueRef::Int(col.as_primitive::<Int64Type>().value(i)),
                            ColumnType::String => ValueRef::String(col.as_string::<i32>().value(i)),
                            ColumnType::Strings => ValueRef::Strings(tags[k].as_ref().unwrap()),
                            _ => continue,
                        },
                    ));
                }
                esker_format::avro::encode_record(
                    &mut data,
                    &RecordRef {
                        id: ids.value(i),
                        vector: &vecs[i * 384..][..384],
                        metadata: &md,
                        ..RecordRef::default()
                    },
                );
            }
            let p = esker_format::wal::PendingBatch {
                token: esker_format::Token(n as u128 + 1),
                op: Op::Upsert,
                arrived_ms: 1,
                blocks: vec![esker_format::avro::container::Block {
                    rows: b.num_rows() as u64,
                    data: data.into(),
                }],
            };
            c.append(&meter, p, true).await.unwrap();
        }
        drop(batches);
        // A fresh process.
        let store = Store::new(Client::new(backend, seams));
        let c = store.collection(&Meter::new(), &Name::new("deb").unwrap()).await.unwrap();
        let t = std::time::Instant::now();
        let r = Compactor::new(Options { threads: 2, seed: 1 })
            .compact(&Meter::new(), &c, &|_| {})
            .await
            .unwrap();
        println!("compact {:?} {r:?}", t.elapsed());
        let s = std::fs::read_to_string("/proc/self/status").unwrap();
        println!(
            "{}",
            s.lines()
                .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        let w = esker_format::avro::encode_record;
        let mut data = Vec::new();
        for i in 0..2000 {
            w(
                &mut data,
                &RecordRef {
                    id: &format!("new-{i}"),
                    vector: &[i as f32; 384].map(|x| x + 1.0),
                    ..RecordRef::default()
                },
            );
        }
        let p = esker_format::wal::PendingBatch {
            token: esker_format::Token(999),
            op: Op::Upsert,
            arrived_ms: 1,
            blocks: vec![esker_format::avro::container::Block { rows: 2000, data: data.into() }],
        };
        c.append(&Meter::new(), p, true).await.unwrap();
        let t = std::time::Instant::now();
        let r = Compactor::new(Options { threads: 2, seed: 1 })
            .compact(&Meter::new(), &c, &|_| {})
            .await
            .unwrap();
        println!("second {:?} {r:?}", t.elapsed());
    });
}
