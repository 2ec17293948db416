//! Headers of S3 requests and replies: what is stored with an object, and the conditions of reads and writes.

use object_store::{Attribute, Attributes, ObjectMeta, PutMode, UpdateVersion};
use s3s::dto::{ETag, ETagCondition, Metadata, Timestamp};
use s3s::{S3Result, s3_error};
use std::time::{Duration, SystemTime};

/// The headers stored with an object.
#[derive(Default)]
pub(super) struct Headers {
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) metadata: Option<Metadata>,
}

impl From<Headers> for Attributes {
    fn from(headers: Headers) -> Self {
        let named = [
            (Attribute::CacheControl, headers.cache_control),
            (Attribute::ContentDisposition, headers.content_disposition),
            (Attribute::ContentEncoding, headers.content_encoding),
            (Attribute::ContentLanguage, headers.content_language),
            (Attribute::ContentType, headers.content_type),
        ];
        let named = named.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
        let free = headers.metadata.into_iter().flatten();
        named.chain(free.map(|(name, value)| (Attribute::Metadata(name.into()), value))).collect()
    }
}

impl From<Attributes> for Headers {
    fn from(attributes: Attributes) -> Self {
        let mut headers = Self::default();
        for (name, value) in &attributes {
            let value = value.to_string();
            match name {
                Attribute::CacheControl => headers.cache_control = Some(value),
                Attribute::ContentDisposition => headers.content_disposition = Some(value),
                Attribute::ContentEncoding => headers.content_encoding = Some(value),
                Attribute::ContentLanguage => headers.content_language = Some(value),
                Attribute::ContentType => headers.content_type = Some(value),
                Attribute::Metadata(name) => {
                    headers.metadata.get_or_insert_default().insert(name.to_string(), value);
                }
                _ => {}
            }
        }
        headers
    }
}

/// The conditions of a read, in RFC 9110's order. Dates count in whole seconds, as they travel.
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl Conditions {
    pub(super) fn check(&self, meta: &ObjectMeta) -> S3Result<()> {
        let modified = whole_second(meta.last_modified.into());
        let same = |condition: &ETagCondition| {
            condition.is_any() || condition.as_etag() == meta.e_tag.clone().map(tag).as_ref()
        };
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !same(condition) => return Err(s3_error!(PreconditionFailed)),
            (None, Some(date)) if modified > *date => return Err(s3_error!(PreconditionFailed)),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if same(condition) => Err(s3_error!(NotModified)),
            (None, Some(date)) if modified <= *date => Err(s3_error!(NotModified)),
            _ => Ok(()),
        }
    }
}

pub(super) fn put_mode(
    none_match: Option<&ETagCondition>,
    if_match: Option<&ETagCondition>,
) -> S3Result<PutMode> {
    match (none_match, if_match) {
        (None, None) => Ok(PutMode::Overwrite),
        (Some(condition), None) if condition.is_any() => Ok(PutMode::Create),
        (None, Some(condition)) => match condition.as_etag() {
            Some(etag) => {
                let e_tag = Some(format!("\"{}\"", etag.value()));
                Ok(PutMode::Update(UpdateVersion { e_tag, version: None }))
            }
            None => Err(s3_error!(NotImplemented)),
        },
        // As S3: the only value it takes on a put is `*`.
        _ => Err(s3_error!(NotImplemented)),
    }
}

/// The world's tags come with their quotes, s3s adds them.
pub(super) fn tag(text: String) -> ETag {
    ETag::Strong(text.trim_matches('"').to_owned())
}

pub(super) fn whole_second(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
}
