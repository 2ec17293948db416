//! What every request passes, on both ports alike: a name, a key, admission, its body, a deadline, and an answer in our
//! form whatever happens.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use esker_format::Token;
use esker_proto::access::{Allowed, Named, Until};
use esker_store::Seams;
use futures::FutureExt;
use http::Version;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http_body::Body as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{self, Reach, Rule, Shape};
use super::admission::{Admission, Admitted, drain};
use super::keys::{Keys, Scope};
use super::pace::{Limits, Paced};
use super::refusal::{Refusal, Surface};
use super::reply::{Finish, Watched, grpc_status};
use super::seen::Seen;
use super::trace;

/// Names a request, in and out.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Milliseconds that a client allows.
const TIMEOUT: HeaderName = HeaderName::from_static("x-esker-timeout-ms");
/// The same of gRPC.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The RPCs that write records: their clients may name them.
const NAMED_RPCS: [&str; 3] =
    ["/esker.v1.Ingest/Upsert", "/esker.v1.Ingest/Patch", "/esker.v1.Ingest/Delete"];
/// Longest request id that is taken over from a client.
const ID_BYTES: usize = 128;
/// Memory set aside for a stream of messages, which come one at a time.
const STREAM_BYTES: u64 = esker_format::limits::BATCH_BYTES as u64;

/// What the guards of a server share.
#[derive(Debug)]
pub struct Shell {
    /// Clock and randomness.
    pub seams: Seams,
    /// The keys; none = none are needed.
    pub keys: Option<Keys>,
    /// The limits.
    pub admission: Admission,
    /// Longest that a request may take.
    pub deadline: Duration,
    /// Writes under way: they outlive the client that asked for them.
    pub writes: TaskTracker,
    /// Collections that requests named and found.
    pub seen: Seen,
    /// Fires when the server stops.
    pub stop: CancellationToken,
}

/// The guard of the HTTP port.
pub async fn rest(State(shell): State<Arc<Shell>>, request: Request, next: Next) -> Response {
    shell.guard(Surface::Rest, request, next).await
}

/// The guard of the gRPC port.
pub async fn grpc(State(shell): State<Arc<Shell>>, request: Request, next: Next) -> Response {
    shell.guard(Surface::Grpc, request, next).await
}

impl Shell {
    async fn guard(self: Arc<Self>, surface: Surface, mut request: Request, next: Next) -> Response {
        let mut finish = self.begin(surface, &request);
        if let Ok(id) = finish.id.parse() {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        let mut reply = match self.admit(surface, request, &mut finish).await {
            Ok(Some(ready)) => self.answer(surface, ready, next, &mut finish).await,
            // A fallback of the router: it has no rule and does nothing.
            Ok(None) => Refusal::no_method(access::methods(&finish.route)).into_response(surface),
            Err(refusal) => refusal.into_response(surface),
        };
        finish.status = reply.status().as_u16();
        finish.grpc = grpc_status(reply.headers());
        finish.io = reply.extensions().get().copied();
        if finish.status < 300
            && let Some(name) = &finish.collection
        {
            self.seen.add(name);
        }
        if let Ok(id) = HeaderValue::from_str(&finish.id) {
            reply.headers_mut().insert(REQUEST_ID, id);
        }
        trace::record(&finish.span, &reply);
        let paced = finish.pace.take();
        reply.map(|body| {
            let body = match paced {
                Some(limits) if !body.is_end_stream() => {
                    let clock = self.seams.clock.clone();
                    Body::new(Paced::new(body, finish.admitted.take(), limits, clock))
                }
                _ => body,
            };
            Body::new(Watched::new(body, finish))
        })
    }

    /// What is known of a request by its head.
    fn begin(&self, surface: Surface, request: &Request) -> Finish {
        let id = request.headers().get(&REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|id| fit(id));
        let id = id.map_or_else(|| self.seams.token().to_string(), str::to_owned);
        let route = match surface {
            Surface::Rest => request.extensions().get::<MatchedPath>().map(MatchedPath::as_str),
            Surface::Grpc => access::rpc_rule(request.uri().path()).map(|rule| rule.path),
        };
        let collection = access::collection(request.uri().path());
        let collection = collection.filter(|name| esker_format::Name::new(*name).is_ok());
        let route = route.unwrap_or("none").to_owned();
        // Extension methods are whatever a client makes up.
        let method = match request.method().as_str() {
            m @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => m,
            _ => "other",
        };
        let span = trace::span(&route, &id, collection);
        Finish {
            surface,
            id,
            method: method.to_owned(),
            route,
            collection: collection.map(str::to_owned),
            key: None,
            status: 0,
            grpc: None,
            io: None,
            sent: 0,
            complete: false,
            start: self.seams.clock.elapsed(),
            clock: self.seams.clock.clone(),
            admitted: None,
            pace: None,
            span,
        }
    }

    /// Lets a request in, its body read. `None` for a route without this method.
    async fn admit(
        &self,
        surface: Surface,
        request: Request,
        finish: &mut Finish,
    ) -> Result<Option<Ready>, Refusal> {
        let refused = match self.check(surface, &request, finish) {
            Ok(None) => return Ok(None),
            Ok(Some(rule)) if rule.reach == Reach::Open => {
                let limit = self.limit(surface, &request)?;
                return Ok(Some(Ready { request, rule, limit }));
            }
            Ok(Some(rule)) => match self.admission.admit() {
                Ok(admitted) => return self.receive(surface, request, rule, admitted, finish).await,
                Err(refusal) => refusal,
            },
            Err(refusal) => refusal,
        };
        drain(request.into_body(), &*self.seams.clock).await;
        Err(refused)
    }

    /// The rule of a request, if it may go on.
    fn check(
        &self,
        surface: Surface,
        request: &Request,
        finish: &mut Finish,
    ) -> Result<Option<&'static Rule>, Refusal> {
        let rule = match surface {
            Surface::Grpc => access::rpc_rule(request.uri().path()).ok_or_else(Refusal::no_route)?,
            Surface::Rest => match access::route(request.method(), &finish.route) {
                Some(rule) => rule,
                None if finish.route == "none" => return Err(Refusal::no_route()),
                None if access::has_route(&finish.route) => return Ok(None),
                None => {
                    tracing::error!(route = finish.route, "a route without a rule is refused");
                    return Err(Refusal::internal());
                }
            },
        };
        if let (Some(keys), true) = (&self.keys, rule.reach != Reach::Open) {
            let key = access::check(keys, rule, request.headers(), request.uri().path())?;
            finish.key = Some(key);
        }
        Ok(Some(rule))
    }

    async fn receive(
        &self,
        surface: Surface,
        request: Request,
        rule: &'static Rule,
        mut admitted: Admitted,
        finish: &mut Finish,
    ) -> Result<Option<Ready>, Refusal> {
        let limit = self.limit(surface, &request)?;
        let (mut parts, body) = request.into_parts();
        let body = match rule.shape {
            Shape::Stream => {
                self.admission.reserve(&mut admitted, STREAM_BYTES)?;
                body
            }
            Shape::One => {
                let announced = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
                let clock = &*self.seams.clock;
                let bytes = tokio::select! {
                    biased;
                    bytes = self.admission.collect(&mut admitted, body, announced, clock) => bytes?,
                    () = clock.sleep(limit) => return Err(Refusal::body_late()),
                };
                Body::from(bytes)
            }
        };
        finish.admitted = Some(admitted);
        if let (Reach::Message, Some(key)) = (rule.reach, finish.key.clone()) {
            parts.extensions.insert(Allowed::new(move |collection| key.reaches(collection)));
        }
        Ok(Some(Ready { request: Request::from_parts(parts, body), rule, limit }))
    }

    /// How long a request may take.
    fn limit(&self, surface: Surface, request: &Request) -> Result<Duration, Refusal> {
        let text = |name: &HeaderName| request.headers().get(name).map(|v| v.to_str().unwrap_or_default());
        let asked = match (text(&TIMEOUT), text(&GRPC_TIMEOUT).filter(|_| surface == Surface::Grpc)) {
            (Some(ms), _) => match ms.parse() {
                Ok(ms) if ms > 0 => Some(Duration::from_millis(ms)),
                _ => {
                    return Err(Refusal::header(
                        "x-esker-timeout-ms",
                        "it is a number of milliseconds, from 1",
                    ));
                }
            },
            (None, Some(timeout)) => match grpc_timeout(timeout) {
                Some(timeout) => Some(timeout),
                None => {
                    return Err(Refusal::header(
                        "grpc-timeout",
                        "it is 1 to 8 digits and one of H M S m u n",
                    ));
                }
            },
            (None, None) => None,
        };
        Ok(asked.map_or(self.deadline, |asked| asked.min(self.deadline)))
    }

    /// Has the request answered within its limit.
    async fn answer(&self, surface: Surface, ready: Ready, next: Next, finish: &mut Finish) -> Response {
        let Ready { mut request, rule, limit } = ready;
        let is_write = rule.scope > Scope::Read;
        let named = self.name_write(surface, &mut request, rule);
        request.extensions_mut().insert(Until(finish.start + limit));
        finish.pace = self.pace(surface, &request, rule, limit);
        let span = finish.span.clone();
        let run = trace::within(span, AssertUnwindSafe(next.run(request)).catch_unwind());
        let spent = self.seams.clock.elapsed().saturating_sub(finish.start);
        // Of a stream, the time until it begins; `Paced` sees to the rest.
        // Unconstrained: a request that used up its task's turn would otherwise never let the timer be looked at.
        let late = tokio::task::unconstrained(self.seams.clock.sleep(limit.saturating_sub(spent)));
        let done = if is_write && rule.shape == Shape::One {
            // It goes on when the client leaves or the time is over, and holds what it was admitted with.
            let admitted = finish.admitted.take();
            let task = self.writes.spawn(async move {
                let done = run.await;
                (done, admitted)
            });
            tokio::select! {
                biased;
                done = task => done.map(|(done, admitted)| {
                    finish.admitted = admitted;
                    done
                }).unwrap_or_else(|e| Err(e.try_into_panic().unwrap_or_else(|_| Box::new("cancelled")))),
                () = late => {
                    let token = named.map(|named| named.token());
                    return Refusal::write_late(limit.as_millis(), token).into_response(surface);
                }
            }
        } else {
            tokio::select! {
                biased;
                done = run => done,
                () = late => return Refusal::read_late(limit.as_millis()).into_response(surface),
            }
        };
        done.unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            tracing::error!(id = finish.id, route = finish.route, message, "a request panicked");
            metrics::counter!("esker_panics_total").increment(1);
            Refusal::internal().into_response(surface)
        })
    }

    /// Names a write of records, so that it can be sent again when it is given up.
    fn name_write(&self, surface: Surface, request: &mut Request, rule: &Rule) -> Option<Named> {
        let of_records = match surface {
            Surface::Rest => rule.path.ends_with("/records"),
            Surface::Grpc => NAMED_RPCS.contains(&rule.path),
        };
        if rule.scope != Scope::Write || !of_records {
            return None;
        }
        let named = Named::new(self.seams.batch_token());
        // What is no key is refused by the handler; that of gRPC may be in the message, too, which the handler reads.
        if surface == Surface::Rest
            && let Ok(Some(key)) = esker_proto::rest::idempotency_key(request.headers())
        {
            named.give(Token::from_key(key));
        }
        request.extensions_mut().insert(named.clone());
        Some(named)
    }

    /// What the reply's body is held to. That of HTTP/1.1 with a length is sent as it is: a connection whose client takes
    /// nothing is closed.
    fn pace(&self, surface: Surface, request: &Request, rule: &Rule, limit: Duration) -> Option<Limits> {
        let whole = surface == Surface::Rest && rule.path != "/v1/sql" && request.version() < Version::HTTP_2;
        // Health is watched for as long as there is a server.
        let endless = rule.reach == Reach::Open && rule.shape == Shape::Stream;
        (!whole).then(|| Limits {
            idle: (!endless).then_some(limit),
            stop: endless.then(|| self.stop.clone()),
            surface,
            writes: rule.scope > Scope::Read,
        })
    }
}

/// A request that was let in.
struct Ready {
    request: Request,
    rule: &'static Rule,
    limit: Duration,
}

fn fit(id: &str) -> bool {
    (1..=ID_BYTES).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
}

/// `250m`: a number of at most 8 digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
