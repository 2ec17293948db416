//! What each route and each RPC needs of a key. One table: a route that is not in it is refused.

use http::{HeaderMap, Method};

use super::keys::{Key, Keys, Scope};
use super::refusal::Refusal;

/// What a request reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing that needs a key.
    Open,
    /// The collection that the path names after `/v1/collections/`.
    Path,
    /// The collection that the message names: the service asks [`esker_proto::access::Allowed`].
    Message,
    /// The store as a whole: not for keys that are limited to collections.
    Store,
}

/// How a request's body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One message, read before it is worked on.
    One,
    /// A stream of messages.
    Stream,
}

/// A line of the table.
#[derive(Debug)]
pub struct Rule {
    /// Method; POST for RPCs.
    pub method: Method,
    /// The route's pattern, or `/package.Service/Rpc`; `*` at the end stands for any RPC of a service.
    pub path: &'static str,
    /// What a key must allow.
    pub scope: Scope,
    /// How far it must reach.
    pub reach: Reach,
    /// How the body comes.
    pub shape: Shape,
}

const fn rule(method: Method, path: &'static str, scope: Scope, reach: Reach) -> Rule {
    Rule { method, path, scope, reach, shape: Shape::One }
}

const fn streamed(method: Method, path: &'static str, scope: Scope, reach: Reach) -> Rule {
    Rule { method, path, scope, reach, shape: Shape::Stream }
}

const fn rpc(path: &'static str, scope: Scope, reach: Reach, shape: Shape) -> Rule {
    Rule { method: Method::POST, path, scope, reach, shape }
}

/// Every route of the HTTP port.
pub const ROUTES: &[Rule] = {
    use Reach::{Open, Path, Store};
    use Scope::{Admin, Read, Write};
    &[
        rule(Method::GET, "/healthz", Read, Open),
        rule(Method::GET, "/readyz", Read, Open),
        rule(Method::GET, "/openapi.json", Read, Open),
        rule(Method::GET, "/metrics", Read, Store),
        rule(Method::POST, "/v1/collections", Admin, Store),
        rule(Method::GET, "/v1/collections", Read, Store),
        rule(Method::GET, "/v1/collections/{collection}", Read, Path),
        rule(Method::DELETE, "/v1/collections/{collection}", Admin, Path),
        rule(Method::GET, "/v1/collections/{collection}/stats", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/records", Write, Path),
        rule(Method::PATCH, "/v1/collections/{collection}/records", Write, Path),
        rule(Method::DELETE, "/v1/collections/{collection}/records", Write, Path),
        rule(Method::POST, "/v1/collections/{collection}/uploads", Write, Path),
        streamed(Method::PUT, "/v1/collections/{collection}/uploads/{token}", Write, Path),
        rule(Method::POST, "/v1/collections/{collection}/uploads/{token}/commit", Write, Path),
        rule(Method::GET, "/v1/collections/{collection}/records/{id}", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/records/get", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/records/scan", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/records/count", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/search", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/warm", Read, Path),
        rule(Method::POST, "/v1/collections/{collection}/compact", Write, Path),
        rule(Method::POST, "/v1/sql", Read, Store),
    ]
};

/// Every RPC of the gRPC port.
pub const RPCS: &[Rule] = {
    use Reach::{Message, Open, Store};
    use Scope::{Admin, Read, Write};
    use Shape::{One, Stream};
    &[
        rpc("/grpc.health.v1.Health/Check", Read, Open, One),
        rpc("/grpc.health.v1.Health/Watch", Read, Open, Stream),
        rpc("/grpc.health.v1.Health/List", Read, Open, One),
        rpc("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Read, Open, Stream),
        rpc("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Read, Open, Stream),
        rpc("/esker.v1.Ingest/CreateCollection", Admin, Store, One),
        rpc("/esker.v1.Ingest/DropCollection", Admin, Message, One),
        rpc("/esker.v1.Ingest/Upsert", Write, Message, One),
        rpc("/esker.v1.Ingest/UpsertStream", Write, Message, Stream),
        rpc("/esker.v1.Ingest/Patch", Write, Message, One),
        rpc("/esker.v1.Ingest/Delete", Write, Message, One),
        rpc("/esker.v1.Query/ListCollections", Read, Store, One),
        rpc("/esker.v1.Query/DescribeCollection", Read, Message, One),
        rpc("/esker.v1.Query/Stats", Read, Message, One),
        rpc("/esker.v1.Query/Get", Read, Message, One),
        rpc("/esker.v1.Query/GetMany", Read, Message, One),
        rpc("/esker.v1.Query/Scan", Read, Message, One),
        rpc("/esker.v1.Query/Count", Read, Message, One),
        rpc("/esker.v1.Query/Search", Read, Message, One),
        rpc("/esker.v1.Query/SearchStream", Read, Message, One),
        rpc("/esker.v1.Query/Sql", Read, Store, One),
        rpc("/esker.v1.Query/Warm", Read, Message, One),
        rpc("/esker.v1.Query/DeleteByFilter", Write, Message, One),
        rpc("/esker.v1.Admin/Compact", Write, Message, One),
    ]
};

/// The rule of a route of the HTTP port.
pub fn route(method: &Method, pattern: &str) -> Option<&'static Rule> {
    // axum answers HEAD from the route of GET.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().find(|r| r.method == *method && same(r.path, pattern))
}

/// Whether any method of this route is in the table.
pub fn has_route(pattern: &str) -> bool {
    ROUTES.iter().any(|r| same(r.path, pattern))
}

/// The methods of a route, for the header `allow`.
pub fn methods(pattern: &str) -> String {
    let all = ROUTES.iter().filter(|r| same(r.path, pattern));
    all.map(|r| r.method.as_str()).collect::<Vec<_>>().join(", ")
}

/// The rule of an RPC.
pub fn rpc_rule(path: &str) -> Option<&'static Rule> {
    RPCS.iter().find(|r| r.path == path)
}

/// Patterns are equal whatever their parameters are called.
fn same(a: &str, b: &str) -> bool {
    let mut sides = (a.split('/'), b.split('/'));
    loop {
        match (sides.0.next(), sides.1.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || (a.starts_with('{') && b.starts_with('{')) => {}
            _ => return false,
        }
    }
}

/// The collection that a path names.
pub fn collection(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/collections/")?.split('/').next().filter(|name| !name.is_empty())
}

/// Checks a request against the keys: the key it came with.
///
/// # Errors
/// 401 without a key that is known, 403 with one that does not reach; both say nothing of what exists.
pub fn check(
    keys: &Keys,
    rule: &Rule,
    headers: &HeaderMap,
    path: &str,
) -> Result<std::sync::Arc<Key>, Refusal> {
    let key = presented(headers).and_then(|key| keys.ring().find(key)).ok_or_else(Refusal::unauthorized)?;
    if key.scope < rule.scope {
        return Err(Refusal::forbidden(&format!("scope {}", rule.scope)));
    }
    let reaches = match rule.reach {
        Reach::Open | Reach::Message => true,
        Reach::Path => key.reaches(collection(path)),
        Reach::Store => key.reaches(None),
    };
    match reaches {
        true => Ok(key),
        false => Err(Refusal::forbidden("another key's collections")),
    }
}

/// The key of a request. Two different ones are none.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get("x-api-key").map(|v| v.to_str().unwrap_or_default());
    let bearer = headers.get(http::header::AUTHORIZATION).map(|value| {
        let (scheme, key) = value.to_str().unwrap_or_default().split_once(' ').unwrap_or_default();
        if scheme.eq_ignore_ascii_case("bearer") { key.trim() } else { "" }
    });
    match (bearer, header) {
        (Some(bearer), Some(header)) if bearer != header => None,
        (bearer, header) => bearer.or(header),
    }
}

#[cfg(test)]
mod tests;
