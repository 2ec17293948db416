//! Arrow to Avro to the collection's rows: whatever the batches, the values are those of the source.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use proptest::prelude::*;

use super::formats::parquet;
use super::*;

#[derive(Debug, Clone)]
struct Row {
    vector: [f32; 3],
    int: Option<i64>,
    float: Option<f64>,
    text: Option<String>,
    flag: Option<bool>,
    list: Option<Vec<String>>,
}

fn row() -> impl Strategy<Value = Row> {
    (
        prop::array::uniform3(prop_oneof![-1e6f32..-1e-6, 1e-6f32..1e6]),
        prop::option::of(any::<i64>()),
        prop::option::of(-1e300f64..1e300),
        prop::option::of(".{0,12}"),
        any::<Option<bool>>(),
        prop::option::of(prop::collection::vec(".{0,4}", 0..3)),
    )
        .prop_map(|(vector, int, float, text, flag, list)| Row { vector, int, float, text, flag, list })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let vectors = rows.iter().map(|r| Some(r.vector.map(Some)));
    let mut lists = ListBuilder::new(StringBuilder::new());
    rows.iter().for_each(|r| lists.append_option(r.list.as_ref().map(|l| l.iter().map(Some))));
    let columns: [(&str, ArrayRef); 6] = [
        ("vector", Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 3))),
        ("int", Arc::new(rows.iter().map(|r| r.int).collect::<Int64Array>())),
        ("float", Arc::new(rows.iter().map(|r| r.float).collect::<Float64Array>())),
        ("text", Arc::new(rows.iter().map(|r| r.text.as_deref()).collect::<StringArray>())),
        ("flag", Arc::new(rows.iter().map(|r| r.flag).collect::<BooleanArray>())),
        ("list", Arc::new(lists.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn check(source: &[Row], rows: &RecordBatch) {
    assert_eq!(rows.num_rows(), source.len());
    let vectors =
        rows.column(1).as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec();
    assert_eq!(vectors, source.iter().flat_map(|r| r.vector).collect::<Vec<_>>());
    // A column without a value in the whole file does not exist.
    let column = |name| rows.column_by_name(name);
    let all = |name, values: Vec<Option<String>>| {
        let found: Vec<Option<String>> = match column(name) {
            None => vec![None; values.len()],
            Some(c) => (0..c.len()).map(|i| c.is_valid(i).then(|| text(c, i))).collect(),
        };
        assert_eq!(found, values, "{name}");
    };
    all("int", source.iter().map(|r| r.int.map(|v| v.to_string())).collect());
    all("float", source.iter().map(|r| r.float.map(|v| format!("{v:?}"))).collect());
    all("text", source.iter().map(|r| r.text.clone()).collect());
    all("flag", source.iter().map(|r| r.flag.map(|v| v.to_string())).collect());
    all("list", source.iter().map(|r| r.list.as_ref().map(|l| format!("{l:?}"))).collect());
}

fn text(column: &ArrayRef, i: usize) -> String {
    if let Some(v) = column.as_primitive_opt::<Int64Type>() {
        return v.value(i).to_string();
    }
    if let Some(v) = column.as_primitive_opt::<Float64Type>() {
        return format!("{:?}", v.value(i));
    }
    if let Some(v) = column.as_string_opt::<i32>() {
        return v.value(i).to_owned();
    }
    if let Some(v) = column.as_boolean_opt() {
        return v.value(i).to_string();
    }
    let list = column.as_list::<i32>().value(i);
    format!("{:?}", list.as_string::<i32>().iter().map(|s| s.unwrap()).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn values_are_those_of_the_source(source in prop::collection::vec(row(), 1..40), limit in 1usize..50) {
        let dir = TempDir::new().unwrap();
        let path = write(&dir, "x.parquet", &parquet(&batch(&source)));
        let plan = plan(&path, &Overrides::default()).unwrap().with_limits(limit, 1 << 20);
        let (settings, sink) = (plan.inspected().inference.settings(), MemorySink::default());
        let report = import_plan(plan, &sink).unwrap();
        prop_assert_eq!(report.rows, source.len() as u64);
        check(&source, &sink.rows(&settings));
    }
}
