//! Records in the OpenAPI document: the fields of `esker_format::record::Record`, which knows nothing of HTTP.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// A row. Times are milliseconds since the epoch, UTC.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = Record)]
pub struct RecordSchema {
    /// 1 to 256 bytes, unique in its collection.
    #[schema(min_length = 1, max_length = 256)]
    pub id: String,
    /// Name or id of the collection; left out, the one of the request.
    #[schema(required = false)]
    pub collection_id: String,
    /// As many finite numbers as the collection has dimensions; in replies only if it was asked for.
    #[schema(required = false)]
    pub vector: Vec<f32>,
    /// Booleans, numbers, texts and lists of texts by key.
    #[schema(required = false, value_type = BTreeMap<String, Object>)]
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Event time; 0 is the arrival of the write.
    #[schema(required = false)]
    pub timestamp: i64,
    /// As given; 0 is the arrival of the write.
    #[schema(required = false)]
    pub created_at: i64,
    /// The arrival of the last write, whatever is given.
    #[schema(required = false)]
    pub updated_at: i64,
    /// After this instant the record is invisible.
    pub expires_at: Option<i64>,
    /// The client's own version, 1 if it is left out.
    #[schema(required = false)]
    pub version: i64,
    /// In results: position from 1.
    pub rank: Option<i32>,
    /// In results: higher is better.
    pub score: Option<f32>,
    /// In results: the metric's own distance.
    pub distance: Option<f32>,
}
