//! Signed requests to other services of the platform: another function, a queue.

use std::time::Duration;

use bytes::Bytes;
use esker_format::{Error, Kind, Result};
use esker_store::open::s3;
use http::{HeaderName, Method, StatusCode};
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, ReqwestConnector};
use serde_json::json;
use tokio::sync::OnceCell;
use url::Url;

use crate::Settings;
use crate::queue::Message;

/// Most bytes of an event that a function may be invoked with and wait for.
pub const EVENT_BYTES: usize = 6 << 20;
/// A connection that nothing was sent over for this long is not used again: the other side may have closed it.
const IDLE: Duration = Duration::from_secs(20);
/// A queue takes no longer message.
const MESSAGE_BYTES: usize = 256 << 10;

/// Other services of the platform, with this function's credentials. Nothing is opened before the first request.
pub struct Aws {
    settings: Settings,
    open: OnceCell<Open>,
}

struct Open {
    http: HttpClient,
    credentials: AwsCredentialProvider,
}

impl Aws {
    /// Reads `AWS_REGION`, `AWS_ENDPOINT_URL_<SERVICE>`, `AWS_ENDPOINT_URL` and what credentials are made of.
    pub fn new(settings: &Settings) -> Self {
        Aws { settings: settings.clone(), open: OnceCell::new() }
    }

    /// Has a function handle an event: its reply.
    ///
    /// # Errors
    /// Invalid when the event is too large, Unavailable when the function could not be reached or failed; then the event may
    /// have been handled.
    pub async fn invoke(&self, function: &str, event: Vec<u8>) -> Result<Bytes> {
        if event.len() > EVENT_BYTES {
            let message =
                format!("{} bytes are too many for an event, the limit is {EVENT_BYTES}", event.len());
            return Err(Error::invalid("body", message).with_hint("send fewer records at once"));
        }
        let mut url = self.endpoint("lambda")?;
        match url.path_segments_mut() {
            Ok(mut path) => path.clear().extend(["2015-03-31", "functions", function, "invocations"]),
            Err(()) => {
                return Err(Error::invalid("AWS_ENDPOINT_URL_LAMBDA", "it is no address of a service"));
            }
        };
        let (status, failed, body) = self.post("lambda", url, &[], event).await?;
        match status.is_success() && !failed {
            true => Ok(body),
            false => Err(refused(&format!("the function {function}"), status, &body)),
        }
    }

    /// Puts a message and why it is there into a queue.
    ///
    /// # Errors
    /// Invalid when the queue's URL is none, Unavailable when it did not take the message.
    pub async fn send(&self, queue: &str, message: &Message, reason: &str) -> Result<()> {
        let mut url = Url::parse(queue).map_err(|e| Error::invalid("ESKER_DEAD_LETTERS", e.to_string()))?;
        url.set_path("/");
        url.set_query(None);
        let text = |value: &str| json!({"DataType": "String", "StringValue": value});
        let mut attributes = serde_json::Map::new();
        for (name, value) in &message.attributes {
            attributes.insert(name.clone(), text(value));
        }
        // SQS takes ten of them.
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(1000).collect();
        attributes.insert("esker-reason".to_owned(), text(&reason));
        attributes.insert("esker-message-id".to_owned(), text(&message.id));
        let mut request = json!({
            "QueueUrl": queue,
            "MessageBody": message.body,
            "MessageAttributes": attributes,
        });
        if queue.ends_with(".fifo") {
            request["MessageGroupId"] = json!(message.group.as_ref().unwrap_or(&message.id));
            request["MessageDeduplicationId"] = json!(message.id);
        }
        let body = request.to_string().into_bytes();
        if body.len() > 2 * MESSAGE_BYTES {
            return Err(Error::invalid("body", "the message is too long for a queue"));
        }
        let headers =
            [("x-amz-target", "AmazonSQS.SendMessage"), ("content-type", "application/x-amz-json-1.0")];
        let (status, _, reply) = self.post("sqs", url, &headers, body).await?;
        match status.is_success() {
            true => Ok(()),
            false => Err(refused("the queue of dead letters", status, &reply)),
        }
    }

    /// One signed request: status, whether a function says that it failed, and the body.
    async fn post(
        &self,
        service: &str,
        url: Url,
        headers: &[(&'static str, &'static str)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, bool, Bytes)> {
        let open = self.open.get_or_try_init(|| async { self.open() }).await?;
        let lost = |e: String| Error::new(Kind::Unavailable, format!("{service} cannot be reached: {e}"));
        let credential = open.credentials.get_credential().await.map_err(|e| lost(e.to_string()))?;
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.as_str().parse().map_err(|e: http::uri::InvalidUri| lost(e.to_string()))?;
        for (name, value) in headers {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        AwsAuthorizer::new(&credential, service, self.region()).authorize(&mut request, None);
        let (parts, body) = open.http.execute(request).await.map_err(|e| lost(e.to_string()))?.into_parts();
        let body = body.bytes().await.map_err(|e| lost(e.to_string()))?;
        Ok((parts.status, parts.headers.contains_key("x-amz-function-error"), body))
    }

    fn open(&self) -> Result<Open> {
        let failed = |e: object_store::Error| Error::invalid("AWS_*", e.to_string()).with_source(e);
        // Credentials come from where the store has them; the bucket is not asked for anything.
        let store = s3("none", &self.settings.store_env()).map_err(failed)?;
        let options = ClientOptions::new()
            .with_allow_http(true)
            .with_connect_timeout(Duration::from_secs(5))
            .with_timeout(Duration::from_secs(60))
            .with_pool_idle_timeout(IDLE);
        let http = ReqwestConnector::default().connect(&options).map_err(failed)?;
        Ok(Open { http, credentials: store.credentials().clone() })
    }

    fn region(&self) -> &str {
        let var = |name: &str| self.settings.aws.get(name).map(String::as_str);
        var("AWS_REGION").or_else(|| var("AWS_DEFAULT_REGION")).unwrap_or("us-east-1")
    }

    fn endpoint(&self, service: &str) -> Result<Url> {
        let own = format!("AWS_ENDPOINT_URL_{}", service.to_ascii_uppercase());
        let said = self.settings.aws.get(&own).or_else(|| self.settings.aws.get("AWS_ENDPOINT_URL"));
        let url =
            said.cloned().unwrap_or_else(|| format!("https://{service}.{}.amazonaws.com", self.region()));
        Url::parse(&url).map_err(|e| Error::invalid(own, format!("`{url}` is no address: {e}")))
    }
}

fn refused(who: &str, status: StatusCode, body: &[u8]) -> Error {
    let said: String = String::from_utf8_lossy(body).chars().take(300).collect();
    Error::new(Kind::Unavailable, format!("{who} answered {status}: {said}"))
}
