//! Which call goes wrong, how, and what was seen.

use object_store::Error;
use std::collections::BTreeMap;
use std::time::Duration;

/// How one call is answered. Calls are numbered from 1 in the order in which they reach the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// As it should be.
    Ok,
    /// Fails; nothing was done.
    FailBefore,
    /// Done, but the reply is lost. A read is not answered either.
    ApplyThenFail,
    /// Fails now; the change lands with [`World::land_late`](crate::world::World::land_late), its condition
    /// evaluated then. A read just fails.
    ApplyLater,
    /// A create reports `AlreadyExists` although nothing landed. Other calls are answered as they should be.
    Empty409,
    /// Never answered, nothing done; ends when the caller drops the future.
    Stall,
    /// Refused with "slow down" and a time to wait; nothing was done.
    Throttle,
    /// A GET with content returns it with one bit flipped. Other calls are answered as they should be.
    CorruptRead,
}

impl Mode {
    /// The three ways in which a call dies with its process: what crash enumeration goes through.
    pub const CRASHES: [Self; 3] = [Self::FailBefore, Self::ApplyThenFail, Self::ApplyLater];
}

/// What will happen to the calls of one process.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    modes: BTreeMap<u64, Mode>,
    kill_after: Option<u64>,
    seed: u64,
    jitter: u32,
    random: Option<(u32, Vec<Mode>)>,
}

impl Plan {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Answers call `number` (from 1) by `mode`.
    pub fn at(mut self, number: u64, mode: Mode) -> Self {
        self.modes.insert(number, mode);
        self
    }

    /// The process dies after call `number`: every later one fails with [`Fault::Killed`].
    pub fn kill_after(mut self, number: u64) -> Self {
        self.kill_after = Some(number);
        self
    }

    /// Call `number` is the last one and is answered by `mode`, then the process is dead: one enumerated crash.
    pub fn crash(number: u64, mode: Mode) -> Self {
        Self::none().at(number, mode).kill_after(number)
    }

    /// Seeds flipped bits, jitter and random modes.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Lets each call give way up to `yields` times before and after it is done, so that concurrent calls interleave
    /// as the seed says.
    pub fn jitter(mut self, yields: u32) -> Self {
        self.jitter = yields;
        self
    }

    /// Answers `per_mille` of the calls that no [`Plan::at`] names by one of `modes`.
    pub fn random(mut self, per_mille: u32, modes: &[Mode]) -> Self {
        self.random = Some((per_mille, modes.to_vec()));
        self
    }

    pub(super) fn mode(&self, number: u64) -> Option<Mode> {
        if self.kill_after.is_some_and(|last| number > last) {
            return None;
        }
        let drawn = || {
            let (per_mille, modes) = self.random.as_ref()?;
            let draw = self.draw(number, 0);
            let hit = draw % 1000 < u64::from(*per_mille) && !modes.is_empty();
            hit.then(|| modes[(draw / 1000) as usize % modes.len()])
        };
        Some(self.modes.get(&number).copied().or_else(drawn).unwrap_or(Mode::Ok))
    }

    pub(super) fn yields(&self, number: u64, stream: u64) -> u32 {
        match self.jitter {
            0 => 0,
            most => (self.draw(number, stream) % (u64::from(most) + 1)) as u32,
        }
    }

    /// A number for `stream` of call `number` that depends on the seed alone (splitmix64).
    pub(super) fn draw(&self, number: u64, stream: u64) -> u64 {
        let mut z = self.seed
            ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Why a call failed by plan: the source of the `object_store::Error` the caller gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`Mode::FailBefore`]
    NotSent,
    /// [`Mode::ApplyThenFail`]
    ReplyLost,
    /// [`Mode::ApplyLater`]
    UnderWay,
    /// [`Mode::Throttle`]
    SlowDown { retry_after: Duration },
    /// The process is dead.
    Killed,
}

impl Fault {
    /// The fault an error comes from, looked for among its sources.
    pub fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Fault> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent => write!(f, "fault: the request was not sent"),
            Self::ReplyLost => write!(f, "fault: the reply was lost"),
            Self::UnderWay => write!(f, "fault: timed out, the request is still under way"),
            Self::SlowDown { retry_after } => {
                write!(f, "fault: 503 SlowDown, retry-after {}", retry_after.as_secs())
            }
            Self::Killed => write!(f, "fault: the process was killed"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error::Generic { store: "fault", source: Box::new(fault) }
    }
}

/// The kind of a recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallKind {
    /// An unconditional put.
    Put,
    /// A put if absent.
    Create,
    /// A put if unchanged.
    Update,
    Get,
    Head,
    /// One page of a listing.
    List,
    Delete,
    Copy,
    UploadStart,
    UploadPart,
    UploadComplete,
    UploadAbort,
}

impl CallKind {
    /// Whether it can change the storage.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::Head | Self::List)
    }
}

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered: stalled, dropped, or still running.
    Open,
    /// Answered, with so many bytes of content; for a listing, so many names.
    Ok { size: u64 },
    /// Answered `NotFound`.
    NotFound,
    /// Answered `AlreadyExists` or `Precondition`.
    Refused,
    /// Failed; the text of the error.
    Failed(String),
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::NotFound,
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Self::Refused,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// From 1, in the order of arrival at this process's store.
    pub number: u64,
    pub kind: CallKind,
    /// The key, or for a listing the text prefix.
    pub key: String,
    /// Range, conditions, size or page bounds, as text; empty where there are none.
    pub options: String,
    /// How the plan had it answered; [`Mode::FailBefore`] for calls after death.
    pub mode: Mode,
    pub outcome: Outcome,
}
