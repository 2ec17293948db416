//! Answers are those of the query as written, where values are missing too: whatever the planner rewrites is compared with
//! the expression evaluated as it stands.

use std::sync::LazyLock;

use arrow::array::BooleanArray;
use arrow::datatypes::Int64Type;
use datafusion::common::DFSchema;
use proptest::prelude::*;

use super::*;

/// Every combination of a year, a section and a rating, each also missing.
fn every() -> Arc<Memory> {
    let years = [None, Some(1), Some(2), Some(3)];
    let (sections, ratings) = ([None, Some("a"), Some("b")], [None, Some(1.0), Some(2.0)]);
    let n = years.len() * sections.len() * ratings.len();
    let mut memory = Arc::into_inner(collection(Metric::Cosine, VectorType::F32, n)).unwrap();
    let mut columns = memory.rows.columns().to_vec();
    columns[2] = Arc::new((0..n).map(|i| sections[i % 3]).collect::<StringArray>());
    columns[3] = Arc::new((0..n).map(|i| years[i / 9]).collect::<Int64Array>());
    columns[4] = Arc::new((0..n).map(|i| ratings[i / 3 % 3]).collect::<Float64Array>());
    memory.rows = RecordBatch::try_new(memory.rows.schema(), columns).unwrap();
    Arc::new(memory)
}

/// One table `t` of them.
fn catalog() -> Arc<Tables> {
    static TABLES: LazyLock<Arc<Tables>> = LazyLock::new(|| Arc::new(Tables(vec![("t", every())])));
    TABLES.clone()
}

fn rows() -> RecordBatch {
    catalog().0[0].1.rows.clone()
}

fn ask(text: &str) -> RecordBatch {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let output = runtime.block_on(run_on(catalog(), text, &[q()])).unwrap_or_else(|e| panic!("{text}: {e}"));
    arrow::compute::concat_batches(&output.schema, &output.batches).unwrap()
}

/// A column of text, nulls as `-`.
fn texts(batch: &RecordBatch, column: usize) -> Vec<String> {
    let column = batch.column(column).as_string::<i32>();
    column.iter().map(|v| v.unwrap_or("-").to_owned()).collect()
}

fn ids(text: &str) -> Vec<String> {
    let mut ids = texts(&ask(text), 0);
    ids.sort();
    ids
}

/// DataFusion's own answer for the condition as it stands.
fn truth(condition: &str, batch: &RecordBatch) -> Vec<Option<bool>> {
    let schema = DFSchema::try_from(batch.schema().as_ref().clone()).unwrap();
    let state = session::base();
    let expr = state.create_logical_expr(condition, &schema).unwrap_or_else(|e| panic!("{condition}: {e}"));
    let physical = state.create_physical_expr(expr, &schema).unwrap_or_else(|e| panic!("{condition}: {e}"));
    let truth = physical.evaluate(batch).unwrap_or_else(|e| panic!("{condition}: {e}"));
    values(&truth.into_array(batch.num_rows()).unwrap())
}

/// Truth values; the constant NULL is of no type.
fn values(column: &ArrayRef) -> Vec<Option<bool>> {
    column.as_boolean_opt().map_or(vec![None; column.len()], |t| t.iter().collect())
}

fn passing(condition: &str, batch: &RecordBatch) -> Vec<String> {
    let ids = texts(batch, 0).into_iter().zip(truth(condition, batch));
    let mut ids: Vec<_> = ids.filter(|(_, t)| *t == Some(true)).map(|(id, _)| id).collect();
    ids.sort();
    ids
}

/// A condition over `year`, `section`, `rating` and `id`, to be named by the query it goes into.
#[derive(Debug, Clone)]
struct Condition(String);

impl Condition {
    fn over(&self, year: &str, section: &str, rating: &str, id: &str) -> String {
        self.0
            .replace("{year}", year)
            .replace("{section}", section)
            .replace("{rating}", rating)
            .replace("{id}", id)
    }

    fn plain(&self) -> String {
        self.over("year", "section", "\"Rating\"", "id")
    }
}

/// Where a condition can stand.
#[derive(Debug, Clone, Copy)]
enum Place {
    Scan,
    AboveScan,
    Search,
    Column,
    Having,
    InnerJoin,
    LeftJoin,
    AboveLeftJoin,
}

impl Place {
    const ALL: [Place; 8] = [
        Place::Scan,
        Place::AboveScan,
        Place::Search,
        Place::Column,
        Place::Having,
        Place::InnerJoin,
        Place::LeftJoin,
        Place::AboveLeftJoin,
    ];

    fn check(self, condition: &Condition) {
        let text = condition.plain();
        let passing = || passing(&text, &rows());
        match self {
            Place::Scan => assert_eq!(ids(&format!("SELECT id FROM t WHERE {text}")), passing(), "{text}"),
            Place::AboveScan => {
                // Nothing random is pushed down.
                let found = ids(&format!("SELECT id FROM t WHERE ({text}) OR random() < 0"));
                assert_eq!(found, passing(), "not pushed down: {text}");
            }
            Place::Search => {
                let nearest = "ORDER BY cosine_distance(vector, $1) LIMIT 100";
                assert_eq!(
                    ids(&format!("SELECT id FROM t WHERE {text} {nearest}")),
                    passing(),
                    "search: {text}"
                );
            }
            Place::Column => columns(&text),
            Place::Having => {
                let having = condition.over("max(year)", "min(section)", "avg(\"Rating\")", "id");
                let found = ids(&format!("SELECT id FROM t GROUP BY id HAVING {having}"));
                assert_eq!(found, passing(), "HAVING {having}");
            }
            Place::InnerJoin => join(condition, "INNER"),
            Place::LeftJoin => join(condition, "LEFT"),
            Place::AboveLeftJoin => above_left_join(condition),
        }
    }
}

/// As a column of the answer, and in a condition of one.
fn columns(text: &str) {
    let found = ask(&format!(
        "SELECT {text} AS p, CASE WHEN {text} THEN true WHEN NOT ({text}) THEN false END AS q FROM t"
    ));
    let expected = truth(text, &rows());
    assert_eq!(values(found.column(0)), expected, "SELECT {text}");
    assert_eq!(values(found.column(1)), expected, "CASE WHEN {text}");
}

/// Every row with every row.
fn join(condition: &Condition, kind: &str) {
    let rows = rows();
    let n = rows.num_rows();
    let pick = |of: fn(usize, usize) -> usize| {
        take_record_batch(&rows, &UInt32Array::from_iter_values((0..n * n).map(|i| of(i, n) as u32))).unwrap()
    };
    let (a, b) = (pick(|i, n| i / n), pick(|i, n| i % n));
    let mut columns = a.columns().to_vec();
    columns[2] = b.column(2).clone();
    let pairs = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let (left, right) = (texts(&a, 0), texts(&b, 0));
    let mut expected: Vec<(String, String)> = truth(&condition.plain(), &pairs)
        .into_iter()
        .enumerate()
        .filter(|(_, t)| *t == Some(true))
        .map(|(i, _)| (left[i].clone(), right[i].clone()))
        .collect();
    if kind == "LEFT" {
        let matched: HashSet<String> = expected.iter().map(|(a, _)| a.clone()).collect();
        let alone = texts(&rows, 0).into_iter().filter(|id| !matched.contains(id));
        expected.extend(alone.map(|id| (id, "-".to_owned())));
    }
    expected.sort();
    let on = condition.over("a.year", "b.section", "a.\"Rating\"", "a.id");
    let found = ask(&format!("SELECT a.id, b.id FROM t a {kind} JOIN t b ON {on}"));
    let mut found: Vec<_> = texts(&found, 0).into_iter().zip(texts(&found, 1)).collect();
    found.sort();
    assert_eq!(found, expected, "{kind} JOIN ON {on}");
}

/// Over columns that an outer join left missing.
fn above_left_join(condition: &Condition) {
    let rows = rows();
    let mut columns = rows.columns().to_vec();
    let years = columns[3].as_primitive::<Int64Type>().iter();
    columns[3] = Arc::new(years.map(|y| y.filter(|y| *y > 1)).collect::<Int64Array>());
    let joined = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let filter = condition.over("b.year", "a.section", "a.\"Rating\"", "a.id");
    let found =
        ids(&format!("SELECT a.id FROM t a LEFT JOIN t b ON a.id = b.id AND b.year > 1 WHERE {filter}"));
    assert_eq!(found, passing(&condition.plain(), &joined), "LEFT JOIN WHERE {filter}");
}

/// As a filter of a plan, apart from SQL.
fn check_filter(condition: &Condition) {
    let (text, rows) = (condition.plain(), rows());
    let memory = &catalog().0[0].1;
    let schema = DFSchema::try_from(rows.schema().as_ref().clone()).unwrap();
    let expr = session::base().create_logical_expr(&text, &schema).unwrap();
    let resolved = Resolved::from_expr(expr, &memory.settings, &memory.schema).unwrap();
    let expected: BooleanArray = truth(&text, &rows).into_iter().map(|t| Some(t == Some(true))).collect();
    assert_eq!(resolved.mask(&rows).unwrap(), expected, "filter {text}");
}

/// What DataFusion 55 gets wrong by itself (see `simplify`).
#[test]
fn known_wrong_rewrites_do_not_happen() {
    for text in [
        "{year} NOT IN (1) OR {year} NOT IN (2)",
        "NOT ({year} IN (1, 2) AND {year} IN (3, 4))",
        "({year} IN (1, 2) AND {year} NOT IN (1, 2)) IS NULL",
        "NOT ({year} IN (1, NULL) AND {year} IN (1, 2))",
        "{year} IN (1) AND {year} NOT IN (2, NULL)",
        "{year} NOT IN (1, NULL) OR {year} NOT IN (1, 2)",
        "{year} IN ({rating}, 1) AND {year} IN ({rating} + 1, 1)",
        "{year} IN ({rating}, 4) AND {year} NOT IN ({rating} * {rating}, 5)",
        "1 IN ({year}, 7) AND 1 IN ({year} * {year}, 8)",
        "NOT (({year} = 1 OR {year} = 2) AND (3 = {year} OR {year} = 4))",
        "(NOT ({year} <> 1 AND {year} <> 2) AND NOT ({year} <> 3 AND {year} <> 4)) IS NULL",
        "(({year} BETWEEN 1 AND 1 OR {year} BETWEEN 2 AND 2) AND ({year} BETWEEN 3 AND 3 OR {year} BETWEEN 4 AND 4)) IS NULL",
        "NOT (({section} LIKE 'a' OR {section} LIKE 'b') AND ({section} LIKE 'c' OR {section} LIKE 'd'))",
        "{section} NOT IN ('a', 'b', 'c', 'd') OR NOT {section} = ANY(['e', 'f'])",
        "{section} !~ '^(ab|cd)$' OR {section} !~ '^(ef|gh)$'",
        "NOT ({section} ~ '.*')",
        "regexp_like({section}, '.*') IS NULL",
        "regexp_like({section}, '.' || '*') IS NULL",
        "{section} || '\\b' ~ 'a\\\\b'",
        "TRY_CAST({year} * 100 AS tinyint) > 1",
        "TRY_CAST({year} * 100 AS tinyint) NOT IN (1, 2)",
        "NOT array_has([{year}, 1], 2)",
        "NOT array_has([1, NULL], {year})",
        "({year} ^ {year}) = 0",
        "(CAST({id} <> 'x' AS int) & -CAST({id} <> 'x' AS int)) = 1",
        "-({year} & 1) = -1",
        "{year} >= 2 AND 2 < {year}",
        "log(CAST({id} <> 'x' AS int), 1) = 0",
        "CASE WHEN {year} IN (1) THEN {year} NOT IN (1) ELSE {year} IN (2) AND {year} IN (3) END",
        "CASE {year} WHEN 1 THEN true WHEN 2 THEN {section} IN ('a') AND {section} IN ('b') END",
        "{id} IN ({id}, 'd9') AND {id} NOT IN (substr({id}, 1), 'd8')",
    ] {
        let condition = Condition(text.to_owned());
        check_filter(&condition);
        Place::ALL.into_iter().for_each(|place| place.check(&condition));
    }
}

/// Functions that only the simplifier knows how to evaluate.
#[test]
fn functions_that_are_rewritten_keep_their_meaning() {
    for (text, meaning) in [
        (
            "coalesce(year IN (1) AND year IN (2), year IN (3))",
            "CASE WHEN (year IN (1) AND year IN (2)) IS NOT NULL THEN year IN (1) AND year IN (2) ELSE year IN (3) END",
        ),
        (
            "nvl2(year IN (1) AND year IN (2), section = 'a', section IN ('b') AND section IN ('a'))",
            "CASE WHEN (year IN (1) AND year IN (2)) IS NOT NULL THEN section = 'a' ELSE section IN ('b') AND section IN ('a') END",
        ),
        ("arrow_try_cast(year * 100, 'Int8') > 1", "TRY_CAST(year * 100 AS tinyint) > 1"),
    ] {
        let found = ask(&format!("SELECT {text} FROM t"));
        assert_eq!(values(found.column(0)), truth(meaning, &rows()), "{text}");
    }
}

/// What the index can answer still reaches it, and lists and constants are still folded.
#[tokio::test]
async fn what_is_right_is_still_simplified() {
    for (condition, filter) in [
        ("year IN (1, 2, 3, 4)", "\"year\" IN (1, 2, 3, 4)"),
        ("year = 1 OR year = 2 OR year = 1 + 2 OR 4 = year", "\"year\" IN (1, 2, 3, 4)"),
        ("year = ANY([1, 2, 3, 4])", "\"year\" IN (1, 2, 3, 4)"),
        (
            "(year = 1 AND id = 'a') OR (year = 1 AND section > 'b')",
            "\"year\" = 1 AND (id = 'a' OR section > 'b')",
        ),
        ("CAST(year AS double) IN (1.0, 2.0, 3.0, 4.0)", "\"year\" IN (1, 2, 3, 4)"),
        ("starts_with(section, 'a') AND section ~ '^b$'", "section = 'b' AND section LIKE 'a%'"),
        (
            "year IN (1, 2, 3, 4) AND year NOT IN (5, 6, 7, 8)",
            "\"year\" IN (1, 2, 3, 4) AND \"year\" NOT IN (5, 6, 7, 8)",
        ),
    ] {
        let tables = Arc::new(Tables(vec![("t", every())]));
        run_on(tables.clone(), &format!("SELECT id FROM t WHERE {condition}"), &[]).await.unwrap();
        assert_eq!(tables.0[0].1.asked(), [format!("scan [0] filter {filter} limit None")], "{condition}");
    }
}

fn leaf() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        8 => (0i64..5).prop_map(|v| v.to_string()),
        1 => Just("NULL".to_owned()),
        1 => prop::sample::select(vec!["{rating}", "{year}"]).prop_map(str::to_owned),
    ];
    let text = prop::sample::select(vec!["'a'", "'b'", "'c'", "'d1'", "NULL", "{section}"]);
    let subject = prop::sample::select(vec!["{year}", "{year}", "{year} + 1", "CAST({year} AS double)", "1"]);
    let name = prop::sample::select(vec!["{section}", "{section}", "{id}"]);
    let not = prop::sample::select(vec!["", "NOT "]);
    let op = prop::sample::select(vec!["=", "=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]);
    let like = prop::sample::select(vec!["a", "b", "a%", "%", "_"]);
    let regex = prop::sample::select(vec![".*", "^a$", "^(a|b)$", "^a$|^b$", "a", "^b"]);
    prop_oneof![
        6 => (subject.clone(), not.clone(), prop::collection::vec(number.clone(), 1..5))
            .prop_map(|(s, not, n)| format!("{s} {not}IN ({})", n.join(", "))),
        3 => (name, not.clone(), prop::collection::vec(text, 1..5))
            .prop_map(|(s, not, t)| format!("{s} {not}IN ({})", t.join(", "))),
        4 => (subject.clone(), op.clone(), 0i64..5).prop_map(|(s, o, n)| format!("({s} {o} {n})")),
        1 => (0i64..5, op).prop_map(|(n, o)| format!("({n} {o} {{year}})")),
        1 => (subject, not.clone(), 0i64..4, 0i64..3)
            .prop_map(|(s, not, low, more)| format!("{s} {not}BETWEEN {low} AND {}", low + more)),
        1 => (not.clone(), like).prop_map(|(not, like)| format!("{{section}} {not}LIKE '{like}'")),
        1 => (prop::sample::select(vec!["~", "!~"]), regex).prop_map(|(o, r)| format!("({{section}} {o} '{r}')")),
        2 => prop::sample::select(vec![
            "{year} IS NULL", "{section} IS NOT NULL", "TRY_CAST({year} * 100 AS tinyint) > 1", "array_has([{year}, 1], 2)",
            "{section} = ANY(['a', 'b'])", "({year} ^ {year}) = 0", "({year} = {rating})", "regexp_like({section}, '.*')",
            "true", "NULL", "'d1' = {id}",
        ]).prop_map(str::to_owned),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let nested = leaf().prop_recursive(4, 16, 3, |inner| {
        let some = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            4 => some.clone().prop_map(|v| format!("({})", v.join(" AND "))),
            4 => some.prop_map(|v| format!("({})", v.join(" OR "))),
            2 => inner.clone().prop_map(|v| format!("NOT ({v})")),
            1 => (inner.clone(), prop::sample::select(vec!["IS NULL", "IS NOT TRUE", "IS NOT FALSE", "= false"]))
                .prop_map(|(v, is)| format!("({v}) {is}")),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("CASE WHEN {a} THEN {b} ELSE {c} END")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("CASE WHEN {a} THEN {b} END")),
        ]
    });
    nested.prop_map(Condition)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 320, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conditions_mean_what_they_say(condition in condition(), place in prop::sample::select(Place::ALL.to_vec())) {
        check_filter(&condition);
        place.check(&condition);
    }
}
