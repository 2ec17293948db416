//! Which rows of a segment pass a filter and have not expired: from attributes where these can tell, else from columns.

use std::borrow::Cow;
use std::ops::{Bound, Range};
use std::sync::Arc;

use arrow::array::BooleanArray;
use bytes::Bytes;
use esker_format::schema::Schema;
use esker_format::segment::attributes::{Directory, Literal, Plan, Predicate};
use esker_format::{CollectionId, Error, Result};
use esker_store::{Client, Meter};
use futures::{StreamExt, stream};
use roaring::RoaringBitmap;

use super::ids::Hashed;
use super::{Rows, Segment};
use crate::filter::{Part, Resolved};
use crate::ranges::{Pieces, Shape, Thrift};

/// Row groups whose columns are read at once: as many requests as a wave has.
const COLUMNS_AT_ONCE: usize = 64;
/// Requests for attributes.
const ATTRIBUTES: Thrift = Thrift { requests: 16, waste: 512 << 10 };

/// What a filter is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct FilterPlan {
    /// Terms answered by attributes.
    pub attributes: usize,
    /// Terms answered by the id map.
    pub ids: usize,
    /// Columns that were read whole for the other terms.
    pub columns: Vec<String>,
}

/// The rows of a segment that a query may return.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Rows that pass the filter and have not expired.
    pub rows: Rows,
    pub plan: FilterPlan,
}

/// Who answers a term.
enum Source {
    Attributes(Plan),
    Ids(Vec<String>),
    Columns(Part),
}

impl Segment {
    /// The rows that pass `filter` and have not expired by `now_ms`. One wave, two where columns have no entry in the
    /// directory or terms are about the id.
    pub async fn answer(
        &self,
        client: &Client,
        meter: &Meter,
        id: &CollectionId,
        schema: &Arc<Schema>,
        filter: Option<&Resolved>,
        now_ms: i64,
    ) -> Result<Answer> {
        let expired = Predicate::Range {
            column: "_expires_at".to_owned(),
            low: Bound::Unbounded,
            high: Bound::Excluded(Literal::Int(now_ms)),
        };
        let terms: Vec<&Predicate> = filter.map(|f| f.tree.predicates()).unwrap_or_default();
        let directory = self.directory(client, meter, terms.iter().copied().chain([&expired])).await?;
        let mut sources = Vec::with_capacity(terms.len());
        for term in &terms {
            sources.push(match (filter, source(&directory, term)) {
                (_, Some(source)) => source,
                (Some(filter), None) => Source::Columns(filter.part(&filter.leaf(term))?),
                (None, None) => return Err(Error::internal("a term without a filter")),
            });
        }
        let others = match filter {
            Some(f) => f.tree.others().into_iter().map(|e| f.part(e)).collect::<Result<Vec<_>>>()?,
            None => Vec::new(),
        };
        let gone = directory.plan(&expired).ok_or_else(|| self.corrupt("it cannot tell what has expired"))?;
        let plan = describe(&sources, &others);
        let (attributes_meter, ids_meter, columns_meter) = (meter.fork(), meter.fork(), meter.fork());
        let (by_attributes, by_ids, by_columns) = futures::try_join!(
            self.by_attributes(client, &attributes_meter, &sources, &gone),
            self.by_ids(client, &ids_meter, id, schema, &sources),
            self.by_columns(client, &columns_meter, &sources, &others),
        )?;
        let ((by_attributes, gone), (by_columns, by_others)) = (by_attributes, by_columns);
        let Some(filter) = filter else {
            return Ok(Answer { rows: Rows::except(self.row_count(), &gone), plan });
        };
        let mut leaf = |p: &Predicate| {
            let at = terms.iter().position(|t| *t == p);
            let found = at.and_then(|i| {
                by_attributes[i].clone().or_else(|| by_ids[i].clone()).or_else(|| by_columns[i].clone())
            });
            found.ok_or_else(|| Error::internal("a term of the filter was not answered"))
        };
        let expressions = filter.tree.others();
        let mut other = |e: &_| {
            let at = expressions.iter().position(|o| *o == e).and_then(|i| by_others.get(i).cloned());
            at.ok_or_else(|| Error::internal("a part of the filter was not answered"))
        };
        let passing = filter.tree.eval(self.row_count(), &mut leaf, &mut other)?;
        Ok(Answer { rows: Rows::Only(Arc::new(passing - gone)), plan })
    }

    /// Whether rows may expire: else what passes a filter passes it for ever.
    pub fn expires(&self) -> bool {
        let ever = Predicate::Range {
            column: "_expires_at".to_owned(),
            low: Bound::Unbounded,
            high: Bound::Included(Literal::Int(i64::MAX)),
        };
        let plan = self.header.attributes().plan(&ever);
        plan.is_none_or(|p| !p.ranges.is_empty() || p.evaluate(&[]).map_or(true, |rows| !rows.is_empty()))
    }

    /// The attribute directory with the entries of the terms' columns; those that did not fit the header are read.
    async fn directory<'a>(
        &self,
        client: &Client,
        meter: &Meter,
        terms: impl Iterator<Item = &'a Predicate>,
    ) -> Result<Cow<'_, Directory>> {
        let directory = self.header.attributes();
        let mut cold: Vec<(&str, Range<u64>)> =
            terms.filter_map(|t| Some((t.column(), directory.cold(t.column())?))).collect();
        if cold.is_empty() {
            return Ok(Cow::Borrowed(directory));
        }
        cold.sort_unstable_by_key(|(name, _)| *name);
        cold.dedup();
        let ranges: Vec<Range<u64>> = cold.iter().map(|(_, r)| r.clone()).collect();
        let take = |pieces: &Pieces| {
            let mut loaded = directory.clone();
            for (name, range) in &cold {
                loaded.load(name, &pieces.bytes(range)?)?;
            }
            Ok(Cow::Owned(loaded))
        };
        self.index.read(client, meter, &ranges, Shape::Few(ATTRIBUTES), take).await
    }

    async fn by_attributes(
        &self,
        client: &Client,
        meter: &Meter,
        sources: &[Source],
        gone: &Plan,
    ) -> Result<(Vec<Option<RoaringBitmap>>, RoaringBitmap)> {
        let plans =
            || sources.iter().map(|s| if let Source::Attributes(plan) = s { Some(plan) } else { None });
        let ranges: Vec<Range<u64>> =
            plans().flatten().chain([gone]).flat_map(|p| p.ranges.iter().cloned()).collect();
        let take = |pieces: &Pieces| {
            let run = |plan: &Plan| {
                let bytes = plan.ranges.iter().map(|r| pieces.bytes(r)).collect::<Result<Vec<Bytes>>>()?;
                plan.evaluate(&bytes)
            };
            let terms = plans().map(|p| p.map(&run).transpose()).collect::<Result<Vec<_>>>()?;
            Ok((terms, run(gone)?))
        };
        self.index.read(client, meter, &ranges, Shape::Few(ATTRIBUTES), take).await
    }

    async fn by_ids(
        &self,
        client: &Client,
        meter: &Meter,
        id: &CollectionId,
        schema: &Arc<Schema>,
        sources: &[Source],
    ) -> Result<Vec<Option<RoaringBitmap>>> {
        let mut out = Vec::with_capacity(sources.len());
        for source in sources {
            out.push(match source {
                Source::Ids(ids) => {
                    let hashed: Vec<Hashed<'_>> =
                        ids.iter().map(|i| Hashed { id: i, hash: id.hash_id(i) }).collect();
                    let (found, _) = self.rows_of_ids(client, meter, schema, &hashed).await?;
                    Some(found.into_iter().map(|(_, ordinal)| ordinal).collect())
                }
                _ => None,
            });
        }
        Ok(out)
    }

    async fn by_columns(
        &self,
        client: &Client,
        meter: &Meter,
        sources: &[Source],
        others: &[Part],
    ) -> Result<(Vec<Option<RoaringBitmap>>, Vec<RoaringBitmap>)> {
        let parts = || sources.iter().map(|s| if let Source::Columns(part) = s { Some(part) } else { None });
        let names = columns(parts().flatten().chain(others));
        let mut by_term: Vec<_> = parts().map(|p| p.map(|_| RoaringBitmap::new())).collect();
        let mut by_other = vec![RoaringBitmap::new(); others.len()];
        if parts().flatten().next().is_none() && others.is_empty() {
            return Ok((by_term, by_other));
        }
        let reads = (0..self.row_groups()).map(|group| {
            let meter = meter.fork();
            let names = &names;
            async move { self.read_columns(client, &meter, group, names).await }
        });
        // As they come: of all row groups at once the columns would take too much memory.
        let reads = stream::iter(reads).buffered(COLUMNS_AT_ONCE).enumerate();
        futures::pin_mut!(reads);
        while let Some((group, batch)) = reads.next().await {
            let (first, batch) = (self.header.rows().group_rows(group).start, batch?);
            for (part, rows) in parts().zip(&mut by_term) {
                if let (Some(part), Some(rows)) = (part, rows) {
                    insert(rows, first, &part.mask(&batch)?);
                }
            }
            for (part, rows) in others.iter().zip(&mut by_other) {
                insert(rows, first, &part.mask(&batch)?);
            }
        }
        Ok((by_term, by_other))
    }
}

/// Who answers a term, if not columns.
fn source(directory: &Directory, term: &Predicate) -> Option<Source> {
    match (term.column(), term) {
        ("id", Predicate::Eq(_, Literal::String(id))) => Some(Source::Ids(vec![id.clone()])),
        ("id", Predicate::In(_, literals)) => {
            let ids =
                literals.iter().map(|l| if let Literal::String(s) = l { Some(s.clone()) } else { None });
            Some(Source::Ids(ids.collect::<Option<_>>()?))
        }
        // The directory would take them for columns that the segment does not have.
        ("id" | "_seq", _) => None,
        _ => directory.plan(term).map(Source::Attributes),
    }
}

fn describe(sources: &[Source], others: &[Part]) -> FilterPlan {
    let mut plan = FilterPlan::default();
    let mut parts: Vec<&Part> = others.iter().collect();
    for source in sources {
        match source {
            Source::Attributes(_) => plan.attributes += 1,
            Source::Ids(_) => plan.ids += 1,
            Source::Columns(part) => parts.push(part),
        }
    }
    plan.columns = columns(parts.into_iter()).into_iter().map(str::to_owned).collect();
    plan
}

/// Every column that some part reads, once.
fn columns<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<&'a str> {
    let mut names: Vec<&str> = parts.flat_map(|p| p.columns()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn insert(rows: &mut RoaringBitmap, first: u32, mask: &BooleanArray) {
    rows.extend(mask.values().set_indices_u32().map(|i| first + i));
}
