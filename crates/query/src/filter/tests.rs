use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, ListBuilder, RecordBatch,
    StringArray, StringBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimestampMillisecondType};
use datafusion::common::DFSchema;
use esker_format::schema::{Column, ColumnType, Metric, VectorType};
use proptest::prelude::*;
use roaring::RoaringBitmap;
use serde_json::json;

use super::*;

fn settings() -> Settings {
    Settings { dimension: 2, metric: Metric::Cosine, vector_type: VectorType::F32 }
}

fn schema() -> Schema {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, wide: false };
    Schema {
        columns: vec![
            column("section", ColumnType::String),
            column("year", ColumnType::Int),
            column("rating", ColumnType::Float),
            column("draft", ColumnType::Boolean),
            column("tags", ColumnType::Strings),
            column("Mixed Case", ColumnType::String),
        ],
    }
}

/// One row of metadata.
#[derive(Debug, Clone)]
struct Row {
    section: Option<String>,
    year: Option<i64>,
    rating: Option<f64>,
    draft: Option<bool>,
    tags: Option<Vec<String>>,
    time: i64,
}

fn strings(rows: &[Row]) -> ListArray {
    let mut list = ListBuilder::new(StringBuilder::new()).with_field(Arc::new(Field::new(
        "item",
        DataType::Utf8,
        false,
    )));
    for row in rows {
        match &row.tags {
            Some(tags) => list.append_value(tags.iter().map(Some)),
            None => list.append_null(),
        }
    }
    list.finish()
}

fn batch(rows: &[Row]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..rows.len()).map(|i| format!("r{i}")));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids)),
        ("section", Arc::new(rows.iter().map(|r| r.section.as_deref()).collect::<StringArray>())),
        ("year", Arc::new(rows.iter().map(|r| r.year).collect::<Int64Array>())),
        ("rating", Arc::new(rows.iter().map(|r| r.rating).collect::<Float64Array>())),
        ("draft", Arc::new(rows.iter().map(|r| r.draft).collect::<BooleanArray>())),
        ("tags", Arc::new(strings(rows))),
        (
            "_timestamp",
            Arc::new(
                rows.iter().map(|r| Some(r.time)).collect::<TimestampMillisecondArray>().with_timezone("UTC"),
            ),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn row(section: &str, year: i64, rating: f64, draft: bool, tags: &[&str]) -> Row {
    Row {
        section: Some(section.to_owned()),
        year: Some(year),
        rating: Some(rating),
        draft: Some(draft),
        tags: Some(tags.iter().map(|t| (*t).to_owned()).collect()),
        time: year,
    }
}

const EMPTY: Row = Row { section: None, year: None, rating: None, draft: None, tags: None, time: 0 };

fn few() -> RecordBatch {
    batch(&[
        row("python", 2020, 0.5, false, &["a", "b"]),
        row("rust", 2021, 1.0, true, &[]),
        row("go", 2022, -0.0, false, &["b"]),
        EMPTY,
    ])
}

fn passing(mask: &BooleanArray) -> Vec<usize> {
    (0..mask.len()).filter(|i| mask.value(*i)).collect()
}

fn sql(text: &str) -> Resolved {
    Filter::sql(text).unwrap().resolve(&settings(), &schema()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn rows(filter: &Resolved, batch: &RecordBatch) -> Vec<usize> {
    let by_mask = passing(&filter.mask(batch).unwrap());
    let by_tree: Vec<usize> = by_tree(filter, batch).into_iter().map(|r| r as usize).collect();
    assert_eq!(by_mask, by_tree, "{} as {:?}", filter.expr, filter.tree);
    by_mask
}

fn by_tree(filter: &Resolved, batch: &RecordBatch) -> RoaringBitmap {
    let other = &mut |e: &Expr| {
        let mask = filter.part(e)?.mask(batch)?;
        Ok(passing(&mask).into_iter().map(|i| i as u32).collect())
    };
    filter.tree.eval(batch.num_rows() as u32, &mut |p| Ok(brute(p, batch)), other).unwrap()
}

/// A predicate by hand, apart from DataFusion.
fn brute(predicate: &Predicate, batch: &RecordBatch) -> RoaringBitmap {
    let Some(column) = batch.column_by_name(predicate.column()) else {
        let all = matches!(predicate, Predicate::IsNull(_));
        return (0..if all { batch.num_rows() as u32 } else { 0 }).collect();
    };
    let at = |i: usize| -> Option<Literal> {
        if column.is_null(i) {
            return None;
        }
        Some(match column.data_type() {
            DataType::Boolean => Literal::Bool(column.as_boolean().value(i)),
            DataType::Int64 => Literal::Int(column.as_primitive::<Int64Type>().value(i)),
            DataType::Float64 => Literal::Float(column.as_primitive::<Float64Type>().value(i) + 0.0),
            DataType::Timestamp(..) => {
                Literal::Int(column.as_primitive::<TimestampMillisecondType>().value(i))
            }
            _ => Literal::String(column.as_string::<i32>().value(i).to_owned()),
        })
    };
    let order = |a: &Literal, b: &Literal| match (a, b) {
        (Literal::Bool(a), Literal::Bool(b)) => a.cmp(b),
        (Literal::Int(a), Literal::Int(b)) => a.cmp(b),
        (Literal::Float(a), Literal::Float(b)) => a.partial_cmp(b).unwrap(),
        (Literal::String(a), Literal::String(b)) => a.cmp(b),
        other => panic!("types differ: {other:?}"),
    };
    let passes = |i: usize| match predicate {
        Predicate::IsNull(_) => column.is_null(i),
        Predicate::Contains(_, item) => {
            !column.is_null(i)
                && column.as_list::<i32>().value(i).as_string::<i32>().iter().any(|t| t == Some(item))
        }
        Predicate::Eq(_, v) => at(i).is_some_and(|x| order(&x, v).is_eq()),
        Predicate::In(_, vs) => at(i).is_some_and(|x| vs.iter().any(|v| order(&x, v).is_eq())),
        Predicate::Range { low, high, .. } => at(i).is_some_and(|x| {
            let above = match low {
                Bound::Unbounded => true,
                Bound::Included(v) => order(&x, v).is_ge(),
                Bound::Excluded(v) => order(&x, v).is_gt(),
            };
            above
                && match high {
                    Bound::Unbounded => true,
                    Bound::Included(v) => order(&x, v).is_le(),
                    Bound::Excluded(v) => order(&x, v).is_lt(),
                }
        }),
    };
    (0..batch.num_rows()).filter(|i| passes(*i)).map(|i| i as u32).collect()
}

#[test]
fn sql_conditions_select_rows() {
    let cases: &[(&str, &[usize])] = &[
        ("section = 'python'", &[0]),
        ("section <> 'python'", &[1, 2]),
        ("NOT section = 'python'", &[1, 2]),
        ("section IN ('python', 'go')", &[0, 2]),
        ("section NOT IN ('python', 'go')", &[1]),
        ("section NOT IN ('python', NULL)", &[]),
        ("section IN ('python', NULL)", &[0]),
        ("section = NULL", &[]),
        ("section IS NULL", &[3]),
        ("NOT section IS NULL", &[0, 1, 2]),
        ("year > 2020.5", &[1, 2]),
        ("year = 2020.5", &[]),
        ("year <> 2020.5", &[0, 1, 2]),
        ("year <= 2021.0 AND year >= 2020.9", &[1]),
        ("year < 1e300", &[0, 1, 2]),
        ("year BETWEEN 2020 AND 2021", &[0, 1]),
        ("year NOT BETWEEN 2020 AND 2021", &[2]),
        ("year IN (2020, 2020.5)", &[0]),
        ("year NOT IN (2020.5)", &[0, 1, 2]),
        ("2021 <= year", &[1, 2]),
        ("year > 2019 + 0.5 * 3", &[1, 2]),
        ("rating = 0", &[2]),
        ("rating < 0", &[]),
        ("rating <= 0.0", &[2]),
        ("rating >= 1", &[1]),
        ("rating IN (0, 1)", &[1, 2]),
        ("draft", &[1]),
        ("NOT draft", &[0, 2]),
        ("draft IS NOT TRUE", &[0, 2, 3]),
        ("draft = false", &[0, 2]),
        ("array_has(tags, 'b')", &[0, 2]),
        ("NOT array_has(tags, 'b')", &[1]),
        ("'a' = ANY(tags)", &[0]),
        ("tags IS NULL", &[3]),
        ("section LIKE '%o%'", &[0, 2]),
        ("section NOT LIKE '%o%'", &[1]),
        ("upper(section) = 'RUST'", &[1]),
        ("id = 'r3'", &[3]),
        ("id IN ('r0', 'r9') OR id = 'r2'", &[0, 2]),
        ("_timestamp > '1970-01-01T00:00:02.020Z'", &[1, 2]),
        ("_timestamp = 2021", &[1]),
        ("_timestamp >= TIMESTAMP '1970-01-01 00:00:02.021'", &[1, 2]),
        ("_timestamp < DATE '1970-01-01'", &[]),
        ("\"Mixed Case\" IS NULL", &[0, 1, 2, 3]),
        ("section = 'python' OR year = 2021 AND NOT (draft AND rating > 2)", &[0, 1]),
        ("section IS NOT DISTINCT FROM NULL", &[3]),
        ("true", &[0, 1, 2, 3]),
        ("1 = 2", &[]),
        ("NULL", &[]),
        ("CASE WHEN draft THEN year > 2000 ELSE rating > 0 END", &[0, 1]),
        ("CASE WHEN draft THEN NULL END OR year > 2020", &[1, 2]),
        ("(year IN (2020, 2021) AND year IN (2022)) IS NULL", &[3]),
        ("NOT section ~ '.*'", &[]),
    ];
    let batch = few();
    for (text, expected) in cases {
        assert_eq!(rows(&sql(text), &batch), *expected, "{text}");
    }
}

#[test]
fn json_filters_select_rows() {
    let cases = [
        (json!({}), vec![0, 1, 2, 3]),
        (json!({"section": "python"}), vec![0]),
        (json!({"section": {"$ne": "python"}}), vec![1, 2]),
        (json!({"year": {"$gt": 2020, "$lte": 2022}, "draft": false}), vec![2]),
        (json!({"year": {"$gte": 2020.5}}), vec![1, 2]),
        (json!({"rating": {"$lt": 1}}), vec![0, 2]),
        (json!({"section": {"$in": ["go", "rust"]}}), vec![1, 2]),
        (json!({"section": {"$in": []}}), vec![]),
        (json!({"section": {"$nin": ["go", "rust"]}}), vec![0]),
        (json!({"tags": {"$contains": "b"}}), vec![0, 2]),
        (json!({"tags": {"$not": {"$contains": "b"}}}), vec![1]),
        (json!({"year": {"$exists": false}}), vec![3]),
        (json!({"year": {"$exists": true}}), vec![0, 1, 2]),
        (json!({"section": {"$like": "%o"}}), vec![2]),
        (json!({"$or": [{"section": "go"}, {"draft": true}]}), vec![1, 2]),
        (json!({"$and": [{"section": "go"}, {"draft": true}]}), vec![]),
        (json!({"$not": {"section": "go"}}), vec![0, 1]),
        (json!({"_timestamp": {"$gte": 2021}}), vec![1, 2]),
        (json!({"id": "r1"}), vec![1]),
    ];
    let batch = few();
    for (filter, expected) in cases {
        let resolved = Filter::json(&filter).unwrap().resolve(&settings(), &schema()).unwrap();
        assert_eq!(rows(&resolved, &batch), expected, "{filter}");
    }
}

#[test]
fn what_attributes_can_answer_becomes_leaves() {
    let leaves = |text: &str| {
        let filter = sql(text);
        assert!(filter.tree.others().is_empty(), "{text}: {:?}", filter.tree);
        filter.tree.predicates().into_iter().cloned().collect::<Vec<_>>()
    };
    let range = |low, high| Predicate::Range { column: "year".to_owned(), low, high };
    let int = Literal::Int;
    assert_eq!(
        leaves("year >= 2000 AND section = 'x' AND year < 2010"),
        [
            range(Bound::Included(int(2000)), Bound::Excluded(int(2010))),
            Predicate::Eq("section".into(), Literal::String("x".into()))
        ]
    );
    assert_eq!(leaves("NOT (year > 5)"), [range(Bound::Unbounded, Bound::Included(int(5)))]);
    assert_eq!(leaves("_timestamp > '1970-01-01T00:00:01Z'").len(), 1);
    assert_eq!(leaves("array_has(tags, 'x') AND draft AND tags IS NOT NULL").len(), 3);
    let many = (0..20).map(|i| format!("'{i}'")).collect::<Vec<_>>().join(",");
    assert!(matches!(leaves(&format!("section IN ({many})"))[..], [Predicate::In(..)]));
    // No segment has attributes of these.
    assert_eq!(sql("id = 'a'").tree.others().len(), 1);
    assert_eq!(sql("_seq > 4").tree.others().len(), 1);
    assert_eq!(sql("section LIKE 'a%'").tree.others().len(), 1);
}

#[test]
fn a_leaf_can_also_be_read_from_its_column() {
    let batch = few();
    for text in [
        "section = 'go'",
        "year IN (2020, 2021)",
        "year > 2020 AND year <= 2022",
        "array_has(tags, 'a')",
        "draft",
        "_timestamp < 2021",
    ] {
        let filter = sql(text);
        let [predicate] = filter.tree.predicates()[..] else { panic!("{text}") };
        let part = filter.part(&filter.leaf(predicate)).unwrap();
        assert_eq!(part.columns(), [predicate.column()]);
        assert_eq!(passing(&part.mask(&batch).unwrap()), rows(&filter, &batch), "{text}");
    }
}

#[test]
fn named_ids_are_known() {
    assert_eq!(sql("id = 'a'").ids(), Some(vec!["a".to_owned()]));
    assert_eq!(sql("year > 3 AND id IN ('a', 'b', 'c', 'd', 'e')").ids().map(|ids| ids.len()), Some(5));
    assert_eq!(sql("id = 'a' OR id = 'b' OR id = 'a'").ids(), Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(sql("id = 'a' OR year = 3").ids(), None);
    assert_eq!(sql("NOT id = 'a'").ids(), None);
}

#[test]
fn older_rows_lack_columns_or_hold_narrower_ones() {
    let old =
        RecordBatch::try_from_iter([("rating", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
    assert_eq!(passing(&sql("rating > 1.5").mask(&old).unwrap()), [1]);
    assert_eq!(passing(&sql("rating > 1.5 OR section IS NULL").mask(&old).unwrap()), [0, 1]);
}

#[test]
fn refusals_name_what_is_wrong() {
    let long = vec!["year = 1"; 300].join(" OR ");
    let deep = format!("{}year = 1{}", "(".repeat(5_000), ")".repeat(5_000));
    let nots = format!("{} draft", "NOT ".repeat(5_000));
    let cases = [
        "",
        "sectoin = 'a'",
        "vector = 1",
        "_row = 1",
        "section = 3",
        "year = 'x'",
        "year IN (1, 'x')",
        "draft = 1",
        "tags = 'a'",
        "array_has(section, 'a')",
        "array_has(tags, 3)",
        "year LIKE '2%'",
        "_timestamp > 'yesterday'",
        "year",
        "year + 1",
        "section",
        "year = 1 extra",
        "year = ",
        "random() > 0.5",
        "now() > _timestamp",
        "year IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "count(*) > 1",
        "year > $1",
        "nosuch(year) = 1",
        "other.year = 1",
        "year = 1; DROP TABLE x",
        "YEAR = 1",
        "year = 1 AS y",
        &long,
        &deep,
        &nots,
    ];
    let mut shown = String::new();
    for text in cases {
        let error = Filter::sql(text).and_then(|f| f.resolve(&settings(), &schema())).expect_err(text);
        assert_eq!(error.kind(), esker_format::Kind::Invalid, "{text}: {error}");
        let text = if text.len() > 60 { &text[..30] } else { text };
        shown += &format!("{text}\n  {error}\n");
        shown += &error.hint().map(|h| format!("  hint: {h}\n")).unwrap_or_default();
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn zeros_of_either_sign_are_one() {
    let data = batch(&[row("a", 1, 0.0, false, &[]), row("b", 1, -0.0, false, &[])]);
    for (text, expected) in [
        ("rating = -0.0", vec![0, 1]),
        ("rating <= -0.0", vec![0, 1]),
        ("rating >= -0.0", vec![0, 1]),
        ("rating > -0.0", vec![]),
        ("rating IN (-0.0, 7)", vec![0, 1]),
        ("rating BETWEEN 0.0 AND -0.0", vec![0, 1]),
    ] {
        assert_eq!(rows(&sql(text), &data), expected, "{text}");
    }
    let json = Filter::json(&json!({"rating": {"$lte": -0.0}})).unwrap();
    assert_eq!(rows(&json.resolve(&settings(), &schema()).unwrap(), &data), [0, 1]);
}

#[test]
fn long_json_filters_are_refused_before_they_are_a_deep_tree() {
    for item in [json!({}), json!({"$or": []}), json!({"$and": []}), json!({"year": 1})] {
        for items in [257, 4_000, 300_000] {
            let filter = json!({"$or": vec![item.clone(); items]});
            let e = Filter::json(&filter).unwrap_err();
            assert_eq!((e.kind(), e.field()), (esker_format::Kind::Invalid, Some("filter")), "{e}");
        }
        Filter::json(&json!({"$or": vec![item; 256]})).unwrap();
    }
}

#[test]
fn of_names_that_are_far_too_long_none_is_suggested() {
    let known = ["section", "year"];
    assert_eq!(suggest::hint("columns", "sektion", known).unwrap(), "did you mean `section`?");
    let listed = suggest::hint("columns", &"s".repeat(1 << 24), known).unwrap();
    assert_eq!(listed, "columns: section, year");
}

#[test]
fn json_refusals_name_the_place() {
    let mut deep = json!({"year": 1});
    for _ in 0..100 {
        deep = json!({"$not": deep});
    }
    let many = json!({"$or": vec![json!({"year": 1}); 300]});
    let cases = [
        json!([]),
        json!("x"),
        json!({"$nor": []}),
        json!({"year": {"$gtt": 1}}),
        json!({"year": {}}),
        json!({"year": null}),
        json!({"year": [1]}),
        json!({"year": {"$in": 3}}),
        json!({"year": {"$gt": {"a": 1}}}),
        json!({"$and": {"year": 1}}),
        json!({"tags": {"$contains": 3}}),
        json!({"year": {"$exists": "yes"}}),
        json!({"yaer": 3}),
        json!({"year": "x"}),
        json!({"$and": [{"year": {"$lt": [1]}}]}),
        many,
        deep,
    ];
    let mut shown = String::new();
    for filter in cases {
        let text: String = filter.to_string().chars().take(60).collect();
        let error = Filter::json(&filter).and_then(|f| f.resolve(&settings(), &schema())).expect_err(&text);
        assert_eq!(error.kind(), esker_format::Kind::Invalid, "{text}: {error}");
        shown += &format!(
            "{text}\n  {}: {error}\n",
            error.field().unwrap_or("-").chars().take(40).collect::<String>()
        );
        shown += &error.hint().map(|h| format!("  hint: {h}\n")).unwrap_or_default();
    }
    insta::assert_snapshot!(shown);
}

/// The deepest filters within the limits, on the 2 MiB stack of a test thread.
#[test]
fn filters_at_the_limits_run_on_ordinary_stacks() {
    let terms = (0..256).map(|i| format!("year <> {i} ")).collect::<Vec<_>>();
    let nested = format!("{}draft{}", "NOT (".repeat(30), ")".repeat(30));
    let sum = format!("{} > 0", vec!["year"; guard::CHAIN].join("+"));
    for text in [terms.join(" AND "), terms.join(" OR "), nested, sum] {
        let filter = sql(&text);
        rows(&filter, &few());
        drop(filter.clone());
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let text =
        prop::option::weighted(0.8, prop::sample::select(vec!["a", "b", "ab", ""]).prop_map(str::to_owned));
    let tags =
        prop::option::weighted(0.8, prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..3));
    (
        text,
        prop::option::weighted(0.8, -3i64..4),
        prop::option::weighted(0.8, (-6i64..7).prop_map(|v| v as f64 / 2.0)),
        prop::option::weighted(0.8, any::<bool>()),
        tags,
        -3i64..4,
    )
        .prop_map(|(section, year, rating, draft, tags, time)| Row {
            section,
            year,
            rating,
            draft,
            tags: tags.map(|t| t.into_iter().map(str::to_owned).collect()),
            time,
        })
}

fn any_condition() -> impl Strategy<Value = String> {
    let op = prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]);
    let number = prop_oneof![
        (-4i64..5).prop_map(|v| v.to_string()),
        (-8i64..9).prop_map(|v| format!("{:?}", v as f64 / 2.0)),
        Just("NULL".to_owned())
    ];
    let column = prop::sample::select(vec!["year", "rating", "_version"])
        .prop_filter("in the batch", |c| *c != "_version");
    let not = prop::sample::select(vec!["", "NOT "]);
    let leaf = prop_oneof![
        4 => (column.clone(), op.clone(), number.clone()).prop_map(|(c, o, n)| format!("({c} {o} {n})")),
        1 => (number.clone(), op, column.clone()).prop_map(|(n, o, c)| {
            let n = if n == "NULL" { "0".to_owned() } else { n };
            format!("({n} {o} {c})")
        }),
        2 => (column.clone(), not.clone(), prop::collection::vec(number.clone(), 1..6))
            .prop_map(|(c, not, n)| format!("{c} {not}IN ({})", n.join(", "))),
        1 => (column, not.clone(), number.clone(), number).prop_map(|(c, not, a, b)| format!("{c} {not}BETWEEN {a} AND {b}")),
        1 => prop::sample::select(vec![
            "draft", "draft IS TRUE", "draft IS NOT FALSE", "draft = true", "draft IS UNKNOWN", "section = 'a'", "section <> 'a'",
            "section IN ('a', 'b', 'c', 'd')", "section NOT IN ('a', NULL)", "section LIKE 'a%'", "section NOT LIKE '%b'",
            "section > 'a'", "array_has(tags, 'a')", "tags IS NULL", "section IS NOT NULL", "year = rating", "true", "NULL",
            "_timestamp > 1", "length(section) = 1", "(year > 0) IS NULL", "year IS NULL", "rating + 1 > year",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|v| format!("({})", v.join(" AND "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|v| format!("({})", v.join(" OR "))),
            inner.prop_map(|v| format!("NOT ({v})")),
        ]
    })
}

/// DataFusion's own answer for the text as written.
fn reference(text: &str, batch: &RecordBatch) -> Vec<usize> {
    let schema = DFSchema::try_from(batch.schema().as_ref().clone()).unwrap();
    let state = session::base();
    let expr = state.create_logical_expr(text, &schema).unwrap();
    let physical = state.create_physical_expr(expr, &schema).unwrap();
    let truth = physical.evaluate(batch).unwrap().into_array(batch.num_rows()).unwrap();
    match truth.as_boolean_opt() {
        Some(truth) => (0..truth.len()).filter(|i| truth.is_valid(*i) && truth.value(*i)).collect(),
        None => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mask_and_tree_agree_with_datafusion(condition in any_condition(), data in prop::collection::vec(any_row(), 1..24)) {
        let batch = batch(&data);
        let found = rows(&sql(&condition), &batch);
        prop_assert_eq!(&found, &reference(&condition, &batch), "{}", condition);
        let negated = format!("NOT ({condition})");
        prop_assert_eq!(rows(&sql(&negated), &batch), reference(&negated, &batch), "{}", negated);
    }
}
