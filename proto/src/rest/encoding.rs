//! Encodings of bodies, by `Content-Type` and `Accept`.

use esker_format::Error;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::Refused;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`: one document. What is meant where nothing is said.
    Json,
    /// `application/x-ndjson`: one record a line.
    Ndjson,
    /// `application/avro`: an Avro object container file.
    Avro,
    /// `application/x-esker-avro`: the framing of WIRE §2.
    FramedAvro,
    /// `application/vnd.apache.arrow.stream`: an Arrow IPC stream.
    Arrow,
    /// `text/csv`, with a line of column names.
    Csv,
}

/// Every encoding.
const ALL: [Encoding; 6] =
    [Encoding::Json, Encoding::Ndjson, Encoding::Avro, Encoding::FramedAvro, Encoding::Arrow, Encoding::Csv];

impl Encoding {
    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Ndjson => "application/x-ndjson",
            Encoding::Avro => "application/avro",
            Encoding::FramedAvro => "application/x-esker-avro",
            Encoding::Arrow => "application/vnd.apache.arrow.stream",
            Encoding::Csv => "text/csv",
        }
    }

    fn named(media_type: &str) -> Option<Encoding> {
        let name = media_type.to_ascii_lowercase();
        let known = ALL.into_iter().find(|e| e.media_type() == name);
        known.or(match name.as_str() {
            "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => Some(Encoding::Ndjson),
            "avro/binary" => Some(Encoding::Avro),
            _ => None,
        })
    }
}

/// `use application/json, application/avro`.
fn choices(offered: &[Encoding]) -> String {
    let names: Vec<&str> = offered.iter().map(|e| e.media_type()).collect();
    format!("use {}", names.join(", "))
}

/// The encoding of a request's body, if it is one of `taken`; JSON if the request does not say.
///
/// # Errors
/// 415 naming the encodings that are taken.
pub fn content_type(headers: &HeaderMap, taken: &[Encoding]) -> Result<Encoding, Refused> {
    let wrong = |field: &str, message: String, hint: String| {
        Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Error::invalid(field, message).with_hint(hint))
    };
    if let Some(coding) = headers.get(CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let message = format!("a body coded as {} is not taken", String::from_utf8_lossy(coding.as_bytes()));
        return Err(wrong("content-encoding", message, "send the body as it is".to_owned()));
    }
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(Encoding::Json) };
    let text = String::from_utf8_lossy(given.as_bytes());
    let name = text.split(';').next().unwrap_or_default().trim();
    match Encoding::named(name).filter(|e| taken.contains(e)) {
        Some(encoding) => Ok(encoding),
        None => {
            Err(wrong("content-type", format!("a body of type `{name}` is not taken here"), choices(taken)))
        }
    }
}

/// The encoding that the client likes best of those offered, the first of them if it does not say.
///
/// # Errors
/// 406 naming those offered.
pub fn accept(headers: &HeaderMap, offered: &[Encoding]) -> Result<Encoding, Refused> {
    let mut best: Option<(f32, usize)> = None;
    let (mut asked, mut text) = (false, String::new());
    for value in headers.get_all(ACCEPT) {
        let value = String::from_utf8_lossy(value.as_bytes());
        text.push_str(&value);
        for range in value.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            asked = true;
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = parts.find_map(|p| p.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            let matching = |e: &Encoding| match name.strip_suffix("/*") {
                Some("*") => true,
                Some(kind) => e.media_type().split('/').next() == Some(kind),
                None => Encoding::named(name) == Some(*e),
            };
            if let Some(at) = offered.iter().position(matching)
                && quality > 0.0
                && best.is_none_or(|(q, _)| quality > q)
            {
                best = Some((quality, at));
            }
        }
    }
    match best {
        Some((_, at)) => Ok(offered[at]),
        None if !asked => Ok(offered.first().copied().unwrap_or(Encoding::Json)),
        None => {
            let message = format!("`{text}` is not offered here");
            let error = Error::invalid("accept", message).with_hint(choices(offered));
            Err(Refused(StatusCode::NOT_ACCEPTABLE, error))
        }
    }
}
