//! What goes with a request from the guard to the service: which collections a caller may name, and how its write is
//! called.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use esker_format::Token;
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

/// When a request is given up, by the clock's `elapsed`: for work that can end sooner and say how far it is. An extension of
/// requests.
#[derive(Debug, Clone, Copy)]
pub struct Until(pub Duration);

/// The name of one write, known to whoever answers for it when it takes too long: that of its client, once it was read, or
/// else one that was drawn for it. An extension of requests that write.
#[derive(Debug, Clone)]
pub struct Named {
    drawn: Token,
    given: Arc<OnceLock<Token>>,
}

impl Named {
    /// A write whose client has not named it yet. `drawn` is for this request alone.
    pub fn new(drawn: Token) -> Self {
        Named { drawn, given: Arc::default() }
    }

    /// What the client calls it; the first name stays.
    pub fn give(&self, token: Token) {
        let _ = self.given.set(token);
    }

    /// The name under which it can be sent again.
    pub fn token(&self) -> Token {
        self.given.get().copied().unwrap_or(self.drawn)
    }

    /// The name that was drawn for it, which no earlier write can have.
    pub fn drawn(&self) -> Token {
        self.drawn
    }
}
