//! A function's life: a cold start, then events, one at a time.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use esker_format::{Error, Kind, Result};
use esker_proto::rest::ErrorBody;
use esker_store::{Clock, Seams, Store};
use lambda_runtime::{Context, Diagnostic, LambdaEvent, service_fn};
use serde::Serialize;
use serde_json::value::RawValue;
use tracing_subscriber::EnvFilter;

use crate::{Event, Settings};

/// An event is answered this long before its deadline, so that the answer arrives.
const MARGIN: Duration = Duration::from_millis(500);
/// No event has longer.
const MOST: Duration = Duration::from_secs(15 * 60);
/// The time for an event whose deadline is over before it begins: then a clock is wrong, and the platform's will end it.
const DOUBTFUL: Duration = Duration::from_secs(25);
/// SQL is planned by recursion, so workers have deep stacks.
const STACK_BYTES: usize = 16 << 20;

/// What an event is answered with: JSON.
pub type Reply = Result<Box<RawValue>>;

/// What is known of an event beside itself.
#[derive(Debug, Clone)]
pub struct Call {
    /// The platform's.
    pub context: Context,
    /// When it must be answered, by the clock's `elapsed`.
    pub until: Duration,
}

impl Call {
    /// Measures the deadline, which the platform gives by the wall clock, by the one that waits go by.
    pub fn new(context: Context, clock: &dyn Clock) -> Self {
        let deadline = i64::try_from(context.deadline).unwrap_or(i64::MAX);
        let left = match u64::try_from(deadline.saturating_sub(clock.now_ms())) {
            Ok(ms) if ms > 0 => Duration::from_millis(ms).saturating_sub(MARGIN).min(MOST),
            _ => DOUBTFUL,
        };
        Call { context, until: clock.elapsed() + left }
    }

    /// How much time is left.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        self.until.saturating_sub(clock.elapsed())
    }

    /// Gives up at the deadline. What was given up is dropped where it stands.
    ///
    /// # Errors
    /// Unavailable then; those of `work`.
    pub async fn within<T>(&self, clock: &dyn Clock, work: impl Future<Output = Result<T>>) -> Result<T> {
        let left = self.left(clock);
        tokio::select! {
            biased;
            done = work => done,
            () = tokio::task::unconstrained(clock.sleep(left)) => {
                Err(Error::new(Kind::Unavailable, format!("not done within {} s", left.as_secs())))
            }
        }
    }
}

/// What handles events.
pub trait Function: Send + Sync + 'static {
    /// Handles one.
    ///
    /// # Errors
    /// Those that the platform is to see: it may send the event again.
    fn handle(&self, event: Event, call: Call) -> impl Future<Output = Reply> + Send;
}

/// JSON of an answer.
///
/// # Errors
/// Internal, if it has none.
pub fn json(value: &impl Serialize) -> Reply {
    serde_json::value::to_raw_value(value)
        .map_err(|e| Error::internal("the answer cannot be written as JSON").with_source(e))
}

/// The answer or the error as JSON, for a caller that waits for either.
///
/// # Errors
/// Internal, if it has none.
pub fn answered(reply: Reply) -> Reply {
    match reply {
        Ok(reply) => Ok(reply),
        Err(e) => json(&ErrorBody::from(&e)),
    }
}

/// The whole life of a function, from its settings to its end: the body of `main`.
pub fn run<F: Function>(make: impl FnOnce(&Settings, Arc<Store>) -> Result<F> + Send) -> ExitCode {
    log();
    match start(make) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, field = e.field(), hint = e.hint(), "the function cannot run");
            ExitCode::FAILURE
        }
    }
}

fn start<F: Function>(make: impl FnOnce(&Settings, Arc<Store>) -> Result<F> + Send) -> Result<()> {
    let settings = Settings::read(environment())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|e| Error::internal("cannot start the runtime").with_source(e))?;
    let life = || {
        runtime.block_on(async {
            let store = settings.open()?;
            let seams = store.client().seams().clone();
            serve(make(&settings, store)?, seams).await
        })
    };
    // Main's own stack is not deep.
    std::thread::scope(|scope| {
        let deep = std::thread::Builder::new().stack_size(STACK_BYTES);
        let handle = deep.spawn_scoped(scope, life);
        let handle = handle.map_err(|e| Error::internal("cannot start a thread").with_source(e))?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn serve<F: Function>(function: F, seams: Seams) -> Result<()> {
    let (function, seams) = (&function, &seams);
    let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let call = Call::new(event.context, &*seams.clock);
        let reply = match Event::parse(event.payload) {
            Ok(event) => function.handle(event, call).await,
            Err(e) => Err(e),
        };
        reply.map_err(|e| {
            // What is wrong with an event may quote it: only its sender is told.
            let why = (e.kind() != Kind::Invalid).then(|| e.to_string());
            tracing::error!(error = why, kind = %e.kind(), field = e.field(), "an event failed");
            Diagnostic { error_type: e.kind().to_string(), error_message: e.to_string() }
        })
    });
    let ended = lambda_runtime::run(handler).await;
    ended.map_err(|e| Error::internal(format!("the platform's interface failed: {e}")))
}

/// One JSON object a line, with the platform's id of the event in it.
fn log() {
    let filter = EnvFilter::try_from_env("ESKER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // It repeats what is wrong with an event, and that may quote it.
    let filter = match "lambda_runtime::layers::panic=off".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .init();
    std::panic::set_hook(Box::new(
        |panic| tracing::error!(panic = %panic, "a bug, or an event that is none"),
    ));
}

#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn environment() -> impl Iterator<Item = (String, String)> {
    // What is no Unicode is none of ours.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests;
