//! Answers in pieces: nothing is read before the client takes what was read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use esker_format::record::{Record, Value};
use esker_format::{Error, Kind, Name, Result, limits};
use esker_proto::grpc;
use esker_proto::rest::Encoding;
use esker_proto::v1;
use esker_store::{Io, Meter};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};

use super::messages::{self, Records};
use super::{access, filter};
use crate::engine::{Page, PageRequest, Seen};
use crate::http::encode::Rows;
use crate::search::{Consistency, Search};
use crate::service::{Service, records_of};
use crate::sql;

/// Bytes of records of one message, about: clients take 4 MiB unless told otherwise.
const PIECE_BYTES: usize = 1 << 20;
/// Vectors of one request that are searched at once.
const AT_ONCE: usize = 4;

/// A scan between two pages.
struct Pages {
    service: Service,
    name: Name,
    request: PageRequest,
    /// Rows that may still be sent.
    left: Arc<AtomicU64>,
    avro: bool,
    over: bool,
}

pub(super) fn scan(
    service: Service,
    name: Name,
    m: v1::ScanRequest,
) -> Result<impl Stream<Item = Result<v1::ScanReply>> + use<>> {
    grpc::schema_version(m.schema_version)?;
    if m.limit == Some(0) {
        return Err(
            Error::invalid("limit", "limit is 0, it must be at least 1").with_hint("leave it out for all")
        );
    }
    let request = PageRequest {
        filter: filter(&service, m.filter)?,
        include: m.include.map(|c| c.names),
        include_vector: m.include_vector,
        limit: limits::BATCH_ROWS,
        access: access(m.consistency, m.min_position, m.as_of)?,
        cursor: if m.cursor.is_empty() { None } else { Some(m.cursor.parse()?) },
    };
    let left = Arc::new(AtomicU64::new(m.limit.unwrap_or(u64::MAX)));
    let pages = Pages { service, name, request, left, avro: m.avro, over: false };
    Ok(stream::try_unfold(pages, next_page).try_flatten())
}

type Replies = BoxStream<'static, Result<v1::ScanReply>>;

async fn next_page(mut pages: Pages) -> Result<Option<(Replies, Pages)>> {
    let left = pages.left.load(Ordering::Relaxed);
    if pages.over || left == 0 {
        return Ok(None);
    }
    pages.request.limit = usize::try_from(left).unwrap_or(usize::MAX).min(limits::BATCH_ROWS);
    let meter = Meter::new();
    let page = pages.service.scan(&meter, &pages.name, &pages.request).await?;
    pages.request.cursor = page.cursor;
    pages.over = page.cursor.is_none();
    Ok(Some((replies(page, meter, &pages), pages)))
}

/// The records of a page, then where the next one begins.
fn replies(page: Page, meter: Meter, pages: &Pages) -> Replies {
    let Page { batches, seen, cursor, metadata, .. } = page;
    let (name, left, avro) = (pages.name.clone(), pages.left.clone(), pages.avro);
    let pieces = batches.and_then(move |batch| {
        let records = records_of(&batch, &metadata, &name);
        left.fetch_sub(batch.num_rows() as u64, Ordering::Relaxed);
        async move {
            let pieces = cut(records?).into_iter().map(move |records| Ok(piece(seen, avro, records)));
            Ok(stream::iter(pieces))
        }
    });
    let end = move || async move {
        let mut end = piece(seen, false, Vec::new());
        end.cursor = cursor.map(|c| c.to_string()).unwrap_or_default();
        end.io = Some(messages::io(&meter.io()));
        Ok(end)
    };
    pieces.try_flatten().chain(stream::once(end())).boxed()
}

fn piece(seen: Seen, avro: bool, records: Vec<Record>) -> v1::ScanReply {
    let Records { messages, avro } = Records::new("scan", avro, records);
    v1::ScanReply {
        records: messages,
        avro_payload: avro,
        position: seen.position,
        staleness_ms: seen.staleness_ms,
        ..Default::default()
    }
}

/// Records in lots of about [`PIECE_BYTES`].
fn cut(records: Vec<Record>) -> Vec<Vec<Record>> {
    let (mut lots, mut bytes) = (Vec::new(), PIECE_BYTES);
    for record in records {
        let own = weight(&record);
        if bytes + own > PIECE_BYTES {
            lots.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        if let Some(lot) = lots.last_mut() {
            lot.push(record);
        }
    }
    lots
}

fn weight(record: &Record) -> usize {
    let value = |v: &Value| match v {
        Value::String(text) => text.len(),
        Value::Strings(texts) => texts.iter().map(|t| t.len() + 8).sum(),
        _ => 8,
    };
    let metadata: usize = record.metadata.iter().map(|(key, v)| key.len() + value(v) + 16).sum();
    64 + record.id.len() + 4 * record.vector.len() + metadata
}

/// Each vector's hits as they are found. The first part fixes how fresh the others are, so that they need not ask again.
pub(super) fn search(
    service: Service,
    name: Name,
    search: Search,
    avro: bool,
) -> impl Stream<Item = Result<v1::SearchPart>> {
    let mut vectors = search.vectors.iter().cloned().map(|v| vec![v]).collect::<Vec<_>>().into_iter();
    // With `like`, or without any vector, which the search itself refuses.
    let first = vectors.next().unwrap_or_default();
    let several = vectors.len() > 0;
    let one = move |index: usize, vectors: Vec<Vec<f32>>, search: Search| {
        let (service, name) = (service.clone(), name.clone());
        async move {
            let found = service.search(&Meter::new(), &name, &Search { vectors, ..search }).await;
            let found = found.map_err(|e| if several { numbered(e, index) } else { e })?;
            let hits = found.results.into_iter().next().unwrap_or_default();
            Ok(v1::SearchPart {
                index: index as u32,
                result: Some(messages::result(&name, avro, hits)),
                position: found.position,
                staleness_ms: found.staleness_ms,
                io: Some(messages::io(&found.io)),
                explain_json: messages::explain(found.explain.as_ref())?,
            })
        }
    };
    let begun = one(0, first, search.clone());
    stream::once(begun)
        .map_ok(move |part| {
            let mut search = search.clone();
            if search.as_of.is_none() {
                search.consistency = Consistency::Eventual;
                search.min_position = search.min_position.max(Some(part.position));
            }
            let one = one.clone();
            let rest = (1..).zip(vectors.clone()).map(move |(i, v)| one(i, v, search.clone()));
            stream::once(async { Ok(part) }).chain(stream::iter(rest).buffer_unordered(AT_ONCE))
        })
        .try_flatten()
}

/// An error about the vector of a search by one, as one about that vector of several.
fn numbered(e: Error, index: usize) -> Error {
    match (e.kind(), e.field()) {
        (Kind::Invalid, Some("vector")) => Error::invalid(format!("vectors[{index}]"), e.to_string()),
        _ => e,
    }
}

/// The rows of a query that counts on `meter`.
pub(super) fn sql(
    format: v1::SqlFormat,
    rows: sql::Rows,
    meter: Meter,
) -> Result<BoxStream<'static, Result<v1::SqlReply>>> {
    let encoding = match format {
        v1::SqlFormat::Arrow => Encoding::Arrow,
        v1::SqlFormat::Ndjson => Encoding::Ndjson,
        v1::SqlFormat::Csv => Encoding::Csv,
    };
    let bytes = Rows::new(encoding, &rows.schema)?.stream(rows.batches, || (Io::default().into(), 0.0));
    let piece = |data| Ok(v1::SqlReply { data, io: None });
    let pieces = bytes.map_ok(move |bytes| stream::iter(split(bytes.into())).map(piece));
    let end = async move { Ok(v1::SqlReply { data: Bytes::new(), io: Some(messages::io(&meter.io())) }) };
    Ok(pieces.try_flatten().chain(stream::once(end)).boxed())
}

fn split(mut whole: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while whole.len() > PIECE_BYTES {
        pieces.push(whole.split_to(PIECE_BYTES));
    }
    pieces.push(whole);
    pieces
}

#[cfg(test)]
mod tests;
