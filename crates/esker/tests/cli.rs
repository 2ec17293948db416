//! Whole runs of the command, with everything they print. Times, costs, sizes and tokens are replaced.
#![allow(clippy::disallowed_methods, reason = "drives a program and its files")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

#[path = "cli/serve.rs"]
mod serve;

/// Eight rows of three dimensions.
const ROWS: &str = r#"{"id": "a", "vector": [1, 0, 0], "topic": "music", "year": 1990, "tags": ["x", "y"]}
{"id": "b", "vector": [0.9, 0.1, 0], "topic": "music", "year": 2001, "tags": ["x"]}
{"id": "c", "vector": [0.8, 0.3, 0.1], "topic": "sports", "year": 1985, "tags": []}
{"id": "d", "vector": [0, 1, 0], "topic": "sports", "year": 2010, "tags": ["z"]}
{"id": "e", "vector": [0, 0.9, 0.2], "topic": "travel", "year": 1999, "tags": ["y"]}
{"id": "f", "vector": [0, 0, 1], "topic": "travel", "year": 2020}
{"id": "g", "vector": [0.1, 0, 0.9], "topic": "travel", "year": 1970, "tags": ["x", "z"]}
{"id": "h", "vector": [0.5, 0.5, 0.5], "topic": null, "year": 2005, "tags": ["y", "z"]}
"#;

/// What differs from run to run.
const FILTERS: [(&str, &str); 10] = [
    (r"\d+ waves? · .*\$\d+\.\d+( · .* from cache)?", "[cost]"),
    (r"\b[0-9a-f]{32}\b", "[token]"),
    (r"\d+\.\d s, [\d,]+ rows/s", "[time]"),
    (r"\b\d{13}\b", "[ms]"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC", "[time]"),
    (r"[\d.]+ (B|kB|MB)\b", "[size]"),
    (r#""took_ms":[\d.]+"#, r#""took_ms":"[ms]""#),
    (r#""io":\{[^}]*\}"#, r#""io":"[io]""#),
    (r#""([a-z]*(_size|_crc|bytes|_ms|bytes_written))":[\d.]+"#, r#""$1":"[number]""#),
    (r"[\d,]+ per second, p50 [\d.]+ ms, p99 [\d.]+ ms", "[speed]"),
];

struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        World { dir: tempfile::tempdir().unwrap() }
    }

    /// With the eight rows in a collection `rows`, compacted.
    fn with_rows() -> Self {
        let world = Self::new();
        world.write("rows.ndjson", ROWS);
        assert!(world.run(&["import", "rows.ndjson", "--compact"]).contains("exit 0"));
        world
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> String {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_esker"))
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("ESKER_LOG")
            .env("ESKER_STORE", "store")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let shown: Vec<String> =
            args.iter().map(|a| if a.contains(' ') { format!("\"{a}\"") } else { (*a).to_owned() }).collect();
        let mut text = format!("$ esker {}\n", shown.join(" "));
        text.push_str(&String::from_utf8(out.stdout).unwrap());
        let stderr = String::from_utf8(out.stderr).unwrap();
        stderr.lines().for_each(|line| text.push_str(&format!("! {line}\n")));
        text.push_str(&format!("exit {}\n", out.status.code().unwrap()));
        text.replace(&self.dir.path().display().to_string(), "[dir]")
    }

    fn runs(&self, all: &[&[&str]]) -> String {
        all.iter().map(|args| self.run(args)).collect::<Vec<_>>().join("\n")
    }
}

fn check(name: &str, text: &str) {
    insta::with_settings!({ filters => FILTERS.to_vec(), omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn help() {
    let world = World::new();
    let mut text = world.run(&["--help"]);
    for command in [
        "demo",
        "collection create",
        "collection list",
        "collection describe",
        "collection drop",
        "import",
        "export",
        "search",
        "get",
        "delete",
        "sql",
        "eval",
        "cost",
        "compact",
        "manifest show",
        "wal show",
        "segment show",
        "doctor",
        "verify",
        "serve",
        "key create",
        "key list",
        "key revoke",
    ] {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--help");
        let help = world.run(&args);
        assert!(help.contains("Example"), "{command} --help has no example");
        text.push_str(&format!("\n{help}"));
    }
    check("help", &text);
}

#[test]
fn demo() {
    let world = World::new();
    let tour = world.run(&["demo"]);
    assert!(tour.ends_with("exit 0\n"), "{tour}");
    check("demo", &tour);
    let again = World::new();
    again.run(&["demo"]);
    check("demo_twice", &again.run(&["demo"]));
    let json = World::new().run(&["demo", "--format", "json"]);
    let line = json.lines().find(|l| l.starts_with('{')).unwrap();
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(value["imported"]["rows"], 440);
    assert_eq!(value["questions"][0]["hits"][0]["id"], "note-0043");
}

#[test]
fn demo_leaves_nothing_behind() {
    let world = World::new();
    let tmp = world.dir.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_esker"))
        .arg("demo")
        .current_dir(world.dir.path())
        .env("TMPDIR", &tmp)
        .env_remove("ESKER_STORE")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 1);
}

#[test]
fn collections() {
    let world = World::new();
    check(
        "collections",
        &world.runs(&[
            &[
                "collection",
                "create",
                "notes",
                "--dimension",
                "3",
                "--column",
                "year=int",
                "--column",
                "text=string",
            ],
            &["collection", "create", "other", "--dimension", "8", "--metric", "l2", "--vector-type", "f16"],
            &["collection", "list"],
            &["collection", "describe", "notes"],
            &["collection", "describe", "notes", "--format", "json"],
            &["collection", "drop", "other"],
            &["collection", "list", "--format", "json"],
            &["collection", "drop", "other"],
        ]),
    );
}

#[test]
fn import_and_compact() {
    let world = World::new();
    world.write("rows.ndjson", ROWS);
    check(
        "import",
        &world.runs(&[
            &["import", "rows.ndjson"],
            &["import", "rows.ndjson", "--format", "json"],
            &["collection", "describe", "rows"],
            &["compact", "rows"],
            &["compact", "rows"],
            &[
                "import",
                "rows.ndjson",
                "--into",
                "l2",
                "--metric",
                "l2",
                "--skip-column",
                "tags",
                "--compact",
            ],
            &["collection", "describe", "l2"],
        ]),
    );
}

#[test]
fn search() {
    let world = World::with_rows();
    world.write("query.json", "[0, 0.2, 1]");
    check(
        "search",
        &world.runs(&[
            &["search", "rows", "--like", "a", "-k", "3"],
            &["search", "rows", "--vector", "[0, 1, 0.1]", "-k", "2", "--include", "topic"],
            &["search", "rows", "--vector-file", "query.json", "--filter", "year < 2000", "--explain"],
            &["search", "rows", "--like", "h", "--filter", r#"{"tags": {"$contains": "z"}}"#],
            &["search", "rows", "--like", "a", "--max-distance", "0.1", "--min-recall", "0.9"],
            &["search", "rows", "--like", "a", "--filter", "topic = 'chess'"],
            &["search", "rows", "--like", "a", "-k", "1", "--format", "json"],
        ]),
    );
}

#[test]
fn get_and_delete() {
    let world = World::with_rows();
    let mut text = world.runs(&[
        &["get", "rows", "a", "b", "--vector"],
        &["get", "rows", "a", "nobody"],
        &["delete", "rows", "a", "nobody"],
        &["get", "rows", "a", "--format", "json"],
    ]);
    text.push_str(&world.run_with(&["delete", "rows", "-"], "b\nc\n"));
    text.push_str(&world.run_with(&["delete", "rows", "-"], ""));
    text.push_str(&world.run(&["search", "rows", "--vector", "[1, 0, 0]", "-k", "2"]));
    check("get_and_delete", &text);
}

#[test]
fn delete_by_filter() {
    let world = World::with_rows();
    let text = world.runs(&[
        &["delete", "rows", "--filter", "topic = 'music' AND year < 2000"],
        &["delete", "rows", "--filter", r#"{"topic": "nothing"}"#, "--format", "json"],
        &["delete", "rows", "--filter", "colour = 'red'"],
        &["delete", "rows", "a", "--filter", "year > 1"],
        &["delete", "rows"],
        &["sql", "SELECT count(*) FROM rows WHERE topic = 'music' AND year < 2000"],
    ]);
    check("delete_by_filter", &text);
}

#[test]
fn sql() {
    let world = World::with_rows();
    check(
        "sql",
        &world.runs(&[
            &["sql", "SELECT topic, count(*) AS n, max(year) AS newest FROM rows GROUP BY topic ORDER BY n DESC, topic"],
            &["sql", "SELECT id, round(cosine_distance(vector, $1), 4) AS d FROM rows ORDER BY cosine_distance(vector, $1) LIMIT 2", "-p", "[0, 0, 1]"],
            &["sql", "SELECT id, tags, vector FROM rows WHERE topic = $1 ORDER BY id", "-p", "travel"],
            &["sql", "SELECT id, year FROM rows WHERE id < 'c' ORDER BY id", "--format", "json"],
            &["sql", "EXPLAIN SELECT id FROM rows WHERE year > 1990 ORDER BY cosine_distance(vector, [1, 0, 0]) LIMIT 2"],
            &["sql", "SELECT id FROM rows WHERE year > 3000"],
        ]),
    );
}

#[test]
fn export() {
    let world = World::with_rows();
    let mut text = world.run(&["export", "rows", "out.txt"]);
    for file in ["out.ndjson", "out.parquet", "out.arrow"] {
        let into = file.replace("out.", "");
        text.push_str(&world.run(&["export", "rows", file]));
        text.push_str(&world.run(&["import", file, "--into", &into]));
        let query = format!(
            "SELECT count(*) AS same FROM rows a JOIN {into} b ON a.id = b.id AND a._timestamp = b._timestamp"
        );
        text.push_str(&world.run(&["sql", &query]));
    }
    text.push_str(&world.run(&[
        "export",
        "rows",
        "some.ndjson",
        "--filter",
        "topic = 'music' AND year = 1990",
    ]));
    text.push_str(&std::fs::read_to_string(world.dir.path().join("some.ndjson")).unwrap());
    check("export", &text);
    assert!(
        !std::fs::read_dir(world.dir.path())
            .unwrap()
            .any(|f| { f.unwrap().file_name().to_string_lossy().starts_with(".esker") })
    );
}

#[test]
fn eval() {
    let world = World::with_rows();
    world.run(&["export", "rows", "queries.parquet"]);
    check(
        "eval",
        &world.runs(&[
            &["eval", "rows", "queries.parquet", "-k", "3"],
            &[
                "eval",
                "rows",
                "queries.parquet",
                "-k",
                "3",
                "--filter",
                "year > 1990",
                "--threads",
                "2",
                "--min-recall",
                "0.9",
            ],
            &["eval", "rows", "queries.parquet", "-k", "3", "--limit", "2", "--cold"],
        ]),
    );
    let json = world.run(&["eval", "rows", "queries.parquet", "-k", "20", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
    for key in ["queries", "k", "recall", "min_rows", "qps", "p50_ms", "p99_ms", "waves", "gets", "bytes"] {
        assert!(value[key].is_number(), "{key} is missing");
    }
    assert_eq!((value["recall"].as_f64(), value["min_rows"].as_u64()), (Some(1.0), Some(8)));
}

#[test]
fn verify() {
    let world = World::with_rows();
    world.run(&["delete", "rows", "a"]);
    let sound = world.run(&["verify", "rows"]);
    let rows = ": 7 live rows, 8 in segments and 0 in log entries 2 to 2";
    assert!(
        sound.contains("rows-1: sound at version") && sound.contains(rows) && sound.ends_with("exit 0\n"),
        "{sound}"
    );
    let all = world.run(&["verify", "--deep", "--format", "json"]);
    let value: serde_json::Value =
        serde_json::from_str(all.lines().find(|l| l.starts_with('{')).unwrap()).unwrap();
    assert_eq!(value["collections"][0]["rows"]["live"], 7);
    assert_eq!(value["collections"][0]["findings"], serde_json::json!([]));
    world.write("store/c/rows-1/stray", "what is this");
    let corrupt = world.run(&["verify", "rows"]);
    assert!(corrupt.contains("format: c/rows-1/stray: it is no object of this format"), "{corrupt}");
    assert!(corrupt.contains("error: 1 violation found") && corrupt.ends_with("exit 3\n"), "{corrupt}");
    assert!(world.run(&["verify", "row"]).contains("hint: this store has rows"));
}

#[test]
fn look_inside() {
    let world = World::with_rows();
    world.run(&["delete", "rows", "a"]);
    check(
        "look_inside",
        &world.runs(&[
            &["manifest", "show", "rows", "--version", "1"],
            &["manifest", "show", "rows", "--format", "json"],
            &["manifest", "show", "rows", "--version", "9"],
            &["wal", "show", "rows"],
            &["wal", "show", "rows", "1", "--format", "json"],
            &["wal", "show", "rows", "7"],
            &["segment", "show", "rows"],
            &["segment", "show", "rows", "3"],
        ]),
    );
}

#[test]
fn doctor() {
    let world = World::new();
    check("doctor", &world.runs(&[&["doctor"], &["doctor", "--format", "json"]]));
}

#[test]
fn refusals() {
    let world = World::with_rows();
    world.write("other.ndjson", "{\"id\": \"a\", \"vector\": [1, 2]}\n{\"id\": \"b\", \"vector\": [3, 4]}\n");
    world.write("bad.json", "[1, 2, oops]");
    let terms = vec!["year = 1"; 300].join(" OR ");
    let mut text = world.runs(&[
        &["search", "rows", "--vector", "[1, 2]"],
        &["search", "rows", "--vector", "[0, 0, 0]"],
        &["search", "rows", "--vector", "[1, 2, 1e99]"],
        &["search", "rows", "--vector", "1, 2, 3"],
        &["search", "rows", "--vector-file", "bad.json"],
        &["search", "rows", "--vector-file", "none.json"],
        &["search", "rows", "--like", "nobody"],
        &["search", "rows", "--like", "a", "-k", "0"],
        &["search", "rows", "--like", "a", "--min-recall", "2"],
        &["search", "rows", "--like", "a", "--include", "topics"],
        &["search", "rows", "--like", "a", "--filter", "yaer > 1990"],
        &["search", "rows", "--like", "a", "--filter", "year > 'x'"],
        &["search", "rows", "--like", "a", "--filter", "{\"year\": {\"$near\": 3}}"],
        &["search", "rows"],
        &["search", "row", "--like", "a"],
        &["get", "row", "a"],
        &["delete", "row", "a"],
        &["compact", "row"],
        &["collection", "create", "rows", "--dimension", "3"],
        &["collection", "create", "Rows!", "--dimension", "3"],
        &["collection", "create", "big", "--dimension", "9000"],
        &["collection", "create", "odd", "--dimension", "3", "--metric", "manhattan"],
        &["collection", "create", "odd", "--dimension", "3", "--column", "vector=int"],
        &["collection", "create", "odd", "--dimension", "3", "--column", "year"],
        &["import", "none.parquet"],
        &["import", "other.ndjson", "--into", "rows"],
        &["import", "rows.ndjson", "--id-column", "year", "--vector-column", "nope"],
        &["export", "row", "x.parquet"],
        &["eval", "rows", "rows.ndjson"],
        &["sql", "COPY rows TO 'x.csv'"],
        &["sql", "SET a = 1"],
        &["sql", "CREATE TABLE x AS SELECT 1"],
        &["sql", "SELECT * FROM 'rows.ndjson'"],
        &["sql", "SELECT id FROM row"],
        &["sql", "SELECT yaer FROM rows"],
        &["sql", "SELEC id FROM rows"],
        &["sql", "SELECT id FROM rows WHERE year = $1"],
        &["collection", "list", "--store", "nowhere"],
        &["collection", "list", "--store", "ftp://host/x"],
        &["search", "rows", "--like", "a", "--filter", "yaer > 1990", "--format", "json"],
    ]);
    let many = world.run(&["search", "rows", "--like", "a", "--filter", &terms]);
    text.push_str(&many.replace(&terms, "[300 terms]"));
    check("refusals", &text);
}

#[test]
fn a_corrupt_object_is_named() {
    let world = World::with_rows();
    let segments = world.dir.path().join("store/c/rows-1/segment");
    for file in std::fs::read_dir(&segments).unwrap() {
        flip(&file.unwrap().path());
    }
    let text = world.run(&["search", "rows", "--vector", "[1, 0, 0]"]);
    assert!(text.contains("is corrupt") && text.contains("segment/") && text.ends_with("exit 3\n"), "{text}");
}

/// Flips a bit of every byte.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.iter_mut().for_each(|b| *b ^= 1);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_volatile_store_says_so() {
    let world = World::new();
    check("volatile", &world.run(&["collection", "create", "x", "--dimension", "2", "--store", "memory:"]));
    assert!(world.run(&["demo", "--store", "memory:"]).ends_with("exit 0\n"));
}
