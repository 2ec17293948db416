//! Which collections a caller may name.

use std::fmt;
use std::sync::Arc;

use http::Extensions;

type Allows = dyn Fn(Option<&str>) -> bool + Send + Sync;

/// Says of a collection whether a caller may name it; `None` stands for the store as a whole. An extension of requests that
/// name their collection in the message, put there by whoever looked at the caller's key: only the service can compare.
#[derive(Clone)]
pub struct Allowed(Arc<Allows>);

impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Allowed")
    }
}

impl Allowed {
    /// Allows what `allows` says.
    pub fn new(allows: impl Fn(Option<&str>) -> bool + Send + Sync + 'static) -> Self {
        Allowed(Arc::new(allows))
    }

    /// Whether a request may name a collection. One without this extension may name all.
    pub fn by(extensions: &Extensions, collection: Option<&str>) -> bool {
        extensions.get::<Allowed>().is_none_or(|Allowed(allows)| allows(collection))
    }
}
