//! DataFusion's errors in our words: what kind, which field, what to do.

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use esker_format::{Error, Kind};

use crate::filter::suggest;

/// Said of a query that needs more memory than there is for it.
pub(crate) const EXHAUSTED: &str = "the query needs more memory than one query may use";

/// The error that a caller sees. `field` is the part of the request that was being worked on.
pub(crate) fn from_datafusion(field: &str, error: DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            from_datafusion(field, *inner)
        }
        DataFusionError::Shared(shared) => match std::sync::Arc::try_unwrap(shared) {
            Ok(inner) => from_datafusion(field, inner),
            Err(shared) => by_reference(field, &shared),
        },
        DataFusionError::Collection(mut errors) if !errors.is_empty() => {
            from_datafusion(field, errors.swap_remove(0))
        }
        DataFusionError::External(inner) => external(field, inner),
        DataFusionError::ArrowError(inner, _) => match *inner {
            ArrowError::ExternalError(inner) => external(field, inner),
            other => Error::invalid(field, clean(&other.to_string())),
        },
        DataFusionError::SchemaError(schema, _) => schema_error(field, &schema),
        DataFusionError::SQL(parser, _) => {
            let text = parser.to_string();
            Error::invalid(field, clean(text.trim_start_matches("sql parser error: ")))
                .context("cannot parse")
        }
        DataFusionError::Plan(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Configuration(text)
        | DataFusionError::Execution(text) => {
            let (message, hint) = match text.split_once("Did you mean") {
                Some((message, near)) => {
                    (message, Some(format!("did you mean {}", clean(near).replace('\'', "`"))))
                }
                None => (text.as_str(), None),
            };
            let error = Error::invalid(field, clean(message));
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        DataFusionError::ResourcesExhausted(_) => {
            Error::invalid(field, EXHAUSTED).with_hint("add a LIMIT, a filter, or select fewer columns")
        }
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => {
            Error::new(Kind::Unavailable, "the store did not answer").with_source(error)
        }
        other => Error::internal(clean(&other.strip_backtrace())),
    }
}

/// Our own errors pass through planning and execution in a box.
pub(crate) fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn external(field: &str, inner: Box<dyn std::error::Error + Send + Sync>) -> Error {
    match inner.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(inner) => match inner.downcast::<DataFusionError>() {
            Ok(theirs) => from_datafusion(field, *theirs),
            Err(other) => Error::internal(other.to_string()).with_source(other),
        },
    }
}

/// The error behind a shared one, copied.
fn by_reference(field: &str, error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => {
                let copy = Error::new(ours.kind(), ours.to_string());
                match ours.hint() {
                    Some(hint) => copy.with_hint(hint),
                    None => copy,
                }
            }
            None => Error::internal(inner.to_string()),
        },
        DataFusionError::Internal(text) => Error::internal(clean(text)),
        root => Error::invalid(field, clean(&root.strip_backtrace())),
    }
}

fn schema_error(field: &str, error: &SchemaError) -> Error {
    let SchemaError::FieldNotFound { field: missing, valid_fields } = error else {
        return Error::invalid(field, clean(&error.to_string()));
    };
    let error = Error::invalid(missing.name(), format!("unknown column {}", suggest::ident(missing.name())));
    match suggest::hint("columns", missing.name(), valid_fields.iter().map(|c| c.name())) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The first line of a message, lowercase like ours, without the names of DataFusion's stages.
fn clean(message: &str) -> String {
    /// What DataFusion puts before a message.
    const PREFIXES: [&str; 8] = [
        "Error during planning: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Arrow error: ",
        "Schema error: ",
        "External error: ",
        "SQL error: ",
        "Optimizer rule ",
    ];
    /// What it puts before a message of a function's own about its arguments.
    const COERCION: &str = "user-defined coercion failed with: ";
    let mut rest = message.trim();
    while let Some(shorter) = PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
        rest = shorter.trim_start();
    }
    if let Some((_, ours)) = rest.split_once(COERCION) {
        let ours = ours.trim_start_matches("Error during planning: ");
        rest = ours.split_once(". No function matches").map_or(ours, |(ours, _)| ours);
    }
    let line = rest.lines().next().unwrap_or_default().trim_end_matches(['.', ' ']);
    let mut chars = line.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(line.chars().skip(1)).collect()
        }
        _ => line.to_owned(),
    }
}
