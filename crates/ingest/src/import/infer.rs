//! Which column of a file is what, and why.

use esker_format::record::Record;
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType, check_key};
use esker_format::{Error, Result, limits};
use serde::Serialize;

use super::sample::{Element, Key, Sample, SampleColumn, Shape, VectorShape};

/// Columns that map to fields of the record.
pub(crate) const FIELDS: [&str; 4] = ["_timestamp", "_created_at", "_expires_at", "_version"];
/// Columns that the store itself sets, as an export has them.
pub(crate) const OWN: [&str; 3] = ["_updated_at", "_seq", "_row"];
/// Names of columns that are ids when they can be, best first.
const ID_NAMES: [&str; 5] = ["id", "_id", "key", "uuid", "name"];
/// Names of the column to take when several could hold the vectors, best first.
const VECTOR_NAMES: [&str; 7] = ["vector", "embedding", "embeddings", "vectors", "vec", "emb", "values"];

/// What the user says instead of what would be inferred.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The column with the ids.
    pub id_column: Option<String>,
    /// The column with the vectors.
    pub vector_column: Option<String>,
    /// Columns to leave out.
    pub skip_columns: Vec<String>,
    /// The metric of a collection to be created.
    pub metric: Option<Metric>,
    /// The element type of a collection to be created.
    pub vector_type: Option<VectorType>,
    /// The settings of the collection, if it exists.
    pub existing: Option<Settings>,
}

/// What the columns of a file are. Serialised, it identifies what an import makes of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inference {
    /// The column with the ids; without one the row's number in the file, from 0, is the id.
    pub id_column: Option<String>,
    /// The column with the vectors.
    pub vector_column: String,
    /// Elements of every vector.
    pub dimension: u32,
    /// How the collection stores them.
    pub vector_type: VectorType,
    /// The collection's metric.
    pub metric: Metric,
    /// The metadata columns.
    pub columns: Vec<Column>,
    /// Columns that map to fields of the record: `_timestamp`, `_created_at`, `_expires_at`, `_version`.
    pub fields: Vec<String>,
    /// Columns that are left out.
    pub skipped: Vec<String>,
    /// What was inferred and why, a line each.
    pub notes: Vec<String>,
}

impl Inference {
    /// Settings of a collection for this file.
    pub fn settings(&self) -> Settings {
        Settings { dimension: self.dimension, metric: self.metric, vector_type: self.vector_type }
    }

    /// Columns of a collection for this file.
    pub fn schema(&self) -> Schema {
        Schema { columns: self.columns.clone() }
    }
}

/// Decides.
///
/// # Errors
/// Invalid, naming a column and with a hint, when no decision is safe.
pub(crate) fn infer(sample: &Sample, overrides: &Overrides) -> Result<Inference> {
    check_names(sample, overrides)?;
    let mut notes = Vec::new();
    let (vector, shape) = vector_column(sample, overrides, &mut notes)?;
    let id = id_column(sample, overrides, &vector.name, &mut notes)?;
    let mut out = Inference {
        id_column: id,
        vector_column: vector.name.clone(),
        dimension: dimension(&vector.name, shape.dimension)?,
        vector_type: vector_type(shape, overrides, &mut notes),
        metric: metric(shape.unit, overrides, &mut notes),
        columns: Vec::new(),
        fields: Vec::new(),
        skipped: Vec::new(),
        notes,
    };
    for column in &sample.columns {
        let name = &column.name;
        if *name != out.vector_column && out.id_column.as_ref() != Some(name) {
            other_column(column, overrides, &mut out)?;
        }
    }
    if out.columns.len() > limits::COLUMNS {
        let message = format!("{} metadata columns, the limit is {}", out.columns.len(), limits::COLUMNS);
        return Err(Error::invalid("columns", message).with_hint("leave columns out with --skip-column"));
    }
    check_existing(&out, overrides)?;
    Ok(out)
}

/// What a file of records in the schema of WIRE §1 is: nothing needs to be inferred but the settings.
pub(crate) fn infer_records(
    first: &Record,
    unit: bool,
    columns: Vec<Column>,
    overrides: &Overrides,
) -> Result<Inference> {
    let fixed = |given: &Option<String>, is: &str| given.as_deref().is_none_or(|name| name == is);
    if !(fixed(&overrides.id_column, "id")
        && fixed(&overrides.vector_column, "vector")
        && overrides.skip_columns.is_empty())
    {
        return Err(Error::invalid("columns", "the file holds whole records: its columns cannot be chosen")
            .with_hint("leave out --id-column, --vector-column and --skip-column"));
    }
    let mut notes = vec!["the file holds whole records, which are taken as they are".to_owned()];
    let shape = VectorShape { dimension: first.vector.len(), element: Element::F32, unit };
    let out = Inference {
        id_column: Some("id".to_owned()),
        vector_column: "vector".to_owned(),
        dimension: dimension("vector", shape.dimension)?,
        vector_type: vector_type(shape, overrides, &mut notes),
        metric: metric(unit, overrides, &mut notes),
        columns,
        fields: Vec::new(),
        skipped: Vec::new(),
        notes,
    };
    check_existing(&out, overrides)?;
    Ok(out)
}

fn check_names(sample: &Sample, overrides: &Overrides) -> Result<()> {
    let given = overrides.id_column.iter().chain(&overrides.vector_column).chain(&overrides.skip_columns);
    for name in given {
        if sample.get(name).is_none() {
            let names: Vec<_> = sample.columns.iter().take(20).map(|c| c.name.as_str()).collect();
            return Err(Error::invalid(name, format!("the file has no column `{name}`"))
                .with_hint(format!("it has {}", names.join(", "))));
        }
    }
    let mut names: Vec<&str> = sample.columns.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(w) => Err(Error::invalid(w[0], format!("the file has two columns named `{}`", w[0]))),
        None => Ok(()),
    }
}

fn skips(overrides: &Overrides, name: &str) -> bool {
    overrides.skip_columns.iter().any(|s| s == name)
}

fn vector_column<'s>(
    sample: &'s Sample,
    overrides: &Overrides,
    notes: &mut Vec<String>,
) -> Result<(&'s SampleColumn, VectorShape)> {
    let all: Vec<_> = sample
        .columns
        .iter()
        .filter(|c| !skips(overrides, &c.name) && overrides.id_column.as_ref() != Some(&c.name))
        .filter_map(|c| Some((c, c.vector?)))
        .collect();
    if let Some(name) = &overrides.vector_column {
        return all.into_iter().find(|(c, _)| c.name == *name).ok_or_else(|| {
            let message = format!("column `{name}` does not hold vectors of one length in every row");
            Error::invalid(name, message).with_hint("vectors are lists of floats, or JSON arrays of numbers")
        });
    }
    // Lists of numbers before texts that look like them; then, of several, those that fit the collection.
    let mut of: Vec<_> = all.iter().filter(|(_, v)| v.element != Element::Text).copied().collect();
    if of.is_empty() {
        of.clone_from(&all);
    }
    if let Some(existing) = &overrides.existing
        && of.iter().any(|(_, v)| v.dimension == existing.dimension as usize)
    {
        of.retain(|(_, v)| v.dimension == existing.dimension as usize);
    }
    let named = || VECTOR_NAMES.iter().find_map(|n| of.iter().find(|(c, _)| c.name.eq_ignore_ascii_case(n)));
    let (found, why) = match of[..] {
        [] => {
            return Err(Error::invalid("vector", "no column holds vectors of one length in every row")
                .with_hint(
                    "name it with --vector-column; vectors are lists of floats, or JSON arrays of numbers",
                ));
        }
        [one] => (one, "the only column of equally long lists of numbers"),
        _ => match named() {
            Some(found) => (*found, "by its name, of several that could be"),
            None => {
                let names: Vec<_> = of.iter().map(|(c, _)| format!("`{}`", c.name)).collect();
                let message = format!("several columns could hold the vectors: {}", names.join(", "));
                return Err(Error::invalid("vector", message).with_hint("choose with --vector-column"));
            }
        },
    };
    notes.push(format!("vectors: column `{}`, {} dimensions ({why})", found.0.name, found.1.dimension));
    Ok(found)
}

fn id_column(
    sample: &Sample,
    overrides: &Overrides,
    vector: &str,
    notes: &mut Vec<String>,
) -> Result<Option<String>> {
    if let Some(name) = &overrides.id_column {
        if sample.get(name).is_some_and(|c| c.key == Key::No) || name == vector {
            return Err(Error::invalid(name, format!("column `{name}` is neither text nor whole numbers")));
        }
        return Ok(Some(name.clone()));
    }
    let mut why = Vec::new();
    for candidate in ID_NAMES {
        let columns = sample.columns.iter().filter(|c| c.name.eq_ignore_ascii_case(candidate));
        for column in columns.filter(|c| c.name != vector && !skips(overrides, &c.name)) {
            let name = &column.name;
            match &column.key {
                Key::Unique => {
                    notes.push(format!("ids: column `{name}` (by its name, and its values differ)"));
                    return Ok(Some(name.clone()));
                }
                Key::Not(reason) => why.push(format!("`{name}` {reason}")),
                Key::No => why.push(format!("`{name}` is neither text nor whole numbers")),
            }
        }
    }
    let why = match why.is_empty() {
        true => "no column is named id, _id, key, uuid or name".to_owned(),
        false => why.join(", "),
    };
    notes.push(format!("ids: row numbers from 0 ({why}); another file imported so would overwrite them"));
    Ok(None)
}

fn dimension(name: &str, n: usize) -> Result<u32> {
    u32::try_from(n).ok().filter(|n| (1..=limits::DIMENSION).contains(n)).ok_or_else(|| {
        let message = format!("column `{name}` has {n} dimensions, 1 to {} are possible", limits::DIMENSION);
        Error::invalid(name, message)
    })
}

fn vector_type(shape: VectorShape, overrides: &Overrides, notes: &mut Vec<String>) -> VectorType {
    if shape.element == Element::F64 {
        notes.push("64-bit vectors are rounded to 32 bits".to_owned());
    }
    if let Some(existing) = &overrides.existing {
        return existing.vector_type;
    }
    match (overrides.vector_type, shape.element) {
        (Some(t), _) => t,
        (None, Element::F16) => {
            notes.push("vector type: f16, as in the file, so nothing is lost".to_owned());
            VectorType::F16
        }
        (None, _) => VectorType::F32,
    }
}

fn metric(unit: bool, overrides: &Overrides, notes: &mut Vec<String>) -> Metric {
    if let Some(existing) = &overrides.existing {
        return existing.metric;
    }
    if let Some(metric) = overrides.metric {
        return metric;
    }
    notes.push(match unit {
        true => "metric: cosine (the vectors are of unit length)".to_owned(),
        false => "metric: cosine (the default; --metric l2 or dot changes it)".to_owned(),
    });
    Metric::Cosine
}

fn other_column(column: &SampleColumn, overrides: &Overrides, out: &mut Inference) -> Result<()> {
    let name = &column.name;
    if skips(overrides, name) {
        out.skipped.push(name.clone());
        return Ok(());
    }
    if OWN.contains(&name.as_str()) {
        out.notes.push(format!("column `{name}` is left out: the store sets it itself"));
        out.skipped.push(name.clone());
        return Ok(());
    }
    if FIELDS.contains(&name.as_str()) {
        let whole = matches!(column.shape, Shape::Typed(ColumnType::Int, _) | Shape::Empty);
        if whole || (column.shape == Shape::Time && name != "_version") {
            out.fields.push(name.clone());
            return Ok(());
        }
        let message =
            format!("column `{name}` is a field of the record and must hold whole numbers or times");
        return Err(
            Error::invalid(name, message).with_hint(format!("leave it out with --skip-column {name}"))
        );
    }
    metadata_column(column, out)
}

fn metadata_column(column: &SampleColumn, out: &mut Inference) -> Result<()> {
    let name = &column.name;
    let skip = |e: Error| {
        let hint = if ID_NAMES.contains(&name.as_str()) {
            format!(
                "make it the id with --id-column {name} (of equal ids the last wins) or leave it out with --skip-column {name}"
            )
        } else {
            format!("leave it out with --skip-column {name}")
        };
        Err(e.with_hint(hint))
    };
    if let Err(e) = check_key(name) {
        return skip(Error::invalid(name, format!("column `{name}`: {e}")));
    }
    let mut column_of = |kind| out.columns.push(Column { name: name.clone(), kind, wide: false });
    match &column.shape {
        Shape::Typed(kind, note) => {
            column_of(*kind);
            out.notes.extend(note.map(|n| format!("column `{name}`: {n}")));
        }
        Shape::Time => {
            column_of(ColumnType::Int);
            out.notes.push(format!("column `{name}`: times become whole milliseconds since 1970, UTC"));
        }
        // Typed when a value is first seen.
        Shape::Empty => out.notes.push(format!("column `{name}` has no values in the sample")),
        Shape::Other(what) => {
            return skip(Error::invalid(
                name,
                format!("column `{name}` is {what}, which metadata cannot hold"),
            ));
        }
    }
    Ok(())
}

fn check_existing(found: &Inference, overrides: &Overrides) -> Result<()> {
    match &overrides.existing {
        Some(existing) if existing.dimension != found.dimension => Err(Error::invalid(
            &found.vector_column,
            format!(
                "column `{}` has {} dimensions, the collection has {}",
                found.vector_column, found.dimension, existing.dimension
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
