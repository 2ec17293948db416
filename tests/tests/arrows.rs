//! The workspace's shape, read from cargo itself: which crate may depend on which, what must not be in the graph at
//! all, and that `cargo run` and `cargo test` build the same libraries.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Normal and build dependencies that each crate may have inside the workspace. `esker-tests` and `esker-benches`
/// are not here: nothing that ships depends on them, and they may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("esker-format", &[]),
    ("esker-index", &[]),
    ("esker-proto", &["esker-format"]),
    ("esker-store", &["esker-format"]),
    ("esker-function", &["esker-format", "esker-store", "esker-proto"]),
    ("esker-ingest", &["esker-format", "esker-store", "esker-proto", "esker-function"]),
    ("esker-compactor", &["esker-format", "esker-store", "esker-index", "esker-function"]),
    ("esker-query", &["esker-format", "esker-store", "esker-index", "esker-proto", "esker-function"]),
    (
        "esker",
        &[
            "esker-format",
            "esker-store",
            "esker-index",
            "esker-proto",
            "esker-ingest",
            "esker-compactor",
            "esker-query",
        ],
    ),
];

/// Packages that only the other crates' suites and measurements use.
const TEST_PACKAGES: &[&str] = &["esker-tests", "esker-benches"];

/// Crates whose Lambda function or library must stay free of the SQL engine.
const WITHOUT_DATAFUSION: &[&str] = &[
    "esker-format",
    "esker-index",
    "esker-proto",
    "esker-store",
    "esker-function",
    "esker-ingest",
    "esker-compactor",
];

/// C libraries and the TLS stacks that bring them; TLS here is rustls with ring.
const BANNED: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"];

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo {args:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// `cargo metadata` for this machine only: other platforms' packages need not have been downloaded.
fn metadata() -> Value {
    let version = cargo(&["-vV"]);
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo -vV names the host");
    let json = cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
    serde_json::from_str(&json).expect("cargo metadata prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("`{key}` is a string"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("`{key}` is a list"))
}

/// Workspace members by name, each with its declared dependencies other than those for its own tests.
fn members(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let ids: BTreeSet<&str> = list(metadata, "workspace_members")
        .iter()
        .map(|id| id.as_str().expect("an id is a string"))
        .collect();
    list(metadata, "packages")
        .iter()
        .filter(|package| ids.contains(text(package, "id")))
        .map(|package| {
            let declared = list(package, "dependencies")
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(dependency, "name"))
                .collect();
            (text(package, "name"), declared)
        })
        .collect()
}

/// Names of all packages that `root` links or builds with, test dependencies left out.
fn reachable<'a>(metadata: &'a Value, root: &str) -> BTreeSet<&'a str> {
    let names: BTreeMap<&str, &str> =
        list(metadata, "packages").iter().map(|p| (text(p, "id"), text(p, "name"))).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|node| (text(node, "id"), node)).collect();
    let start = names.iter().find(|(_, name)| **name == root).map(|(id, _)| *id).expect("a workspace member");
    let mut seen = BTreeSet::from([start]);
    let mut queue = vec![start];
    while let Some(id) = queue.pop() {
        for dependency in list(nodes[id], "deps") {
            let shipped = list(dependency, "dep_kinds").iter().any(|kind| kind["kind"] != "dev");
            if shipped && seen.insert(text(dependency, "pkg")) {
                queue.push(text(dependency, "pkg"));
            }
        }
    }
    seen.into_iter().map(|id| names[id]).collect()
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let metadata = metadata();
    let members = members(&metadata);
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (name, dependencies) in &members {
        if TEST_PACKAGES.contains(name) {
            continue;
        }
        let arrows = allowed.get(name).unwrap_or_else(|| panic!("{name} has no line in ARROWS"));
        for dependency in dependencies.iter().filter(|dependency| members.contains_key(*dependency)) {
            assert!(arrows.contains(dependency), "{name} must not depend on {dependency}");
        }
    }
    for name in allowed.keys().chain(TEST_PACKAGES) {
        assert!(members.contains_key(name), "{name} is not in the workspace");
    }
}

#[test]
fn datafusion_is_in_query_alone() {
    let metadata = metadata();
    for (name, dependencies) in members(&metadata) {
        let direct = dependencies.iter().find(|dependency| dependency.starts_with("datafusion"));
        let may = name == "esker-query" || TEST_PACKAGES.contains(&name);
        assert!(may || direct.is_none(), "{name} depends on {direct:?}");
    }
    for name in WITHOUT_DATAFUSION {
        let found = reachable(&metadata, name).into_iter().find(|package| package.starts_with("datafusion"));
        assert_eq!(found, None, "{name} reaches DataFusion");
    }
    assert!(reachable(&metadata, "esker-query").contains("datafusion"));
}

#[test]
fn no_foreign_tls_in_the_graph() {
    let metadata = metadata();
    let packages: BTreeSet<&str> = list(&metadata, "packages").iter().map(|p| text(p, "name")).collect();
    for banned in BANNED {
        assert!(
            !packages.contains(banned),
            "{banned} is in the graph: `cargo tree -i {banned}` says by whom"
        );
    }
}

/// `name version` to the feature sets it is built with (more than one when build scripts need other features).
fn features(args: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let mut command = vec!["tree", "--locked", "--prefix", "none", "--format", "{p}|{f}"];
    command.extend(args);
    let mut sets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in cargo(&command).lines() {
        let line = line.trim_end_matches(" (*)");
        if let Some((package, features)) = line.rsplit_once('|') {
            sets.entry(package.to_owned()).or_default().insert(features.to_owned());
        }
    }
    sets
}

/// A feature that only the tests switch on rebuilds its package and everything above it: `cargo run` and
/// `cargo test` would each pay a cold build of DataFusion.
#[test]
fn tests_build_the_libraries_that_the_command_uses() {
    let run = features(&["--package", "esker", "--edges", "no-dev"]);
    let test = features(&["--workspace"]);
    for heavy in ["ahash ", "arrow ", "datafusion ", "object_store ", "parquet "] {
        assert!(run.keys().any(|package| package.starts_with(heavy)), "{heavy}is not in the command");
    }
    let mut differing = String::new();
    for (package, sets) in &run {
        let in_tests = test.get(package).cloned().unwrap_or_default();
        for set in sets.difference(&in_tests) {
            differing += &format!("{package}\n  command: {set}\n  tests:   {in_tests:?}\n");
        }
    }
    assert!(differing.is_empty(), "name the missing features in [workspace.dependencies]:\n{differing}");
}
