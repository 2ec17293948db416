//! What the planner rule turns into searches, and that answers do not depend on it.

use super::*;

/// Every way to ask for nearest rows gives the ids of the exact answer.
#[tokio::test]
async fn nearest_rows_are_found_by_index() {
    let cases = [
        ("docs", "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 5"),
        ("docs", "SELECT id FROM docs ORDER BY cosine_distance($1, vector) LIMIT 5"),
        ("docs", "SELECT id, cosine_distance(vector, $1) AS d FROM docs ORDER BY d LIMIT 5"),
        ("docs", "SELECT id, cosine_distance(vector, $1) AS distance FROM docs ORDER BY distance LIMIT 5"),
        ("docs", "SELECT id, cosine_distance(vector, $1) FROM docs ORDER BY 2 LIMIT 5"),
        (
            "docs",
            "SELECT id, 1 - cosine_distance(vector, $1) AS score FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 5",
        ),
        ("docs", "SELECT id, vector FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 5"),
        ("docs", "SELECT * FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 5"),
        (
            "docs",
            "SELECT id, d FROM (SELECT id, cosine_distance(vector, $1) AS d FROM docs) ORDER BY d LIMIT 5",
        ),
        (
            "docs",
            "WITH n AS (SELECT id, vector AS v FROM docs) SELECT id FROM n ORDER BY cosine_distance(v, $1) LIMIT 5",
        ),
        ("docs", "SELECT x.id FROM docs AS x ORDER BY cosine_distance(x.vector, $1) LIMIT 5"),
        ("docs", "SELECT id FROM docs ORDER BY cosine_distance(vector, [1, 2, 0.5, -0.5]) LIMIT 5"),
        (
            "docs",
            "SELECT id FROM docs ORDER BY cosine_distance(vector, arrow_cast([1, 2, 0.5, -0.5], 'FixedSizeList(4, Float32)')) LIMIT 5",
        ),
        ("flat", "SELECT id, l2_distance(vector, $1) AS d FROM flat ORDER BY d ASC LIMIT 5"),
        ("dots", "SELECT id, inner_product(vector, $1) AS s FROM dots ORDER BY s DESC LIMIT 5"),
        ("dots", "SELECT id FROM dots ORDER BY inner_product(vector, $1) DESC LIMIT 5"),
        ("dots", "SELECT id FROM dots ORDER BY dot_product(vector, $1) DESC LIMIT 5"),
        ("docs", "SELECT upper(id) AS u FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 5"),
    ];
    for (name, text) in cases {
        let output = run(text).await;
        assert_eq!((output.stats.searches, output.stats.scans), (1, 0), "{text}\n{}", plan_of(text).await);
        let expected: Vec<String> = nearest(name, 40, |_| true).into_iter().take(5).collect();
        let found: Vec<String> = first(&output).iter().map(|id| id.to_lowercase()).collect();
        assert_eq!(found, expected, "{text}");
    }
}

/// Ids of a collection in order of distance to `Q`.
fn nearest(name: &str, k: usize, keep: impl Fn(usize) -> bool) -> Vec<String> {
    let catalog = tables();
    let memory = &catalog.0.iter().find(|(n, _)| *n == name).unwrap().1;
    let mut all: Vec<(f32, usize)> =
        (0..memory.rows.num_rows()).filter(|i| keep(*i)).map(|i| (memory.distance(&Q, i), i)).collect();
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    all.into_iter().take(k).map(|(_, i)| format!("d{i}")).collect()
}

pub(super) async fn plan_of(text: &str) -> String {
    table(&run(&format!("EXPLAIN {text}")).await)
}

#[tokio::test]
async fn filters_and_offsets_go_into_the_search() {
    let catalog = tables();
    let docs = catalog.0[0].1.clone();
    let text = "SELECT id, cosine_distance(vector, $1) AS d FROM docs WHERE year > 2010.5 AND section = 'a' \
                ORDER BY d LIMIT 3 OFFSET 2";
    let output = run_on(catalog, text, &[q()]).await.unwrap();
    let keep = |i: usize| i > 10 && i % 7 != 6 && i.is_multiple_of(3) && i % 5 != 4;
    assert_eq!(first(&output), nearest("docs", 5, keep)[2..]);
    assert_eq!(
        docs.asked(),
        ["search [1.0, 2.0, 0.5, -0.5] k 5 columns [0] filter \"year\" >= 2011 AND section = 'a'"]
    );
}

#[tokio::test]
async fn fewer_rows_than_k_are_all_returned() {
    let output = run("SELECT id FROM docs WHERE section = 'a' AND id IN ('d0', 'd3', 'd1') \
                      ORDER BY cosine_distance(vector, $1) LIMIT 100")
    .await;
    let mut ids = first(&output);
    ids.sort();
    assert_eq!((ids, output.stats.searches), (vec!["d0".to_owned(), "d3".to_owned()], 1));
}

/// The distance is a column of the search: it is not computed again.
#[tokio::test]
async fn distances_are_the_searchs_own() {
    let output =
        run("SELECT cosine_distance(vector, $1) AS d, 1 - cosine_distance(vector, $1) AS s, id FROM docs \
                      ORDER BY d LIMIT 4")
        .await;
    let batch = &output.batches[0];
    let (d, s) = (batch.column(0).as_primitive::<Float32Type>(), batch.column(1));
    assert_eq!(output.schema.field(0).data_type(), &DataType::Float32);
    assert!(!output.schema.field(0).is_nullable());
    assert_eq!(s.len(), 4);
    let catalog = tables();
    for (i, id) in batch.column(2).as_string::<i32>().iter().enumerate() {
        let row: usize = id.unwrap()[1..].parse().unwrap();
        assert_eq!(d.value(i), catalog.0[0].1.distance(&Q, row));
    }
    let output = run("SELECT inner_product(vector, $1) AS s FROM dots ORDER BY s DESC LIMIT 1").await;
    let s = output.batches[0].column(0).as_primitive::<Float32Type>().value(0);
    assert!(s > 0.0, "{s}");
}

/// Searches inside larger queries.
#[tokio::test]
async fn searches_are_parts_of_larger_queries() {
    let best = nearest("docs", 5, |_| true);
    let top = "(SELECT id, year, section, cosine_distance(vector, $1) AS d FROM docs ORDER BY d LIMIT 5)";
    for (text, searches) in [
        (format!("SELECT count(*), min(d) FROM {top}"), 1),
        (format!("SELECT section, avg(d) FROM {top} GROUP BY section"), 1),
        (format!("SELECT t.id, f.year FROM {top} t JOIN flat f ON t.id = f.id"), 1),
        (format!("SELECT id, row_number() OVER (PARTITION BY section ORDER BY d) FROM {top}"), 1),
        (format!("SELECT id FROM {top} UNION ALL SELECT id FROM {top}"), 2),
        (format!("WITH t AS {top} SELECT a.id FROM t a JOIN t b ON a.d < b.d"), 2),
        (format!("SELECT id FROM flat WHERE id IN (SELECT id FROM {top})"), 1),
        (format!("SELECT id FROM {top} WHERE year > 2000"), 1),
    ] {
        let output = run(&text).await;
        assert_eq!(output.stats.searches, searches, "{text}\n{}", plan_of(&text).await);
    }
    assert_eq!(first(&run(&format!("SELECT count(*) FROM {top}")).await), ["5"]);
    // A condition above the limit does not move below it.
    let late = run(&format!("SELECT id FROM {top} WHERE id <> '{}'", best[0])).await;
    let mut ids = first(&late);
    ids.sort();
    let mut expected = best[1..].to_vec();
    expected.sort();
    assert_eq!(ids, expected);
}

/// A bound on the distance keeps the nearest rows nearest.
#[tokio::test]
async fn bounds_on_the_distance_are_searches() {
    let catalog = tables();
    let docs = &catalog.0[0].1;
    let near = |x: f32| nearest("docs", 4, |i| docs.distance(&Q, i) < x && i > 3);
    for (text, expected) in [
        (
            "SELECT id FROM docs WHERE cosine_distance(vector, $1) < 0.2 AND _seq > 4 ORDER BY cosine_distance(vector, $1) LIMIT 4",
            near(0.2),
        ),
        (
            "SELECT id, cosine_distance(vector, $1) AS d FROM docs WHERE 0.05 > cosine_distance(vector, $1) AND _seq > 4 ORDER BY d LIMIT 4",
            near(0.05),
        ),
        (
            "SELECT id FROM (SELECT id, _seq, cosine_distance(vector, $1) AS d FROM docs) WHERE d < 0.05 AND _seq > 4 ORDER BY d LIMIT 4",
            near(0.05),
        ),
        (
            "SELECT id FROM dots WHERE inner_product(vector, $1) > 10 ORDER BY inner_product(vector, $1) DESC LIMIT 3",
            {
                let dots = &catalog.0[2].1;
                nearest("dots", 3, |i| dots.distance(&Q, i) < -10.0)
            },
        ),
    ] {
        let output = run(text).await;
        assert_eq!(output.stats.searches, 1, "{text}\n{}", plan_of(text).await);
        assert_eq!(first(&output), expected, "{text}");
    }
    for text in [
        "SELECT id FROM docs WHERE cosine_distance(vector, $1) > 0.2 ORDER BY cosine_distance(vector, $1) LIMIT 4",
        "SELECT id FROM docs WHERE cosine_distance(vector, [1, 0, 0, 0]) < 0.2 ORDER BY cosine_distance(vector, $1) LIMIT 4",
    ] {
        assert_eq!(run(text).await.stats.searches, 0, "{text}");
    }
}

/// What the index cannot answer is scanned, with the same meaning.
#[tokio::test]
async fn everything_else_is_an_exact_scan() {
    for (text, expected) in [
        ("SELECT id FROM docs ORDER BY l2_distance(vector, $1) LIMIT 3", nearest("flat", 3, |_| true)),
        ("SELECT id FROM docs ORDER BY cosine_distance(vector, $1)", nearest("docs", 40, |_| true)),
        (
            "SELECT id FROM docs ORDER BY cosine_distance(vector, $1), id LIMIT 3",
            nearest("docs", 3, |_| true),
        ),
        (
            "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) DESC LIMIT 1",
            nearest("docs", 40, |_| true)[39..].to_vec(),
        ),
        (
            "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 10000 OFFSET 1",
            nearest("docs", 40, |_| true)[1..].to_vec(),
        ),
        (
            "SELECT id FROM (SELECT id, vector, year AS __distance FROM docs) ORDER BY cosine_distance(vector, $1), __distance LIMIT 2",
            nearest("docs", 2, |_| true),
        ),
        (
            "SELECT id FROM (SELECT * FROM docs LIMIT 40) ORDER BY cosine_distance(vector, $1) LIMIT 2",
            nearest("docs", 2, |_| true),
        ),
        (
            "SELECT id FROM docs WHERE l2_distance(vector, $1) > 0 ORDER BY cosine_distance(vector, $1) LIMIT 2",
            nearest("docs", 2, |_| true),
        ),
    ] {
        let output = run(text).await;
        assert_eq!((output.stats.searches, output.stats.scans), (0, 1), "{text}");
        assert_eq!(first(&output), expected, "{text}");
    }
}

#[tokio::test]
async fn scans_get_projection_filter_and_limit() {
    let catalog = tables();
    let docs = catalog.0[0].1.clone();
    for (text, expected) in [
        ("SELECT year FROM docs WHERE section = 'a' LIMIT 2", "scan [3] filter section = 'a' limit Some(2)"),
        ("SELECT count(section) FROM docs", "scan [2] filter - limit None"),
        ("SELECT count(*) FROM docs WHERE year > 2010", "scan [] filter \"year\" > 2010 limit None"),
        (
            "SELECT id FROM docs WHERE _timestamp >= 5000 AND id LIKE 'd1%'",
            "scan [0] filter _timestamp >= CAST('1970-01-01T00:00:05+00:00' AS TIMESTAMP) AND id LIKE 'd1%' limit None",
        ),
    ] {
        run_on(catalog.clone(), text, &[]).await.unwrap();
        let asked = docs.asked();
        assert_eq!(asked.len(), 1, "{text}: {asked:?}");
        assert_eq!(asked[0], expected, "{text}");
    }
    run_on(catalog.clone(), "SELECT count(*) FROM docs", &[]).await.unwrap();
    assert!(docs.asked().is_empty(), "the row count is known");
}
