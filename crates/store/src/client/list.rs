//! Listings, one request a page.

use esker_format::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::list::PaginatedListOptions;
use object_store::path::Path;

use super::{Client, ETag, Failure, failed};
use crate::meter::{Meter, Method};

/// Most keys that S3 puts on one page.
const PAGE: usize = 1000;

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key relative to the store's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Names its content.
    pub etag: ETag,
    /// When it was last written, by the store's clock, in milliseconds since the epoch.
    pub modified_ms: i64,
}

/// One page of a listing, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// Whether there are more after the last.
    pub more: bool,
}

impl Client {
    /// At most `limit` (≤ 1000) objects under `prefix`, a folder that ends in `/` or is empty, with keys after
    /// `start_after`. One LIST request.
    pub async fn list_page(
        &self,
        meter: &Meter,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(Error::internal(format!("LIST {prefix}: not a folder")));
        }
        let limit = limit.min(PAGE);
        let once = || async {
            let ticket = meter.start(Method::List, prefix, None, 0);
            let page = match &self.backend.pages {
                Some(_) => self.list_paged(prefix, start_after, limit).await,
                None => self.list_streamed(prefix, start_after, limit).await,
            };
            ticket.finish(0);
            page
        };
        self.retrying(once).await.map_err(|e| failed("LIST", prefix, e))
    }

    /// Every object under `prefix`, sorted by key.
    pub async fn list_all(&self, meter: &Meter, prefix: &str) -> Result<Vec<Listed>> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let after = all.last().map(|l| l.key.clone());
            let page = self.list_page(meter, prefix, after.as_deref(), PAGE).await?;
            let empty = page.objects.is_empty();
            all.extend(page.objects);
            if !page.more || empty {
                return Ok(all);
            }
        }
    }

    async fn list_paged(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Failure> {
        let Some(pages) = &self.backend.pages else {
            return Ok(Page::default());
        };
        let folder = format!("{}{prefix}", self.root());
        let options = PaginatedListOptions {
            offset: after.map(|key| format!("{}{key}", self.root())),
            max_keys: Some(limit),
            ..PaginatedListOptions::default()
        };
        let folder = (!folder.is_empty()).then_some(folder.as_str());
        let reply = self.in_time(0, pages.list_paginated(folder, options)).await?;
        Ok(Page { objects: self.listed(reply.result.objects), more: reply.page_token.is_some() })
    }

    async fn list_streamed(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Failure> {
        let objects = &self.backend.objects;
        let path = |key: &str| Path::parse(key).map_err(|e| Failure::Key(e.to_string()));
        let folder = path(format!("{}{prefix}", self.root()).trim_end_matches('/'))?;
        let stream = match after {
            Some(key) => objects.list_with_offset(Some(&folder), &path(&format!("{}{key}", self.root()))?),
            None => objects.list(Some(&folder)),
        };
        let mut found: Vec<ObjectMeta> = self.in_time(0, stream.take(limit + 1).try_collect()).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(Page { objects: self.listed(found), more })
    }

    /// `""`, or the store's prefix with a slash.
    fn root(&self) -> String {
        match self.backend.prefix.as_ref() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    fn listed(&self, metas: Vec<ObjectMeta>) -> Vec<Listed> {
        let root = self.root();
        let relative = |meta: ObjectMeta| {
            let key = meta.location.as_ref().strip_prefix(root.as_str())?.to_owned();
            let etag = ETag(meta.e_tag.unwrap_or_default());
            Some(Listed { key, size: meta.size, etag, modified_ms: meta.last_modified.timestamp_millis() })
        };
        let mut listed: Vec<Listed> = metas.into_iter().filter_map(relative).collect();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed
    }
}
