//! The S3 operations over a [`World`]: what AWS documents, for the subset that object_store uses.

use super::headers::{Conditions, Headers, put_mode, tag, whole_second};
use super::weakness::{Memory, STALE};
use super::{Shared, Weakness};
use crate::world::{Effect, ListPage, Object};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Attributes, CopyMode, Error, ObjectMeta, PutMode, PutResult};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Names per page of a listing at most.
const PAGE: usize = 1000;
/// The tag of every object of a store with [`Weakness::SameETag`].
const SAME_TAG: &str = "\"tag\"";
/// How long a store with [`Weakness::NonAtomicCreate`] takes between looking and writing.
const RACE: Duration = Duration::from_millis(25);

pub(super) struct Service {
    shared: Arc<Shared>,
    uploads: Mutex<HashMap<String, Upload>>,
    memory: Memory,
}

struct Upload {
    key: Path,
    attributes: Attributes,
    parts: BTreeMap<i32, Bytes>,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, uploads: Mutex::default(), memory: Memory::default() }
    }

    fn weak(&self, weakness: Weakness) -> bool {
        self.shared.weakness() == Some(weakness)
    }

    fn bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.shared.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, bucket: &str, key: &str) -> S3Result<Object> {
        self.bucket(bucket)?;
        let location = path(key)?;
        let current = self.shared.world.object(&location);
        match self.memory.seen(self.shared.weakness(), &location, current, now()) {
            Some(mut object) => {
                object.meta.e_tag = object.meta.e_tag.map(|tag| self.read_tag(tag));
                Ok(object)
            }
            None if self.weak(Weakness::MissingIsForbidden) => Err(s3_error!(AccessDenied)),
            None if self.weak(Weakness::MissingIsEmpty) => Ok(nothing(location)),
            None => Err(s3_error!(NoSuchKey)),
        }
    }

    /// The tag that a read, or a put, of an object with this one gives.
    fn read_tag(&self, tag: String) -> String {
        if self.weak(Weakness::SameETag) { SAME_TAG.to_owned() } else { tag }
    }

    /// The tag that a listing gives.
    fn listed_tag(&self, tag: String) -> String {
        match self.shared.weakness() {
            Some(Weakness::ListedETagDiffers) => format!("\"listed-{}\"", tag.trim_matches('"')),
            _ => self.read_tag(tag),
        }
    }

    /// The one place where a put takes effect.
    async fn put(
        &self,
        key: &str,
        body: Bytes,
        attributes: Attributes,
        mode: PutMode,
    ) -> S3Result<PutResult> {
        let location = path(key)?;
        let mode = match mode {
            PutMode::Create if self.weak(Weakness::IgnoreIfNoneMatch) => PutMode::Overwrite,
            PutMode::Create if self.weak(Weakness::CreateSaysCreated) => {
                if let Some(there) = self.shared.world.object(&location) {
                    return Ok(PutResult { e_tag: there.meta.e_tag, version: None });
                }
                PutMode::Create
            }
            PutMode::Create if self.weak(Weakness::NonAtomicCreate) => {
                if self.shared.world.object(&location).is_some() {
                    return Err(s3_error!(PreconditionFailed));
                }
                pause(RACE).await;
                PutMode::Overwrite
            }
            mode => mode,
        };
        self.memory.note_write(&self.shared.world, &location, now());
        let effect = Effect::Put { location, body, attributes, mode };
        self.shared.world.apply(&effect).map_err(refuse)
    }

    /// One page of names after `after`, or, on a further page, after `token`.
    fn list(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        (token, after): (Option<&str>, Option<&str>),
        max: usize,
    ) -> ListPage {
        let mut page = match self.weak(Weakness::UnorderedList) {
            true => self.backwards(prefix, delimiter, (token, after), max),
            false => self.shared.world.page(prefix, delimiter, token.or(after), max),
        };
        if self.weak(Weakness::StaleList) {
            let now = now();
            page.objects
                .retain(|meta| now.duration_since(meta.last_modified.into()).is_ok_and(|age| age > STALE));
        }
        if self.weak(Weakness::ListEndsEarly) {
            page.next = None;
        }
        for meta in &mut page.objects {
            meta.e_tag = meta.e_tag.take().map(|tag| self.listed_tag(tag));
        }
        page
    }

    /// A page of names in descending order.
    fn backwards(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        (token, after): (Option<&str>, Option<&str>),
        max: usize,
    ) -> ListPage {
        let mut page = self.shared.world.page(prefix, delimiter, after, usize::MAX);
        page.objects.reverse();
        page.objects.retain(|meta| token.is_none_or(|token| meta.location.as_ref() < token));
        if page.objects.len() > max {
            page.objects.truncate(max);
            page.next = page.objects.last().map(|meta| meta.location.to_string());
        }
        page
    }

    fn delete(&self, key: &str) -> S3Result<()> {
        let location = path(key)?;
        self.memory.note_write(&self.shared.world, &location, now());
        self.shared.world.apply(&Effect::Delete { location }).map_err(refuse)?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let mode = put_mode(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let attributes = Headers {
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            content_type: input.content_type,
            metadata: input.metadata,
        };
        let body = collect(input.body).await?;
        let put = self.put(&input.key, body, attributes.into(), mode).await?;
        let e_tag = put.e_tag.map(|text| tag(self.read_tag(text)));
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let object = self.object(&input.bucket, &input.key)?;
        let if_match = input.if_match.filter(|_| !self.weak(Weakness::IgnoreIfMatch));
        Conditions {
            if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        }
        .check(&object.meta)?;
        let range = input.range.filter(|range| match range {
            Range::Suffix { .. } => !self.weak(Weakness::IgnoreSuffixRange),
            Range::Int { .. } => true,
        });
        let range = range.filter(|_| !self.weak(Weakness::IgnoreRange));
        let size = object.meta.size;
        let (body, content_range) = match range {
            None => (object.body, None),
            Some(range) => {
                let range = range.check(size).map_err(|_| s3_error!(InvalidRange))?;
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                // Within the body, whose length is a usize.
                let (mut start, mut end) = (range.start as usize, range.end as usize);
                if self.weak(Weakness::IgnoreRangeOffset) {
                    (start, end) = (0, end - start);
                }
                (object.body.slice(start..end), Some(text))
            }
        };
        let headers = Headers::from(object.attributes);
        let length = body.len() as i64;
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            content_length: Some(length),
            content_range,
            e_tag: object.meta.e_tag.map(tag),
            last_modified: Some(whole_second(object.meta.last_modified.into())),
            cache_control: headers.cache_control,
            content_disposition: headers.content_disposition,
            content_encoding: headers.content_encoding,
            content_language: headers.content_language,
            content_type: headers.content_type,
            metadata: headers.metadata,
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let object = self.object(&input.bucket, &input.key)?;
        Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        }
        .check(&object.meta)?;
        let headers = Headers::from(object.attributes);
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(object.meta.size as i64),
            e_tag: object.meta.e_tag.map(tag),
            last_modified: Some(whole_second(object.meta.last_modified.into())),
            cache_control: headers.cache_control,
            content_disposition: headers.content_disposition,
            content_encoding: headers.content_encoding,
            content_language: headers.content_language,
            content_type: headers.content_type,
            metadata: headers.metadata,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let start_after = input.start_after.clone().filter(|_| !self.weak(Weakness::IgnoreStartAfter));
        let from = (input.continuation_token.as_deref(), start_after.as_deref());
        let max = input.max_keys.map_or(PAGE, |max| usize::try_from(max).unwrap_or(0).min(PAGE));
        let prefix = input.prefix.clone().unwrap_or_default();
        let page = self.list(&prefix, input.delimiter.as_deref(), from, max);
        let common = page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) });
        let common: Vec<_> = common.collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: Some(max as i32),
            key_count: Some((page.objects.len() + common.len()) as i32),
            is_truncated: Some(page.next.is_some()),
            continuation_token: input.continuation_token,
            next_continuation_token: page.next,
            start_after: input.start_after,
            contents: Some(page.objects.into_iter().map(listed).collect()),
            common_prefixes: Some(common),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.bucket(&req.input.bucket)?;
        self.delete(&req.input.key)?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let mut deleted = vec![];
        for object in input.delete.objects {
            self.delete(&object.key)?;
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        let deleted = (input.delete.quiet != Some(true)).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..Default::default() }))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let from = self.object(bucket, key)?;
        let effect =
            Effect::Copy { from: from.meta.location, to: path(&input.key)?, mode: CopyMode::Overwrite };
        let put = self.shared.world.apply(&effect).map_err(refuse)?;
        let result = CopyObjectResult {
            e_tag: put.e_tag.map(tag),
            last_modified: Some(whole_second(now())),
            ..Default::default()
        };
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let headers = Headers {
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            content_type: input.content_type,
            metadata: input.metadata,
        };
        let upload = Upload { key: path(&input.key)?, attributes: headers.into(), parts: BTreeMap::new() };
        let id = format!("upload-{}", self.shared.next_id());
        self.uploads().insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let body = collect(req.input.body).await?;
        let mut uploads = self.uploads();
        let upload = uploads.get_mut(&req.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let e_tag = Some(tag(part_tag(&body)));
        upload.parts.insert(req.input.part_number, body);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let (key, attributes, body) = {
            let uploads = self.uploads();
            let upload = uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
            let mut body = vec![];
            for part in named {
                let found = upload.parts.get(&part.part_number.unwrap_or(0));
                let found = found.filter(|found| part.e_tag.is_none_or(|e| e == tag(part_tag(found))));
                body.extend_from_slice(found.ok_or_else(|| s3_error!(InvalidPart))?);
            }
            (upload.key.to_string(), upload.attributes.clone(), Bytes::from(body))
        };
        let mode = put_mode(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let put = self.put(&key, body, attributes, mode).await?;
        self.uploads().remove(&input.upload_id);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(key),
            e_tag: put.e_tag.map(tag),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.uploads().remove(&req.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.bucket(&req.input.bucket)?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }
}

/// What a store with [`Weakness::MissingIsEmpty`] has under each name that nothing has.
fn nothing(location: Path) -> Object {
    let (size, e_tag) = (0, Some(crate::world::etag(&Bytes::new())));
    let meta = ObjectMeta { location, last_modified: now().into(), size, e_tag, version: None };
    Object { body: Bytes::new(), meta, attributes: Attributes::new() }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let chunks: Vec<Bytes> = body.try_collect().await.map_err(|_| s3_error!(IncompleteBody))?;
    match <[Bytes; 1]>::try_from(chunks) {
        Ok([one]) => Ok(one),
        Err(chunks) => Ok(chunks.concat().into()),
    }
}

fn path(key: &str) -> S3Result<Path> {
    Path::parse(key).map_err(|e| s3_error!(e, InvalidArgument))
}

fn part_tag(body: &Bytes) -> String {
    crate::world::etag(body)
}

fn listed(meta: ObjectMeta) -> s3s::dto::Object {
    s3s::dto::Object {
        key: Some(meta.location.to_string()),
        e_tag: meta.e_tag.map(tag),
        last_modified: Some(whole_second(meta.last_modified.into())),
        size: Some(meta.size as i64),
        ..Default::default()
    }
}

fn refuse(error: Error) -> s3s::S3Error {
    match error {
        Error::AlreadyExists { .. } | Error::Precondition { .. } => s3_error!(PreconditionFailed),
        Error::NotFound { .. } => s3_error!(NoSuchKey),
        error => s3_error!(error, InternalError),
    }
}

#[expect(clippy::disallowed_methods, reason = "a server dates its objects by the real clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "a server takes real time")]
pub(super) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
