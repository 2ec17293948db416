//! `EXPLAIN` says how a query is answered.

use super::*;

async fn explained(text: &str) -> String {
    let output = run(&format!("EXPLAIN {text}")).await;
    let mut shown = format!("{text}\n");
    for batch in &output.batches {
        let (kind, plan) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for i in 0..batch.num_rows() {
            shown += &format!("-- {}\n{}", kind.value(i), plan.value(i));
            if !shown.ends_with('\n') {
                shown.push('\n');
            }
        }
    }
    shown
}

#[tokio::test]
async fn plans() {
    let mut shown = String::new();
    for text in [
        "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 10",
        "SELECT id, cosine_distance(vector, $1) AS d FROM docs WHERE year > 2020 AND section = 'a' ORDER BY d LIMIT 3 OFFSET 2",
        "SELECT id, inner_product(vector, $1) AS s FROM dots ORDER BY s DESC LIMIT 3",
        "SELECT id FROM docs ORDER BY l2_distance(vector, $1) LIMIT 3",
        "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 20000",
        "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) DESC LIMIT 3",
        "SELECT id FROM docs ORDER BY cosine_distance(vector, $1), id LIMIT 3",
        "SELECT id FROM docs WHERE l2_distance(vector, $1) < 1 ORDER BY cosine_distance(vector, $1) LIMIT 3",
        "SELECT section, count(*) FROM docs WHERE year >= 2020 GROUP BY section",
    ] {
        shown += &explained(text).await;
        shown.push('\n');
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn analyze_runs_the_query() {
    let output =
        run("EXPLAIN ANALYZE SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 10").await;
    assert!(table(&output).contains("VectorSearch: docs, metric=cosine, k=10"), "{}", table(&output));
}
