//! Clock and randomness, taken from the caller everywhere else: a simulation replays from its seed.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use esker_format::Token;
use rand::rngs::{OsRng, StdRng};
use rand::{Rng, SeedableRng, TryRngCore};

/// Time. The wall clock only stamps; every decision to wait or give up uses `elapsed`.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds since the epoch, UTC.
    fn now_ms(&self) -> i64;
    /// Time since some fixed instant; never goes back.
    fn elapsed(&self) -> Duration;
    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// Randomness.
pub trait Random: Debug + Send + Sync + 'static {
    /// 128 random bits.
    fn bits(&self) -> u128;
    /// Uniform in [0, 1).
    fn unit(&self) -> f64;
}

/// Clock and randomness, handed down together.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

impl Seams {
    /// The machine's own clock and randomness. Call inside a tokio runtime.
    pub fn system() -> Self {
        Seams { clock: Arc::new(SystemClock::default()), random: Arc::new(SystemRandom) }
    }

    /// Tokio's time, which stands still unless nothing else can run when the runtime was built paused, and
    /// randomness from `seed`. Call inside a tokio runtime.
    pub fn simulated(seed: u64) -> Self {
        Seams {
            clock: Arc::new(SimulatedClock::new(SimulatedClock::START_MS)),
            random: Arc::new(SeededRandom::new(seed)),
        }
    }

    /// A fresh token.
    pub fn token(&self) -> Token {
        Token(self.random.bits())
    }

    /// A token for a batch that its caller gave none.
    pub fn batch_token(&self) -> Token {
        Token::drawn(self.random.bits(), self.clock.now_ms())
    }

    /// A uniform share of `most`: "full jitter" of an exponential backoff.
    pub fn jitter(&self, most: Duration) -> Duration {
        most.mul_f64(self.random.unit())
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn default() -> Self {
        SystemClock { start: tokio::time::Instant::now() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The kernel's randomness, asked every time: a function restored twice from one memory image draws new tokens.
/// Panics if the kernel has none, since no token could be trusted.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn bits(&self) -> u128 {
        OsRng.unwrap_err().random()
    }

    fn unit(&self) -> f64 {
        OsRng.unwrap_err().random()
    }
}

/// A wall clock that starts at a fixed instant and follows tokio's time, so that a paused runtime
/// (`start_paused`, `tokio::time::advance`) drives both. The wall can be set wrong to test clock skew.
#[derive(Debug)]
pub struct SimulatedClock {
    monotonic: SystemClock,
    wall_start_ms: AtomicI64,
}

impl SimulatedClock {
    /// 2026-01-01T00:00:00Z.
    pub const START_MS: i64 = 1_767_225_600_000;

    /// A wall clock that shows `wall_ms` now.
    pub fn new(wall_ms: i64) -> Self {
        SimulatedClock { monotonic: SystemClock::default(), wall_start_ms: AtomicI64::new(wall_ms) }
    }

    /// Moves the wall clock alone, as a wrong NTP server would.
    pub fn skew(&self, by_ms: i64) {
        self.wall_start_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for SimulatedClock {
    fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.wall_start_ms.load(Ordering::Relaxed).saturating_add(passed)
    }

    fn elapsed(&self) -> Duration {
        self.monotonic.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        self.monotonic.sleep(duration).await;
    }
}

/// Randomness that repeats from its seed.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    /// A stream that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        SeededRandom(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn bits(&self) -> u128 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    fn unit(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}

#[cfg(test)]
mod tests;
