//! Objects that somebody else puts: a client, under a URL that was signed for it. Such an object may be put twice, so it is read
//! under the tag that it was found with.

use std::ops::Range;
use std::time::Duration;

use esker_format::Result;
use object_store::{GetOptions, GetRange};

use super::{Client, ETag, Failure, IfMatch, error, failed, missing};
use crate::meter::{Meter, Method};

impl Client {
    /// A URL under which one object can be put for `valid` without credentials; `None` where the store signs nothing. No
    /// request.
    ///
    /// # Errors
    /// Those of the credentials.
    pub async fn signed_put(&self, key: &str, valid: Duration) -> Result<Option<String>> {
        let Some(signer) = &self.backend.signer else { return Ok(None) };
        let path = self.path(key).map_err(|e| failed("PUT", key, e))?;
        match signer.signed_url(http::Method::PUT, &path, valid).await {
            Ok(url) => Ok(Some(url.into())),
            Err(e) => Err(failed("PUT", key, Failure::Store(e))),
        }
    }

    /// Size and tag of an object, or `None` if nothing has that name.
    ///
    /// # Errors
    /// Those of the store; Unavailable from one that has no tags.
    pub async fn stat(&self, meter: &Meter, key: &str) -> Result<Option<(u64, ETag)>> {
        let path = self.path(key).map_err(|e| failed("GET", key, e))?;
        let options = GetOptions::new().with_head(true);
        let found = self
            .retrying(|| async {
                let ticket = meter.start(Method::Get, key, None, 0);
                let reply = self.in_time(0, self.backend.objects.get_opts(&path, options.clone())).await;
                ticket.finish(0);
                reply.map(|reply| (reply.meta.size, reply.meta.e_tag))
            })
            .await;
        match found {
            Ok((size, Some(etag))) if !etag.is_empty() => Ok(Some((size, ETag(etag)))),
            Ok(_) => Err(failed("GET", key, Failure::Store(error::no_etags()))),
            Err(e) if missing(&e) => Ok(None),
            Err(e) => Err(failed("GET", key, e)),
        }
    }

    /// Exactly these bytes of an object, if it still is the one with this tag.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn range_if_match(
        &self,
        meter: &Meter,
        key: &str,
        range: Range<u64>,
        etag: &ETag,
    ) -> Result<IfMatch> {
        let wanted = range.end - range.start;
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        let options = options.with_if_match(Some(etag.0.clone()));
        match self.read(meter, key, options).await {
            Ok(read) if read.bytes.len() as u64 == wanted => Ok(IfMatch::Some(read.bytes)),
            Ok(read) => Err(error::too_short(key, &range, read.size)),
            Err(e) if missing(&e) => Ok(IfMatch::Gone),
            Err(Failure::Store(object_store::Error::Precondition { .. })) => Ok(IfMatch::Gone),
            Err(e) => Err(failed("GET", key, e)),
        }
    }
}
