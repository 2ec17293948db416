//! An object store that fails on demand (STYLE §4): in memory, versioned, seeded, every call numbered and recorded.
//!
//! One [`FaultStore`] is one process's view of a shared [`World`]. When the process dies its store is dropped, the
//! world stays, and requests under way may still land. Every call is decided at one instant; around it there are
//! await points before the request takes effect and after it did, so a dropped future is a cancelled request of
//! either sort.

mod plan;
mod upload;

pub use plan::{Call, CallKind, Fault, Mode, Outcome, Plan};

use crate::world::{Effect, ListPage, World, exists, flipped, prefix_paths, text_prefix};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Names per page of a listing, as on S3.
const PAGE: usize = 1000;

/// One process's view of a [`World`]. Clones are the same process.
#[derive(Clone, Debug)]
pub struct FaultStore(Arc<Process>);

#[derive(Debug)]
struct Process {
    world: World,
    plan: Plan,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    calls: Vec<Call>,
    dead: bool,
}

/// A call that was admitted: its number and how it is to be answered.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    mode: Mode,
}

impl FaultStore {
    /// A new process on `world`.
    pub fn new(world: &World, plan: Plan) -> Self {
        Self(Arc::new(Process { world: world.clone(), plan, log: Mutex::default() }))
    }

    /// The storage behind it.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// The calls so far, in the order of their numbers.
    pub fn calls(&self) -> Vec<Call> {
        self.log().calls.clone()
    }

    /// How many calls arrived, those after death included.
    pub fn call_count(&self) -> u64 {
        self.log().calls.len() as u64
    }

    /// Kills the process now: every later call fails with [`Fault::Killed`], and so does one still unanswered.
    pub fn kill(&self) {
        self.log().dead = true;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers and records a call.
    fn admit(&self, kind: CallKind, key: &str, options: String) -> Result<Ticket> {
        let mut log = self.log();
        let number = log.calls.len() as u64 + 1;
        let mode = self.0.plan.mode(number).filter(|_| !log.dead);
        let outcome = match mode {
            Some(_) => Outcome::Open,
            None => Outcome::Failed(Fault::Killed.to_string()),
        };
        let key = key.to_owned();
        log.calls.push(Call { number, kind, key, options, mode: mode.unwrap_or(Mode::FailBefore), outcome });
        mode.map(|mode| Ticket { number, mode }).ok_or_else(|| Fault::Killed.into())
    }

    /// One call from request to reply: `act` is what the storage does at the instant it arrives.
    async fn call<T>(
        &self,
        kind: CallKind,
        key: &str,
        options: String,
        act: impl FnOnce(&World, Ticket) -> Result<(T, u64)>,
    ) -> Result<T> {
        let ticket = self.admit(kind, key, options)?;
        give_way(1 + self.0.plan.yields(ticket.number, 1)).await;
        if ticket.mode == Mode::Stall {
            return std::future::pending().await;
        }
        let result = if self.log().dead { Err(Fault::Killed.into()) } else { act(&self.0.world, ticket) };
        give_way(1 + self.0.plan.yields(ticket.number, 2)).await;
        let mut log = self.log();
        let result = if log.dead { Err(Fault::Killed.into()) } else { result };
        if let Some(call) = log.calls.get_mut(ticket.number as usize - 1) {
            call.outcome = match &result {
                Ok((_, size)) => Outcome::Ok { size: *size },
                Err(error) => Outcome::from(error),
            };
        }
        result.map(|(value, _)| value)
    }

    /// A call that changes the storage.
    async fn write(&self, kind: CallKind, options: String, effect: Effect) -> Result<PutResult> {
        let key = effect.location().to_string();
        self.call(kind, &key, options, |world, ticket| {
            let done = match ticket.mode {
                Mode::ApplyThenFail => {
                    // Whatever the storage said, the caller does not hear it.
                    world.apply(&effect).ok();
                    Err(Fault::ReplyLost.into())
                }
                Mode::ApplyLater => {
                    world.postpone(effect);
                    Err(Fault::UnderWay.into())
                }
                Mode::Empty409 if effect.is_create() => Err(exists(effect.location())),
                mode => refusal(mode).map_or_else(|| world.apply(&effect), Err),
            };
            done.map(|put| (put, 0))
        })
        .await
    }

    /// A call that reads.
    async fn read<T>(
        &self,
        kind: CallKind,
        key: &str,
        options: String,
        act: impl FnOnce(&World, Ticket) -> Result<(T, u64)>,
    ) -> Result<T> {
        self.call(kind, key, options, |world, ticket| {
            unheard(ticket.mode).map_or_else(|| act(world, ticket), Err)
        })
        .await
    }

    async fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        max: usize,
    ) -> Result<ListPage> {
        let mut options = format!("max={max}");
        if let Some(after) = after {
            // Writing to a String cannot fail.
            let _ = write!(options, " after={after}");
        }
        if let Some(delimiter) = delimiter {
            let _ = write!(options, " delimiter={delimiter}");
        }
        self.read(CallKind::List, prefix, options, |world, _| {
            let page = world.page(prefix, delimiter, after, max);
            let names = (page.objects.len() + page.prefixes.len()) as u64;
            Ok((page, names))
        })
        .await
    }

    fn pages(&self, prefix: String, after: Option<String>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        futures::stream::try_unfold(Some(after), move |at| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let Some(after) = at else { return Ok(None) };
                let page = store.page(&prefix, None, after.as_deref(), PAGE).await?;
                let objects = futures::stream::iter(page.objects.into_iter().map(Ok));
                Ok::<_, object_store::Error>(Some((objects, page.next.map(Some))))
            }
        })
        .try_flatten()
        .boxed()
    }
}

/// The reply of modes in which the caller hears nothing of what happened, or nothing happened.
fn unheard(mode: Mode) -> Option<object_store::Error> {
    match mode {
        Mode::ApplyThenFail => Some(Fault::ReplyLost.into()),
        Mode::ApplyLater => Some(Fault::UnderWay.into()),
        mode => refusal(mode),
    }
}

/// The reply of modes in which a call of any kind is refused and nothing done.
fn refusal(mode: Mode) -> Option<object_store::Error> {
    match mode {
        Mode::FailBefore => Some(Fault::NotSent.into()),
        Mode::Throttle => Some(Fault::SlowDown { retry_after: Duration::from_secs(1) }.into()),
        _ => None,
    }
}

async fn give_way(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

impl std::fmt::Display for FaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultStore")
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let body = Bytes::from(payload);
        let size = format!("size={}", body.len());
        let (kind, options) = match &opts.mode {
            PutMode::Overwrite => (CallKind::Put, size),
            PutMode::Create => (CallKind::Create, size),
            PutMode::Update(version) => (CallKind::Update, format!("{size} if_match={:?}", version.e_tag)),
        };
        let location = location.clone();
        let effect = Effect::Put { location, body, attributes: opts.attributes, mode: opts.mode };
        self.write(kind, options, effect).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        upload::Upload::start(self.clone(), location.clone(), opts.attributes).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { CallKind::Head } else { CallKind::Get };
        let text = describe(&options);
        self.read(kind, location.as_ref(), text, |world, ticket| {
            let mut result = world.get(location, &options)?;
            let size = if options.head { 0 } else { result.range.end - result.range.start };
            if ticket.mode == Mode::CorruptRead && size > 0 {
                let bit = self.0.plan.draw(ticket.number, 3) % (size * 8);
                result.payload = corrupt(result.payload, bit as usize);
            }
            Ok((result, size))
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let effect = Effect::Delete { location: location.clone() };
                    store.write(CallKind::Delete, String::new(), effect).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(text_prefix(prefix), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(text_prefix(prefix), Some(offset.to_string()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = text_prefix(prefix);
        let mut result = ListResult { objects: vec![], common_prefixes: vec![] };
        let mut after = None;
        loop {
            let page = self.page(&prefix, Some("/"), after.as_deref(), PAGE).await?;
            result.objects.extend(page.objects);
            result.common_prefixes.extend(prefix_paths(page.prefixes));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(result),
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let text = match options.mode {
            CopyMode::Create => format!("from={from} create"),
            CopyMode::Overwrite => format!("from={from}"),
        };
        let effect = Effect::Copy { from: from.clone(), to: to.clone(), mode: options.mode };
        self.write(CallKind::Copy, text, effect).await.map(|_| ())
    }
}

#[async_trait]
impl PaginatedListStore for FaultStore {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        opts: PaginatedListOptions,
    ) -> Result<PaginatedListResult> {
        let max = opts.max_keys.unwrap_or(PAGE).min(PAGE);
        let after = opts.page_token.as_deref().or(opts.offset.as_deref());
        let page = self.page(prefix.unwrap_or(""), opts.delimiter.as_deref(), after, max).await?;
        let common_prefixes = prefix_paths(page.prefixes);
        let result = ListResult { objects: page.objects, common_prefixes };
        Ok(PaginatedListResult { result, page_token: page.next })
    }
}

fn describe(options: &GetOptions) -> String {
    let mut parts = vec![];
    if let Some(range) = &options.range {
        parts.push(format!("range={range}"));
    }
    if let Some(tag) = &options.if_match {
        parts.push(format!("if_match={tag}"));
    }
    if let Some(tag) = &options.if_none_match {
        parts.push(format!("if_none_match={tag}"));
    }
    parts.join(" ")
}

fn corrupt(payload: GetResultPayload, bit: usize) -> GetResultPayload {
    match payload {
        // The world answers in one chunk.
        GetResultPayload::Stream(stream) => {
            GetResultPayload::Stream(stream.map_ok(move |body| flipped(&body, bit)).boxed())
        }
        file => file,
    }
}
