//! Pages of a scan: each of the same state, however much is written in between.
//!
//! A cursor names the state (version and position) and the first row of the next page. Any process can go on from it as
//! long as the store keeps that state; the one that answered the page before has it at hand.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use esker_format::schema::Schema;
use esker_format::{CollectionId, Error, Kind, Result, Seq, Token, Version, limits};
use esker_store::{Collection, Meter};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use roaring::RoaringBitmap;

use super::Reader;
use super::load::{Loaded, Need};
use super::scan::{START, bad_batch, pieces, table_schema};
use super::see::{Access, Seen, View};
use crate::filter::Filter;
use crate::search::check_columns;
use crate::tail::Tail;

/// Most rows of a page.
const PAGE_ROWS: usize = limits::BATCH_ROWS;
/// Most bytes of vectors of a page; it ends there.
const PAGE_BYTES: usize = 32 << 20;
/// States kept between pages.
const PINS: usize = 4;
/// Larger tails are read again for every page.
const PINNED_BYTES: u64 = 32 << 20;
/// Entries of the log that are read at once.
const AT_ONCE: usize = 16;

/// What a page of a scan has.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Only rows for which this is true; the same for all pages.
    pub filter: Option<Filter>,
    /// Metadata columns; all if not said.
    pub include: Option<Vec<String>>,
    /// Whether there is a column `vector`.
    pub include_vector: bool,
    /// Most rows, 1 to 10,000. A page may have fewer though there are more: the cursor says whether.
    pub limit: usize,
    /// Which state to scan; of later pages the cursor says it.
    pub access: Access,
    /// Where to go on: that of the page before.
    pub cursor: Option<Cursor>,
}

impl Default for PageRequest {
    fn default() -> Self {
        PageRequest {
            filter: None,
            include: None,
            include_vector: false,
            limit: 100,
            access: Access::default(),
            cursor: None,
        }
    }
}

/// A page under way.
pub struct Page {
    /// id, vector if it was asked for, metadata, `_timestamp`, `_created_at`, `_updated_at`, `_expires_at`, `_version`.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// The state that all pages are of.
    pub seen: Seen,
    /// Where the next page begins, if there is one.
    pub cursor: Option<Cursor>,
    /// Metadata columns of the state.
    pub metadata: Arc<Schema>,
}

/// Where a page begins. As text it is opaque: hexadecimal digits with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    collection: u64,
    filter: u64,
    version: Version,
    position: Seq,
    now_ms: i64,
    from: (u32, u64),
}

impl Cursor {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56);
        for n in [self.collection, self.filter, self.version, self.position, self.now_ms as u64, self.from.1]
        {
            out.extend_from_slice(&n.to_be_bytes());
        }
        out.extend_from_slice(&self.from.0.to_be_bytes());
        let check = crc32c::crc32c(&out);
        out.extend_from_slice(&check.to_be_bytes());
        out
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid("cursor", "the cursor is not one that a scan returned")
                .with_hint("leave it out to scan from the beginning")
        };
        let digits = text.as_bytes();
        if digits.len() != 112 || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let n =
            |at: usize, digits: usize| u64::from_str_radix(&text[at..at + digits], 16).map_err(|_| wrong());
        let cursor = Cursor {
            collection: n(0, 16)?,
            filter: n(16, 16)?,
            version: n(32, 16)?,
            position: n(48, 16)?,
            now_ms: n(64, 16)? as i64,
            from: (n(96, 8)? as u32, n(80, 16)?),
        };
        if cursor.to_string() != text {
            return Err(wrong());
        }
        Ok(cursor)
    }
}

/// A state between two pages.
#[derive(Debug)]
pub(crate) struct Pinned {
    view: View,
    superseded: Arc<Vec<RoaringBitmap>>,
}

/// The states of the last scans.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<VecDeque<Arc<Pinned>>>);

impl Pins {
    fn get(&self, id: &CollectionId, cursor: &Cursor) -> Option<Arc<Pinned>> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pins.iter().find(|p| {
            (p.view.manifest.version, p.view.position) == (cursor.version, cursor.position)
                && p.view.id == *id
        });
        found.cloned()
    }

    fn keep(&self, pinned: Arc<Pinned>) {
        if pinned.view.draft.tail_bytes > PINNED_BYTES {
            return;
        }
        let key = |p: &Pinned| (p.view.manifest.version, p.view.position, p.view.id.clone());
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|p| key(p) != key(&pinned));
        pins.truncate(PINS - 1);
        pins.push_front(pinned);
    }
}

impl Reader {
    /// A page of the rows that pass a filter, each row once, in no particular order. The pages of a scan are together
    /// every row of one state.
    ///
    /// # Errors
    /// `Invalid`, naming the field; `Gone` when the state of the cursor is no longer retained: start again without it.
    pub async fn page(&self, meter: &Meter, request: &PageRequest) -> Result<Page> {
        if !(1..=PAGE_ROWS).contains(&request.limit) {
            let message = format!("limit is {}, it must be between 1 and {PAGE_ROWS}", request.limit);
            return Err(Error::invalid("limit", message));
        }
        request.access.check()?;
        let filter = fingerprint(request.filter.as_ref());
        let (pinned, loaded, now_ms, from) = match &request.cursor {
            None => self.first_page(meter, request).await?,
            Some(cursor) if cursor.filter != filter => {
                return Err(Error::invalid("cursor", "the cursor is of a scan with another filter")
                    .with_hint("all pages of a scan have the filter of the first"));
            }
            Some(cursor) => {
                let (pinned, loaded) = self.next_page(meter, request, cursor).await.map_err(no_longer)?;
                (pinned, loaded, cursor.now_ms, cursor.from)
            }
        };
        let view = &pinned.view;
        check_columns(request.include.as_deref(), &view.schema)?;
        let schema = columns(view, request)?;
        let vector_bytes = view.manifest.settings.dimension as usize * 4;
        let limit = match request.include_vector {
            true => request.limit.min((PAGE_BYTES / vector_bytes).max(1)),
            false => request.limit,
        };
        let (pieces, next) = pieces(view, &loaded, &pinned.superseded, from, limit, now_ms)?;
        let cursor = next.map(|from| Cursor {
            collection: view.id.hash_id(""),
            filter,
            version: view.manifest.version,
            position: view.position,
            now_ms,
            from,
        });
        let seen = view.seen();
        if cursor.is_some() {
            self.inner.pinned.keep(pinned.clone());
        }
        let batches = self.read_pieces(meter, view.clone(), loaded, schema.clone(), pieces);
        let batches = match request.cursor {
            Some(_) => batches.map_err(no_longer).boxed(),
            None => batches,
        };
        Ok(Page { schema, batches, seen, cursor, metadata: pinned.view.schema.clone() })
    }

    async fn first_page(
        &self,
        meter: &Meter,
        request: &PageRequest,
    ) -> Result<(Arc<Pinned>, Loaded, i64, (u32, u64))> {
        let now_ms = self.now_ms();
        let (view, loaded) = self
            .see(meter, request.access, |draft| {
                let need = Need { filter: request.filter.as_ref(), now_ms, ..Need::default() };
                self.load(draft, need).boxed()
            })
            .await?;
        let superseded = self.superseded(meter, &view, &loaded).await?;
        Ok((Arc::new(Pinned { view, superseded }), loaded, now_ms, START))
    }

    async fn next_page(
        &self,
        meter: &Meter,
        request: &PageRequest,
        cursor: &Cursor,
    ) -> Result<(Arc<Pinned>, Loaded)> {
        let collection = self.inner.store.collection(meter, &self.name).await?;
        if collection.id().hash_id("") != cursor.collection {
            return Err(Error::new(Kind::Gone, "the cursor is of another collection than has this name now"));
        }
        let need = Need { filter: request.filter.as_ref(), now_ms: cursor.now_ms, ..Need::default() };
        if let Some(pinned) = self.inner.pinned.get(collection.id(), cursor) {
            let mut draft = pinned.view.draft.clone();
            draft.meter = meter.fork();
            return Ok((pinned, self.load(draft, need).await?));
        }
        let view = self.view_at(meter, &collection, cursor).await?;
        let loaded = self.load(view.draft.clone(), need).await?;
        let superseded = self.superseded(meter, &view, &loaded).await?;
        Ok((Arc::new(Pinned { view, superseded }), loaded))
    }

    /// The state of a cursor, read again.
    async fn view_at(&self, meter: &Meter, collection: &Arc<Collection>, cursor: &Cursor) -> Result<View> {
        let mut snapshot = collection.as_of(meter, cursor.version).await?;
        // The newest columns know every key of the tail.
        let schema = collection.manifest(meter).await?.schema.clone();
        let watermark = snapshot.manifest.watermark;
        if !(watermark..=watermark + 2 * limits::TAIL_ENTRIES).contains(&cursor.position) {
            return Err(Error::new(Kind::Gone, format!("there is no state {} of it", cursor.position)));
        }
        let entries = (watermark + 1..=cursor.position).map(|seq| {
            let meter = meter.fork();
            async move {
                let missing = || Error::new(Kind::Gone, format!("entry {seq} of its log was collected"));
                collection.entry(&meter, seq).await?.ok_or_else(missing)
            }
        });
        let entries = stream::iter(entries).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let settings = snapshot.manifest.settings.clone();
        snapshot.rows = collection.decode_tail(meter, &settings, &schema, &entries).await?;
        snapshot.schema = schema;
        snapshot.tail = entries;
        snapshot.position = cursor.position;
        let draft = self.draft(collection, &snapshot, meter);
        Ok(View {
            id: draft.id.clone(),
            state: draft.state.clone(),
            tail: Arc::new(Tail::new(&draft.id, watermark, &snapshot.rows, &snapshot.tail)?),
            position: snapshot.position,
            restarts: 0,
            staleness_ms: 0,
            schema: draft.schema.clone(),
            manifest: snapshot.manifest,
            draft,
        })
    }
}

/// What a filter is recognised by.
fn fingerprint(filter: Option<&Filter>) -> u64 {
    filter.map_or(0, |f| Token::of_key(f.text().as_bytes()).0 as u64)
}

/// What was collected under a cursor.
fn no_longer(e: Error) -> Error {
    match e.kind() {
        Kind::NotFound | Kind::Gone => {
            Error::new(Kind::Gone, format!("the state that the cursor goes on in is no longer there: {e}"))
                .with_hint("scan again without the cursor")
        }
        _ => e,
    }
}

fn columns(view: &View, request: &PageRequest) -> Result<SchemaRef> {
    let table = table_schema(&view.manifest.settings, &view.schema);
    let wanted = |name: &str| match name {
        "vector" => request.include_vector,
        "_seq" => false,
        name if view.schema.get(name).is_some() => {
            request.include.as_ref().is_none_or(|include| include.iter().any(|i| i == name))
        }
        _ => true,
    };
    let projection: Vec<usize> =
        (0..table.fields().len()).filter(|i| wanted(table.field(*i).name())).collect();
    Ok(Arc::new(table.project(&projection).map_err(bad_batch)?))
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("seen", &self.seen).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}
