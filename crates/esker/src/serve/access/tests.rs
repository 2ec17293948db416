use http::HeaderValue;

use super::*;

#[test]
fn patterns_match_whatever_their_parameters_are_called() {
    assert!(route(&Method::GET, "/v1/collections/{c}").is_some());
    assert!(route(&Method::HEAD, "/healthz").is_some());
    assert!(route(&Method::PUT, "/healthz").is_none());
    assert!(route(&Method::GET, "/v1/collections/{c}/nothing").is_none());
    assert!(has_route("/v1/collections/{c}/records") && !has_route("/v1"));
    assert_eq!(methods("/v1/collections/{c}"), "GET, DELETE");
}

#[test]
fn the_collection_of_a_path() {
    assert_eq!(collection("/v1/collections/notes/search"), Some("notes"));
    assert_eq!(collection("/v1/collections/notes"), Some("notes"));
    assert_eq!(collection("/v1/collections/"), None);
    assert_eq!(collection("/v1/sql"), None);
}

#[test]
fn a_route_is_in_the_table_once() {
    for rules in [ROUTES, RPCS] {
        for (i, a) in rules.iter().enumerate() {
            assert!(!rules[..i].iter().any(|b| a.method == b.method && same(a.path, b.path)), "{}", a.path);
        }
    }
}

#[test]
fn a_change_needs_more_than_read() {
    for r in ROUTES.iter().filter(|r| [Method::DELETE, Method::PATCH, Method::PUT].contains(&r.method)) {
        assert!(r.scope > Scope::Read, "{}", r.path);
    }
}

#[test]
fn a_key_comes_in_either_header_and_not_in_two_forms() {
    let headers = |all: &[(&'static str, &'static str)]| {
        all.iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect::<HeaderMap>()
    };
    assert_eq!(presented(&headers(&[("authorization", "Bearer a")])), Some("a"));
    assert_eq!(presented(&headers(&[("authorization", "bearer a")])), Some("a"));
    assert_eq!(presented(&headers(&[("x-api-key", "a")])), Some("a"));
    assert_eq!(presented(&headers(&[("x-api-key", "a"), ("authorization", "Bearer a")])), Some("a"));
    assert_eq!(presented(&headers(&[("x-api-key", "a"), ("authorization", "Bearer b")])), None);
    assert_eq!(presented(&headers(&[("authorization", "Basic a")])), Some(""));
    assert_eq!(presented(&headers(&[])), None);
}
