//! `docs/http.md` as it stands: its requests, and their replies.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};

use super::fixture::App;

const PAGE: &str = include_str!("../../../../../docs/http.md");

/// The words of a command line: quotes are the shell's.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (' ', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            (c, _) => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Sends what curl would.
async fn curl(app: &App, line: &str) -> String {
    let mut words = words(line).into_iter();
    let mut request = Request::builder();
    let (mut method, mut body, mut accept) = (None, None, "application/json".to_owned());
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word.as_str() {
            "$" | "curl" => {}
            "-X" => method = Some(value().parse::<Method>().unwrap()),
            "--json" => body = Some(value()),
            "-H" => match value().split_once(": ").unwrap() {
                ("Accept", given) => accept = given.to_owned(),
                (name, given) => request = request.header(name, given),
            },
            url => request = request.uri(url.strip_prefix("localhost:5678").unwrap()),
        }
    }
    let usual = if body.is_some() { Method::POST } else { Method::GET };
    let request = request.method(method.unwrap_or(usual)).header(ACCEPT, accept);
    let request = request.header(CONTENT_TYPE, "application/json").body(body.unwrap_or_default().into());
    app.send(request.unwrap()).await.text().trim_end().to_owned()
}

/// A reply with one value for what differs from run to run, whose form other tests look at.
fn settled(reply: &str) -> String {
    const IO: &str =
        r#""io":{"waves":1,"gets":2,"lists":0,"bytes":0,"cache_hit_bytes":0,"usd":8e-7},"took_ms":0.4}"#;
    let mut settled = match reply.split_once("\"io\":{") {
        Some((before, _)) => format!("{before}{IO}"),
        None => reply.to_owned(),
    };
    for key in ["timestamp", "created_at", "updated_at"] {
        let mut parts = settled.split(&format!("\"{key}\":")).map(str::to_owned).collect::<Vec<_>>();
        for part in parts.iter_mut().skip(1) {
            let digits = part.chars().take_while(char::is_ascii_digit).count();
            part.replace_range(..digits, "1767225600000");
        }
        settled = parts.join(&format!("\"{key}\":"));
    }
    settled
}

/// The page with the replies of today.
async fn page() -> String {
    let app = App::new();
    let (mut out, mut inside) = (String::new(), false);
    for line in PAGE.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            // The reply of before.
            line if inside && !line.starts_with("$ ") => continue,
            _ => {}
        }
        out.push_str(line);
        out.push('\n');
        if inside && line.starts_with("$ ") {
            out.push_str(&settled(&curl(&app, line).await));
            out.push('\n');
        }
    }
    out
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the page is rewritten when a person asks for it")]
async fn the_page_of_http_is_true() {
    let page = page().await;
    if std::env::var("ESKER_REGENERATE").is_ok() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md"), &page).unwrap();
        return;
    }
    for (now, said) in page.lines().zip(PAGE.lines()) {
        assert_eq!(said, now, "ESKER_REGENERATE=1 rewrites docs/http.md");
    }
    assert_eq!(page.lines().count(), PAGE.lines().count());
}

#[test]
fn the_page_of_http_has_every_route() {
    let app = App::new();
    let engine = crate::Engine::new(app.store.clone(), crate::Options::default());
    let service = crate::Service::new(engine, None, crate::sql::Options::default());
    let writes = esker_ingest::http::router(esker_ingest::http::State::new(app.store));
    let document = crate::http::router(service).merge(writes).into_openapi();
    for (path, item) in document.paths.paths {
        let methods = [
            ("GET", item.get.is_some()),
            ("POST", item.post.is_some()),
            ("PATCH", item.patch.is_some()),
            ("DELETE", item.delete.is_some()),
        ];
        for (method, _) in methods.into_iter().filter(|(_, there)| *there) {
            assert!(PAGE.contains(&format!("| `{method} {path}` |")), "docs/http.md lacks {method} {path}");
        }
    }
}
