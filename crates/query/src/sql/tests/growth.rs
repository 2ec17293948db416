//! What makes long values of short ones.

use super::*;

async fn refused(text: &str) {
    let shown: String = text.chars().take(90).collect();
    match run_on(tables(), text, &[]).await {
        Ok(output) => panic!("{shown}: {} rows", output.stats.rows),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Invalid, "{shown}: {error}");
            assert!(error.to_string().contains("would make more than 64 MiB"), "{shown}: {error}");
        }
    }
}

/// `inner` is put where `$` stands, this many times.
fn nested(outer: &str, inner: &str, depth: usize) -> String {
    (0..depth).fold(inner.to_owned(), |inner, _| outer.replace('$', &inner))
}

#[tokio::test]
async fn nested_functions_are_kept_to_a_size() {
    let long = "a".repeat(50);
    for (outer, inner, depth) in [
        (format!("replace($, 'a', '{long}')"), "section || 'a'", 6),
        (format!("regexp_replace($, 'a', '{long}', 'g')"), "section || 'a'", 6),
        ("encode($, 'hex')".to_owned(), "section", 30),
    ] {
        refused(&format!("SELECT length({}) FROM docs", nested(&outer, inner, depth))).await;
    }
    let filter = nested(&format!("replace($, 'a', '{long}')"), "section || 'a'", 6);
    refused(&format!("SELECT id FROM docs WHERE {filter} = 'x'")).await;
}

/// `outer` of `docs`' `inner` as `s`, in subqueries, this many times.
fn stacked(outer: &str, inner: &str, depth: usize) -> String {
    let table = format!("(SELECT {inner} AS s FROM docs)");
    (0..depth).fold(table, |below, _| format!("(SELECT {outer} AS s FROM {below})"))
}

#[tokio::test]
async fn each_of_equal_subqueries_counts() {
    for (outer, inner, depth, wanted) in
        [("s + s", "1", 5, "32"), ("s || s", "'ab'", 3, "abababababababab"), ("s + 1", "1", 4, "5")]
    {
        let text = format!("SELECT DISTINCT CAST(s AS TEXT) AS s FROM {}", stacked(outer, inner, depth));
        let output = run_on(tables(), &text, &[]).await.unwrap();
        assert!(table(&output).contains(wanted), "{text}: {}", table(&output));
    }
    for outer in ["s || s", "concat(s, s)"] {
        refused(&format!("SELECT length(s) FROM {}", stacked(outer, "section || 'a'", 30))).await;
    }
}

#[tokio::test]
async fn what_is_called_by_name_is_kept_to_a_size() {
    refused(&format!("SELECT length(s) FROM {}", stacked("text_concat(s, s)", "section || 'a'", 30))).await;
    let many = format!("string_to_array('{}', ',')", vec!["a"; 5_000].join(","));
    for function in ["array_replace_all($, 'a', '#')", "array_replace_n($, 'a', '#', 5000)"] {
        let call = function.replace('$', &many).replace('#', &"b".repeat(30_000));
        refused(&format!("SELECT array_length({call}) FROM docs")).await;
    }
}

#[tokio::test]
async fn a_long_constant_makes_batches_short() {
    // 4,800 rows, which come in one batch otherwise, and 30,000 bytes beside each.
    let rows = "SELECT DISTINCT a.id AS a, b.id AS b, c.id AS c FROM docs a, flat b, \"many-words\" c";
    let (written, made) = ("a".repeat(30_000), "a".repeat(3_000));
    for constant in
        ["'short'".to_owned(), format!("'{written}'"), format!("replace('{made}', 'a', 'bbbbbbbbbb')")]
    {
        let text = format!("SELECT a, {constant} AS note FROM ({rows})");
        let output = run_on(tables(), &text, &[]).await.unwrap();
        assert_eq!(output.stats.rows, 4_800);
        let most = output.batches.iter().map(RecordBatch::num_rows).max().unwrap();
        match constant.len() {
            0..100 => assert!(most > 2_300, "{most} rows at once beside a short one"),
            _ => assert!(most * 30_000 <= 64 << 20, "{most} copies of a constant in one batch"),
        }
    }
}

#[tokio::test]
async fn what_is_short_stays_as_it_was() {
    let text = "SELECT 'x' || section AS a, section || NULL AS b, 1 || section AS c, concat(section, '-', NULL) AS d, \
                replace(section, 'a', 'bb') AS e, [1, 2] || [3] AS f, section || '/' || id FROM docs ORDER BY id LIMIT 2";
    let output = run_on(tables(), text, &[]).await.unwrap();
    let names: Vec<&str> = output.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names[..6], ["a", "b", "c", "d", "e", "f"]);
    insta::assert_snapshot!(table(&output));
}
