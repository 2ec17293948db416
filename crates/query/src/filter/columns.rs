//! The columns that a filter may use.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use esker_format::schema::{ColumnType, Schema, Settings, arrow_schema};
use esker_format::segment::attributes::Literal;
use esker_format::{Error, Result};

use super::suggest;

/// What the values of a column are, as far as comparing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Int,
    Float,
    String,
    Strings,
    Time,
}

impl Kind {
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Boolean => "booleans",
            Kind::Int => "whole numbers",
            Kind::Float => "numbers",
            Kind::String => "text",
            Kind::Strings => "lists of text",
            Kind::Time => "times",
        }
    }
}

/// Every column of a table but `vector` (and `_row`, which is no column of it), in table order.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    arrow: SchemaRef,
    kinds: HashMap<String, Kind>,
}

impl Columns {
    pub fn new(settings: &Settings, schema: &Schema) -> Self {
        let fields = arrow_schema(settings, schema)
            .fields()
            .iter()
            .filter(|f| !matches!(f.name().as_str(), "vector" | "_row"))
            .cloned()
            .collect::<Vec<_>>();
        let kinds = fields
            .iter()
            .map(|f| {
                let kind = match (schema.get(f.name()).map(|c| c.kind), f.name().as_str()) {
                    (Some(ColumnType::Boolean), _) => Kind::Boolean,
                    (Some(ColumnType::Int), _) | (None, "_version" | "_seq") => Kind::Int,
                    (Some(ColumnType::Float), _) => Kind::Float,
                    (Some(ColumnType::String), _) | (None, "id") => Kind::String,
                    (Some(ColumnType::Strings), _) => Kind::Strings,
                    (None, _) => Kind::Time,
                };
                (f.name().clone(), kind)
            })
            .collect();
        Columns { arrow: Arc::new(ArrowSchema::new(fields)), kinds }
    }

    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.kinds.get(name).copied()
    }

    /// A literal in the column's Arrow type.
    pub fn scalar(&self, name: &str, literal: &Literal) -> ScalarValue {
        match literal {
            Literal::Bool(v) => ScalarValue::from(*v),
            Literal::Int(v) if self.kind(name) == Some(Kind::Time) => {
                ScalarValue::TimestampMillisecond(Some(*v), Some("UTC".into()))
            }
            Literal::Int(v) => ScalarValue::from(*v),
            Literal::Float(v) => ScalarValue::from(*v),
            Literal::String(v) => ScalarValue::from(v.as_str()),
        }
    }

    /// Refuses a column that is not there.
    pub fn check(&self, name: &str) -> Result<()> {
        if self.kinds.contains_key(name) {
            return Ok(());
        }
        if name == "vector" {
            return Err(Error::invalid("filter", "a filter cannot use the column vector")
                .with_hint("search by vector, or limit the distance with max_distance"));
        }
        let error = Error::invalid(name, format!("unknown column {}", suggest::ident(name)));
        let known = self.arrow.fields().iter().map(|f| f.name().as_str());
        Err(match suggest::hint("columns", name, known) {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    pub fn planning(&self) -> Result<DFSchema> {
        DFSchema::try_from(self.arrow.as_ref().clone())
            .map_err(|e| Error::internal("the table's schema cannot be planned with").with_source(e))
    }

    /// The Arrow schema of those columns that `wanted` names, in table order.
    pub fn project(&self, wanted: impl Fn(&str) -> bool) -> SchemaRef {
        let fields: Vec<_> = self.arrow.fields().iter().filter(|f| wanted(f.name())).cloned().collect();
        Arc::new(ArrowSchema::new(fields))
    }
}
