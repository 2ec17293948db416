//! What SQL refuses, in words that help.

use super::*;

async fn refusal(text: &str, params: &[Param]) -> String {
    let shown: String = text.chars().take(90).collect();
    let error = match run_on(tables(), text, params).await {
        Ok(output) => panic!("{shown}: {}", table(&output)),
        Err(error) => error,
    };
    assert!(matches!(error.kind(), Kind::Invalid | Kind::NotFound), "{shown}: {} {error}", error.kind());
    let hint = error.hint().map(|h| format!("  hint: {h}\n")).unwrap_or_default();
    format!("{shown}\n  {}: {error}\n{hint}", error.kind())
}

#[tokio::test]
async fn only_queries_are_accepted() {
    let mut shown = String::new();
    for text in [
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "COPY docs TO 'out.parquet'",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE DATABASE d",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "INSERT INTO docs (id) VALUES ('x')",
        "UPDATE docs SET year = 1",
        "DELETE FROM docs",
        "TRUNCATE TABLE docs",
        "DROP TABLE docs",
        "ALTER TABLE docs ADD COLUMN x INT",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW TABLES",
        "SHOW ALL",
        "DESCRIBE docs",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "EXPLAIN COPY docs TO 'x'",
        "EXPLAIN ANALYZE INSERT INTO docs (id) VALUES ('x')",
        "SELECT 1; DROP TABLE docs",
        "SELECT * INTO t FROM docs",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM 'file:///etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM information_schema.tables",
        "",
        ";",
        "selec 1",
    ] {
        shown += &refusal(text, &[]).await;
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn wrong_queries_are_explained() {
    let (short, zero) = (Param::Vector(vec![1.0, 2.0]), Param::Vector(vec![0.0; 4]));
    let by = |text: &'static str, param: &Param| (text, vec![param.clone()]);
    let nearest = "SELECT id FROM docs ORDER BY cosine_distance(vector, $1) LIMIT 3";
    let cases = [
        by("SELECT * FROM dcs", &q()),
        by("SELECT * FROM DOCS", &q()),
        by("SELECT * FROM nothing_like_it", &q()),
        by("SELECT * FROM public.docs", &q()),
        by("SELECT sectoin FROM docs", &q()),
        by("SELECT d.sectoin FROM docs d", &q()),
        by("SELECT id FROM docs WHERE nosuch = 1", &q()),
        by("SELECT cosin_distance(vector, $1) FROM docs", &q()),
        by(nearest, &short),
        by(nearest, &zero),
        by(nearest, &Param::Vector(vec![f32::NAN; 4])),
        by(nearest, &Param::String("x".into())),
        by(nearest, &Param::Null),
        by("SELECT id FROM docs ORDER BY cosine_distance(vector, [1, 2, 3]) LIMIT 3", &q()),
        by("SELECT id FROM docs ORDER BY cosine_distance(vector, 3) LIMIT 3", &q()),
        by("SELECT id FROM docs ORDER BY cosine_distance(vector) LIMIT 3", &q()),
        by("SELECT id FROM docs ORDER BY cosine_distance(section, $1) LIMIT 3", &q()),
        by("SELECT cosine_distance([1, 2], [1, 2, 3])", &q()),
        by("SELECT cosine_distance(vector, [1, 2, 3, 1e300]) FROM docs", &q()),
        by("SELECT * FROM docs WHERE year > $2", &q()),
        by("SELECT * FROM docs WHERE year > $name", &q()),
        by("SELECT year FROM docs GROUP BY section", &q()),
        by("SELECT year + section FROM docs", &q()),
        by("SELECT 1 / 0", &q()),
        by("SELECT distance FROM docs", &q()),
    ];
    let mut shown = String::new();
    for (text, params) in cases {
        shown += &refusal(text, &params).await;
    }
    insta::assert_snapshot!(shown);
}

/// Nothing that fits in 64 KiB may abort the process: errors or answers, on the 2 MiB stack of a test thread.
#[tokio::test]
async fn no_nesting_aborts() {
    let wrap = |open: &str, middle: &str, close: &str, n: usize| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    for n in [8, 30, 100, 1_000, 8_000] {
        for text in [
            format!("SELECT {}", wrap("(", "1", ")", n)),
            format!("SELECT {}", wrap("abs(", "year", ")", n) + " FROM docs"),
            format!("SELECT {}", wrap("[", "1", "]", n)),
            format!("SELECT {}", wrap("NOT ", "true", "", n)),
            format!("SELECT {}", wrap("- ", "year", "", n) + " FROM docs"),
            format!("SELECT {}", wrap("CASE WHEN true THEN ", "year", " END", n) + " FROM docs"),
            format!("SELECT year{} FROM docs", "+year".repeat(n)),
            format!("SELECT year{} FROM docs", "::int::bigint".repeat(n / 2)),
            format!("SELECT id FROM docs WHERE {}", vec!["year = 1"; n].join(" OR ")),
            format!("SELECT id FROM docs WHERE {}", vec!["vector[1] > year"; n].join(" AND ")),
            format!("SELECT {} FROM docs", vec!["year > 1"; n].join(" OR ")),
            wrap("SELECT * FROM (", "SELECT 1", ")", n),
            wrap("(", "SELECT 1", ")", n),
            vec!["SELECT 1"; n].join(" UNION ALL "),
            format!(
                "SELECT count(*) FROM {}",
                (0..n).map(|i| format!("(VALUES (1)) t{i}")).collect::<Vec<_>>().join(", ")
            ),
            format!(
                "SELECT count(*) FROM docs t {}",
                (0..n).map(|i| format!("JOIN docs t{i} ON t.id = t{i}.id ")).collect::<String>()
            ),
            format!(
                "WITH {} SELECT 1",
                (0..n).map(|i| format!("t{i} AS (SELECT 1)")).collect::<Vec<_>>().join(", ")
            ),
            wrap("EXPLAIN ", "SELECT 1", "", n),
            format!("SELECT CAST(NULL AS {})", wrap("ARRAY<", "INT", ">", n)),
            format!("SELECT 1 {}", "/*".repeat(n)),
            format!("SELECT id FROM docs WHERE year IN ({})", vec!["1"; n].join(",")),
        ] {
            let shown: String = text.chars().take(50).collect();
            if let Err(error) = run_on(tables(), &text, &[]).await {
                assert_eq!(error.kind(), Kind::Invalid, "{shown}… × {n}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn three_hundred_terms_are_an_error() {
    let text = format!("SELECT id FROM docs WHERE {}", vec!["year = 1"; 300].join(" OR "));
    let error = run_on(tables(), &text, &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "the query has 300 terms, the limit is 256");
}
