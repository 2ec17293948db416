//! What a segment's attributes can answer about one column.

use std::ops::Bound;

/// A value to compare a column with. Times are milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A boolean.
    Bool(bool),
    /// A whole number, or a time.
    Int(i64),
    /// A finite number.
    Float(f64),
    /// Text.
    String(String),
}

/// A test of one column, true or not true; a missing value is true only of `IsNull`.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// The column equals the value.
    Eq(String, Literal),
    /// The column equals one of the values.
    In(String, Vec<Literal>),
    /// The column lies between the bounds.
    Range {
        /// The column.
        col: String,
        /// From here.
        low: Bound<Literal>,
        /// To here.
        high: Bound<Literal>,
    },
    /// The list in the column has this element.
    Contains(String, String),
    /// The column has no value.
    IsNull(String),
}
