//! WIRE §6: columns, names, types, functions, parameters.

use super::*;

#[tokio::test]
async fn the_table_has_the_columns_of_the_wire() {
    let output = run("SELECT * FROM docs LIMIT 1").await;
    let columns: Vec<String> =
        output.schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    insta::assert_snapshot!(columns.join("\n"));
}

#[tokio::test]
async fn identifiers_keep_their_case() {
    assert_eq!(first(&run("SELECT Rating FROM docs WHERE id = 'd4'").await), ["1.0"]);
    assert_eq!(first(&run("SELECT count(*) FROM \"many-words\"").await), ["3"]);
    let error = run_on(tables(), "SELECT rating FROM docs", &[]).await.unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.hint()),
        ("unknown column rating", Some("did you mean `Rating`?"))
    );
}

#[tokio::test]
async fn functions_compute_the_metrics() {
    let output = run(
        "SELECT cosine_distance([1, 0], [0, 1]), l2_distance([0, 0], [3, 4]), inner_product([1, 2], [3, 4]), \
                      inner_product([1, 0], [0, 1]), cosine_distance([2, 0], [1, 0])",
    )
    .await;
    let batch = &output.batches[0];
    let values: Vec<f32> = batch.columns().iter().map(|c| c.as_primitive::<Float32Type>().value(0)).collect();
    assert_eq!(values, [1.0, 5.0, 11.0, 0.0, 0.0]);
    assert!(output.schema.fields().iter().all(|f| *f.data_type() == DataType::Float32));
}

/// Against the reference of the test's table, over f32 and f16, column and constant in either order, and columns.
#[tokio::test]
async fn functions_agree_with_the_reference() {
    let catalog = tables();
    for (name, function) in [("docs", "cosine_distance"), ("flat", "l2_distance"), ("dots", "inner_product")]
    {
        let memory = &catalog.0.iter().find(|(n, _)| *n == name).unwrap().1;
        for call in [format!("{function}(vector, $1)"), format!("{function}($1, vector)")] {
            let output = run(&format!("SELECT {call} AS d FROM {name}")).await;
            let d = output.batches[0].column(0).as_primitive::<Float32Type>();
            for i in 0..d.len() {
                let expected = memory.distance(&Q, i);
                let expected = if name == "dots" { -expected } else { expected };
                assert!((d.value(i) - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{call} {i}");
            }
        }
    }
    let output =
        run("SELECT max(l2_distance(a.vector, b.vector)) FROM docs a JOIN docs b ON a.id = b.id").await;
    assert_eq!(first(&output), ["0.0"]);
    // An outer join has rows without a vector: only then is a distance null.
    let output = run(
        "SELECT l2_distance(a.vector, b.vector) FROM docs a LEFT JOIN docs b ON a.id = b.section LIMIT 1",
    )
    .await;
    assert_eq!(first(&output), ["-"]);
}

#[tokio::test]
async fn parameters_are_values_of_any_type() {
    let text = "SELECT id FROM docs WHERE year > $2 AND section = $3 AND Rating < $4 ORDER BY cosine_distance(vector, $1) LIMIT $5";
    let params = serde_json::json!([[1, 2, 0.5, -0.5], 2003, "b", 8.5, 2]);
    let params: Vec<Param> = params.as_array().unwrap().iter().map(|v| Param::json(v).unwrap()).collect();
    let output = run_on(tables(), text, &params).await.unwrap();
    assert_eq!((first(&output).len(), output.stats.searches), (2, 1));
    let output = run_on(
        tables(),
        "SELECT array_has($1, section) FROM docs LIMIT 1",
        &[Param::Strings(vec!["a".into()])],
    )
    .await
    .unwrap();
    assert_eq!(first(&output), ["true"]);
    let output = run_on(tables(), "SELECT $1 IS NULL", &[Param::Null]).await.unwrap();
    assert_eq!(first(&output), ["true"]);
    for wrong in [serde_json::json!({}), serde_json::json!([1, "a"]), serde_json::json!([true])] {
        assert_eq!(Param::json(&wrong).unwrap_err().field(), Some("params"));
    }
}

#[tokio::test]
async fn times_are_milliseconds_and_now_is_fixed() {
    assert_eq!(first(&run("SELECT id FROM docs WHERE _timestamp = 3000").await), ["d3"]);
    assert_eq!(first(&run("SELECT id FROM docs WHERE _timestamp = '1970-01-01T00:00:03Z'").await), ["d3"]);
    assert_eq!(
        first(&run("SELECT count(*) FROM docs WHERE _timestamp < now() - interval '1 day'").await),
        ["40"]
    );
    assert_eq!(first(&run("SELECT now() = now()").await), ["true"]);
}

#[tokio::test]
async fn queries_without_rows_have_a_schema() {
    let output = run("SELECT id, year FROM docs WHERE false").await;
    assert_eq!((output.stats.rows, output.schema.fields().len()), (0, 2));
    let output = run("SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 0").await;
    assert_eq!(output.stats.rows, 0);
}

#[tokio::test]
async fn errors_of_the_table_come_through() {
    let error = run_on(tables(), "SELECT * FROM broken", &[]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Unavailable, "the store did not answer in 3 s")
    );
}

#[tokio::test]
async fn memory_is_bounded() {
    let text = "SELECT a.id, b.id, count(*) FROM docs a CROSS JOIN docs b CROSS JOIN docs c GROUP BY 1, 2 ORDER BY 3, 1, 2";
    let error = query(tables(), text, &[], Options { memory: 20_000 }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("memory"), "{error}");
    let text = "SELECT a.id || b.id FROM docs a CROSS JOIN docs b CROSS JOIN docs c";
    let error = query(tables(), text, &[], Options { memory: 100_000 }).await.unwrap_err();
    assert!(error.hint().is_some_and(|h| h.contains("LIMIT")), "{error}");
}

/// A line of text must not set aside what no pool counts.
#[tokio::test]
async fn what_has_no_bound_is_not_there() {
    for text in [
        "SELECT range(0, 100000000000)",
        "SELECT generate_series(0, 100000000000)",
        "SELECT repeat('x', 2000000000)",
        "SELECT lpad('x', 2000000000)",
        "SELECT rpad('x', 2000000000)",
        "SELECT array_repeat(1, 100000000000)",
        "SELECT list_repeat(1, 100000000000)",
        "SELECT array_resize([1], 100000000000)",
        "SELECT list_resize([1], 100000000000)",
    ] {
        let error = query(tables(), text, &[], Options::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{text}: {error}");
        assert!(error.to_string().contains("nvalid function"), "{text}: {error}");
    }
    let text = "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t";
    assert_eq!(query(tables(), text, &[], Options::default()).await.unwrap_err().kind(), Kind::Invalid);
}

/// Joins that grow without end wait now and then, so that whoever drops the query ends it.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "ends a query as a deadline does")]
async fn a_join_of_everything_can_be_ended() {
    let text = "SELECT a.id, b.id, c.id, d.id FROM docs a, docs b, docs c, docs d";
    let error = query(tables(), text, &[], Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("3 joins without an equality"), "{error}");
    let values = (0..2000).map(|i| format!("({i})")).collect::<Vec<_>>().join(",");
    let text = format!(
        "WITH v AS (VALUES {values}) SELECT count(*) FROM v a JOIN v b ON a.column1 <> b.column1 JOIN v c ON b.column1 <> c.column1"
    );
    let late = std::time::Duration::from_millis(300);
    let ended = tokio::time::timeout(late, query(tables(), &text, &[], Options::default())).await;
    assert!(ended.is_err(), "{:?}", ended.map(|r| r.map(|o| o.stats)));
}
