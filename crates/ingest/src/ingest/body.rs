//! What a write brings, in each of the forms that transports carry.

use arrow::array::RecordBatch;
use bytes::Bytes;
use esker_format::avro::framing;
use esker_format::record::{Op, Record};
use esker_format::{Error, Result};

use crate::batch::{Cut, Target};

/// The records of a write. A delete carries ids and nothing else, in every form.
#[derive(Debug, Clone)]
pub enum Body {
    /// Whole records.
    Records(Vec<Record>),
    /// An Avro object container file. Records of our schema, uncompressed, are stored byte for byte.
    Container(Bytes),
    /// WIRE §2's framing: schema version, operation, then records of our schema, stored byte for byte.
    Framed(Bytes),
    /// Columns `id`, `vector` (lists of f16, f32 or f64), `_timestamp`, `_created_at`, `_expires_at` and `_version`; all
    /// others are metadata. Those that the store sets itself, as an export has them, are left out.
    Arrow(Vec<RecordBatch>),
}

impl Body {
    /// The records as one validated batch.
    pub(super) fn cut(&self, target: &Target, op: Op) -> Result<Cut> {
        match self {
            Body::Records(records) => target.records(op, records),
            Body::Container(file) => target.container(op, file),
            Body::Framed(payload) => {
                let frame = framing::decode(payload)?;
                let named = frame.write()?;
                if named != op {
                    let an = |op| match op {
                        Op::Upsert => "an upsert",
                        Op::Delete => "a delete",
                    };
                    let message = format!("the payload is of {}, the request {}", an(named), an(op));
                    return Err(Error::invalid("avro_payload", message));
                }
                target.raw(op, frame.data)
            }
            Body::Arrow(batches) => super::columns::cut(target, op, batches),
        }
    }
}
