//! The server as a process: keys, addresses, logs, signals.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::Child;

use super::*;

/// A server under way.
struct Serving {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    /// Where HTTP is served.
    http: String,
    /// The line that says so.
    line: String,
}

impl Serving {
    fn new(world: &World, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_esker"))
            .args(["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"])
            .args(args)
            .current_dir(world.dir.path())
            .env_remove("ESKER_LOG")
            .env("ESKER_STORE", "store")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.split("127.0.0.1:").nth(1).unwrap_or_else(|| panic!("{line}"));
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        Serving { child, stderr, http: format!("127.0.0.1:{port}"), line }
    }

    /// Status line, headers and body of the reply.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    /// Sends SIGTERM; what was logged, and the exit code.
    fn stop(mut self) -> (String, Option<i32>) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).unwrap();
        (log, self.child.wait().unwrap().code())
    }
}

/// The key that was printed.
fn key(printed: &str) -> String {
    printed.lines().find(|line| line.starts_with("esk_")).unwrap().to_owned()
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let world = World::new();
    let made = world.run(&[
        "key",
        "create",
        "reports",
        "--scope",
        "read",
        "--collection",
        "notes",
        "--keys",
        "keys",
    ]);
    let secret = key(&made);
    let text = [
        made.replace(&secret, "[key]"),
        world.run(&["key", "create", "reports", "--scope", "admin", "--keys", "keys"]),
        world.run(&["key", "list", "--keys", "keys"]),
        world.run(&["key", "revoke", "reports", "--keys", "keys"]),
        world.run(&["key", "revoke", "reports", "--keys", "keys"]),
        world.run(&["key", "list", "--keys", "keys"]),
    ];
    assert!(text[1..].iter().all(|t| !t.contains(&secret)));
    check("keys", &text.join("\n"));
}

#[test]
fn a_server_is_asked_with_keys_and_stopped() {
    let world = World::new();
    let make = |name: &str, scope: &str| {
        key(&world.run(&["key", "create", name, "--scope", scope, "--keys", "keys"]))
    };
    let (admin, reader) = (make("admin", "admin"), make("reader", "read"));
    let server = Serving::new(&world, &["--keys", "keys", "--log-format", "json"]);
    let started: serde_json::Value = serde_json::from_str(&server.line).unwrap();
    assert_eq!((&started["message"], &started["keys"]), (&"serving".into(), &2.into()), "{started}");
    let create = r#"{"name":"notes","dimension":2,"metric":"l2"}"#;
    let by = |key: &str| format!("authorization: Bearer {key}\r\n");
    assert!(server.ask("GET", "/healthz", "", "").starts_with("HTTP/1.1 200"));
    assert!(server.ask("POST", "/v1/collections", "", create).starts_with("HTTP/1.1 401"));
    assert!(server.ask("POST", "/v1/collections", &by("esk_wrong"), create).starts_with("HTTP/1.1 401"));
    assert!(server.ask("POST", "/v1/collections", &by(&reader), create).starts_with("HTTP/1.1 403"));
    let made = server.ask("POST", "/v1/collections", &by(&admin), create);
    assert!(made.starts_with("HTTP/1.1 20"), "{made}");
    let body = r#"{"records":[{"id":"a","vector":[0,1],"metadata":{"secret":"body-of-a-record"}}]}"#;
    let put = server.ask("POST", "/v1/collections/notes/records?if_absent=true", &by(&admin), body);
    assert!(put.starts_with("HTTP/1.1 200"), "{put}");
    let found = server.ask("POST", "/v1/collections/notes/search", &by(&reader), r#"{"vector":[0,1]}"#);
    assert!(found.starts_with("HTTP/1.1 200") && found.contains("body-of-a-record"), "{found}");
    let (log, code) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    for secret in [&admin, &reader, "esk_wrong", "body-of-a-record", "if_absent"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let upsert = lines.iter().find(|l| l["route"] == "/v1/collections/{collection}/records").unwrap();
    assert_eq!(
        (&upsert["status"], &upsert["key"], &upsert["collection"]),
        (&"200".into(), &"admin".into(), &"notes".into())
    );
    // What was acknowledged is there.
    assert!(world.run(&["get", "notes", "a"]).contains("body-of-a-record"));
}

#[test]
fn a_server_that_anybody_could_use_is_refused() {
    let world = World::new();
    let text = [
        world.run(&["serve", "--http", "0.0.0.0:0"]),
        world.run(&["serve", "--keys", "missing"]),
        world.run(&["serve", "--max-body", "1GiB"]),
        world.run(&["serve", "--tls-cert", "cert.pem"]),
    ];
    check("serve_refusals", &text.join("\n").replace("No such file or directory (os error 2)", "[os error]"));
}

/// Bodies of more than a gateway takes, into a store that signs nothing.
#[test]
fn a_file_is_imported_through_a_server() {
    let world = World::new();
    let vector: Vec<String> = (0..128).map(|d| format!("{d}.5")).collect();
    let rows: Vec<String> = (0..10_200)
        .map(|i| format!(r#"{{"id":"r{i}","vector":[{i},{}],"n":{i}}}"#, vector[1..].join(",")))
        .collect();
    world.write("many.ndjson", &rows.join("\n"));
    world.write("one.key", "esk_wrong\n");
    let printed = world.run(&["key", "create", "loader", "--scope", "admin", "--keys", "keys.json"]);
    world.write("loader.key", &key(&printed));
    let server = Serving::new(&world, &["--keys", "keys.json", "--no-compaction"]);
    let at = format!("http://{}", server.http);
    let import = |key: &str| {
        world.run(&["import", "many.ndjson", "--endpoint", &at, "--key-file", key, "--format", "json"])
    };
    let refused = import("one.key");
    assert!(refused.contains("exit 2") && refused.contains("\"kind\":\"invalid\""), "{refused}");
    let first = import("loader.key");
    assert!(first.contains("\"created\":true") && first.contains("\"skipped\":0"), "{first}");
    let second = import("loader.key");
    assert!(second.contains("\"rows\":10200,\"skipped\":10200"), "{second}");
    let log = world.run(&["wal", "show", "many", "--format", "json"]);
    assert_eq!(log.matches("\"token\":").count(), 2, "{log}");
    let uploads = std::fs::read_dir(world.dir.path().join("store/c/many-1/upload")).unwrap();
    assert!(uploads.count() >= 2, "the larger batch was uploaded");
    let count = world.run(&["sql", "SELECT count(*) AS n FROM many WHERE n >= 0"]);
    assert!(count.contains("10200"), "{count}");
    server.stop();
}
