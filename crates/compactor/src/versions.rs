//! The row versions of a batch: what conservation is stated in.

use arrow::array::{Array, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use esker_format::{Error, Result, Seq, SetHash};

/// One version of a record: which write of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowVersion<'a> {
    pub(crate) id: &'a str,
    pub(crate) seq: Seq,
    /// Row within the entry.
    pub(crate) row: u32,
}

impl RowVersion<'_> {
    /// Its part of a set's hash.
    pub(crate) fn hash(&self) -> SetHash {
        SetHash::of(self.id, self.seq, self.row)
    }
}

/// The columns `id`, `_seq` and `_row` of a batch that has them.
pub(crate) struct Versions<'a> {
    ids: &'a StringArray,
    seqs: &'a Int64Array,
    rows: &'a Int32Array,
}

impl<'a> Versions<'a> {
    pub(crate) fn of(batch: &'a RecordBatch) -> Result<Self> {
        let column = |name| batch.column_by_name(name);
        let ids = column("id").and_then(|c| c.as_string_opt());
        let seqs = column("_seq").and_then(|c| c.as_primitive_opt::<Int64Type>());
        let rows = column("_row").and_then(|c| c.as_primitive_opt::<Int32Type>());
        match (ids, seqs, rows) {
            (Some(ids), Some(seqs), Some(rows)) => Ok(Versions { ids, seqs, rows }),
            _ => Err(Error::internal("rows have no id, _seq or _row")),
        }
    }

    pub(crate) fn get(&self, i: usize) -> RowVersion<'a> {
        RowVersion { id: self.ids.value(i), seq: self.seqs.value(i) as Seq, row: self.rows.value(i) as u32 }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Every row version of a batch, in order.
pub(crate) fn versions(batch: &RecordBatch) -> Result<impl Iterator<Item = RowVersion<'_>>> {
    let versions = Versions::of(batch)?;
    Ok((0..versions.len()).map(move |i| versions.get(i)))
}
