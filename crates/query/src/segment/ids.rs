//! Rows by id.

use std::ops::Range;
use std::sync::Arc;

use esker_format::Result;
use esker_format::schema::Schema;
use esker_store::{Client, Meter};

use super::{Payload, Segment};
use crate::ranges::{Pieces, Shape, Thrift};

/// Requests for pages of the id map.
const PAGES: Thrift = Thrift { requests: 24, waste: 1 << 20 };

/// An id with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hashed<'a> {
    pub id: &'a str,
    pub hash: u64,
}

impl Segment {
    /// For each hash the rows whose id has it, dead ones included. One wave.
    pub async fn rows_of_hashes(
        &self,
        client: &Client,
        meter: &Meter,
        hashes: &[u64],
    ) -> Result<Vec<Vec<u32>>> {
        let pages: Vec<Range<u64>> = hashes.iter().map(|h| self.header.idmap_pages(*h)).collect();
        let take = |pieces: &Pieces| {
            let find =
                |(hash, range): (&u64, &Range<u64>)| self.header.idmap_find(*hash, &pieces.bytes(range)?);
            hashes.iter().zip(&pages).map(find).collect()
        };
        self.index.read(client, meter, &pages, Shape::Few(PAGES), take).await
    }

    /// Position in `ids` and ordinal of every row that has one of the ids: two waves. Also the payload that proved it.
    pub async fn rows_of_ids(
        &self,
        client: &Client,
        meter: &Meter,
        schema: &Arc<Schema>,
        ids: &[Hashed<'_>],
    ) -> Result<(Vec<(usize, u32)>, Payload)> {
        let hashes: Vec<u64> = ids.iter().map(|h| h.hash).collect();
        let found = self.rows_of_hashes(client, meter, &hashes).await?;
        let candidates: Vec<(usize, u32)> = found
            .into_iter()
            .enumerate()
            .flat_map(|(i, rows)| rows.into_iter().map(move |o| (i, o)))
            .collect();
        if candidates.is_empty() {
            return Ok((candidates, Payload::default()));
        }
        let payload =
            self.read_payload(client, meter, schema, candidates.iter().map(|(_, ordinal)| *ordinal)).await?;
        let confirmed =
            candidates.into_iter().filter(|(i, ordinal)| payload.id(*ordinal) == Some(ids[*i].id)).collect();
        Ok((confirmed, payload))
    }
}
