//! The operations of a query server, one call each: what HTTP and gRPC have in common.
//!
//! Every call counts its requests on the caller's [`Meter`] and may be dropped at any await: a read then simply ends.
//! [`Service::delete_where`] is the one that writes, through [`Tombstones`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use esker_format::record::Record;
use esker_format::schema::{Metric, Schema, VectorType};
use esker_format::{CollectionId, Error, Kind, Name, Result, Seq, Version};
use esker_store::Meter;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{
    Access, Engine, Got, KEPT, KEPT_BYTES, Page, PageRequest, Recent, Residency, Seen, Stats,
};
use crate::filter::Filter;
use crate::search::{Search, SearchReply};
use crate::sql::{self, Param};

mod delete;
mod records;

pub use delete::{Called, Deleted, Doomed, Tombstones, Untouched};
pub use records::{batch_of, records_of};

/// Most ids of one call.
pub const IDS: usize = 10_000;
/// Collections that are asked at once when they are listed.
const AT_ONCE: usize = 16;

/// Reads of every collection of a store, and deletes of what a filter finds. Clones are the same service.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    engine: Engine,
    tombstones: Option<Arc<dyn Tombstones>>,
    /// What SQL queries may hold, all of them together.
    sql: Arc<dyn MemoryPool>,
    /// Held by each SQL query under way.
    querying: Arc<()>,
    filters: Mutex<Recent<String, Filter>>,
}

/// A collection, as it was created and as it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Collection)]
pub struct Described {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Which collection of that name.
    #[schema(value_type = String)]
    pub id: CollectionId,
    /// Elements of every vector.
    pub dimension: u32,
    /// The metric of its searches.
    #[schema(value_type = String)]
    pub metric: Metric,
    /// Element type of stored vectors.
    #[schema(value_type = String)]
    pub vector_type: VectorType,
    /// Types of its metadata, in the order in which they were first seen.
    #[serde(serialize_with = "types")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub metadata: Schema,
    /// Version of the manifest.
    pub version: Version,
    /// The last entry of the log.
    pub position: Seq,
}

fn types<S: serde::Serializer>(schema: &Schema, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(schema.columns.iter().map(|c| (&c.name, c.kind)))
}

/// Whether a collection is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Warmed {
    /// Rows.
    pub rows: u64,
    /// The state that was read.
    pub position: Seq,
    /// Whether there was room for it. If not, searches read through the cache, as before.
    pub resident: bool,
    /// Bytes of memory that it takes, or would.
    pub bytes: u64,
}

impl Service {
    /// A service over `engine`. Without `tombstones` deletes are refused. `sql` limits all SQL queries together.
    pub fn new(engine: Engine, tombstones: Option<Arc<dyn Tombstones>>, sql: sql::Options) -> Self {
        let filters = Mutex::new(Recent::new(KEPT));
        let sql: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(sql.memory));
        Service(Arc::new(Inner { engine, tombstones, sql, querying: Arc::new(()), filters }))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Milliseconds since some instant, for `took_ms`.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.0.engine.store().client().seams().clock.elapsed().as_secs_f64() * 1000.0
    }

    /// A filter as clients write it: JSON if it begins with `{`, else SQL.
    ///
    /// # Errors
    /// `Invalid`, naming `filter` or the place in it.
    pub fn filter(&self, text: &str) -> Result<Filter> {
        let lock = || self.0.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(text) {
            return Ok(known);
        }
        let filter = match text.trim_start().starts_with('{') {
            false => Filter::sql(text)?,
            true => {
                let json = serde_json::from_str(text)
                    .map_err(|e| Error::invalid("filter", format!("the filter is not JSON: {e}")))?;
                Filter::json(&json)?
            }
        };
        if text.len() <= KEPT_BYTES {
            lock().insert(text.to_owned(), filter.clone());
        }
        Ok(filter)
    }

    /// A filter in a JSON document: a text is SQL, an object the JSON form, null none.
    ///
    /// # Errors
    /// As [`Service::filter`].
    pub fn filter_json(&self, value: &serde_json::Value) -> Result<Option<Filter>> {
        match value {
            serde_json::Value::Null => Ok(None),
            serde_json::Value::String(text) => self.filter(text).map(Some),
            value => Filter::json(value).map(Some),
        }
    }

    /// Every collection, by name. One that is dropped meanwhile is left out.
    pub async fn collections(&self, meter: &Meter) -> Result<Vec<Described>> {
        let names = self.0.engine.names(meter).await?;
        let all = names.into_iter().map(|name| {
            let (service, meter) = (self.clone(), meter.fork());
            async move {
                match service.describe(&meter, &name).await {
                    Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => Ok(None),
                    described => described.map(Some),
                }
            }
        });
        let found: Vec<Option<Described>> = stream::iter(all).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Settings and columns of a collection.
    pub async fn describe(&self, meter: &Meter, name: &Name) -> Result<Described> {
        let stats = self.stats(meter, name).await?;
        Ok(Described {
            name: name.clone(),
            id: stats.collection.parse()?,
            dimension: stats.settings.dimension,
            metric: stats.settings.metric,
            vector_type: stats.settings.vector_type,
            metadata: stats.schema,
            version: stats.version,
            position: stats.position,
        })
    }

    /// Figures of a collection.
    pub async fn stats(&self, meter: &Meter, name: &Name) -> Result<Stats> {
        self.0.engine.collection(name).stats(meter).await
    }

    /// Rows by id, at most [`IDS`] at once. `include`: metadata columns, all if not said.
    pub async fn get_many(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        include: Option<&[String]>,
        include_vector: bool,
        access: Access,
    ) -> Result<Got> {
        if ids.len() > IDS {
            return Err(Error::invalid("ids", format!("{} ids, the limit is {IDS}", ids.len())));
        }
        self.0.engine.collection(name).get_in(meter, ids, include, include_vector, access).await
    }

    /// One row by id.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn get(
        &self,
        meter: &Meter,
        name: &Name,
        id: &str,
        include_vector: bool,
        access: Access,
    ) -> Result<(Record, Seen)> {
        let got = self.get_many(meter, name, &[id.to_owned()], None, include_vector, access).await?;
        let missing = || Error::new(Kind::NotFound, format!("`{name}` has no row `{}`", id.escape_debug()));
        let record = got.records.into_iter().next().flatten().ok_or_else(missing)?;
        Ok((record, got.seen))
    }

    /// A page of the rows of one state.
    pub async fn scan(&self, meter: &Meter, name: &Name, request: &PageRequest) -> Result<Page> {
        self.0.engine.collection(name).page(meter, request).await
    }

    /// How many rows there are, or pass a filter.
    pub async fn count(
        &self,
        meter: &Meter,
        name: &Name,
        filter: Option<&Filter>,
        access: Access,
    ) -> Result<(u64, Seen)> {
        self.0.engine.collection(name).count_in(meter, filter, access).await
    }

    /// The nearest rows to one or more vectors.
    pub async fn search(&self, meter: &Meter, name: &Name, search: &Search) -> Result<SearchReply> {
        self.0.engine.collection(name).search(meter, search).await
    }

    /// Reads a collection into memory if there is room, for searches that ask the store for nothing but what is new.
    pub async fn warm(&self, meter: &Meter, name: &Name) -> Result<Warmed> {
        let Residency { rows, position, resident, bytes } =
            self.0.engine.collection(name).hold(meter).await?;
        Ok(Warmed { rows, position, resident, bytes })
    }

    /// Runs a SQL query over the collections, each at one state.
    pub async fn sql(&self, meter: &Meter, query: &str, params: &[Param]) -> Result<sql::Rows> {
        let one = self.0.querying.clone();
        let catalog = self.0.engine.catalog(meter);
        let rows = sql::stream_in(catalog, query, params, self.0.sql.clone()).await;
        let rows = rows.map_err(|e| shared(e, &one))?;
        Ok(sql::Rows { batches: rows.batches.map_err(move |e| shared(e, &one)).boxed(), ..rows })
    }
}

/// A query that ran out of memory while others (than `one` and the service itself) held some may pass later.
fn shared(e: Error, one: &Arc<()>) -> Error {
    match e.to_string() == sql::errors::EXHAUSTED && Arc::strong_count(one) > 2 {
        false => e,
        true => Error::new(Kind::Busy, "the memory for SQL queries is in use by others")
            .with_hint("try again after a while, or add a LIMIT, a filter, or select fewer columns"),
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({:?})", self.0.engine)
    }
}

#[cfg(test)]
mod tests;
