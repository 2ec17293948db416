//! Processes: what each seat of the simulation runs, with a memory and clocks of its own. A process can be frozen at any
//! await, for hours, and killed there; the next one on its seat starts with nothing.

use super::env::{Env, SKEW_MS, WRITER_SKEW_MS};
use super::store::SimStore;
use super::{clients, keepers, readers};
use async_trait::async_trait;
use esker_store::seams::{SeededRandom, SimulatedClock};
use esker_store::{Backend, Client, Clock, Seams, SimpleCache, Store};
use futures::future::BoxFuture;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// What a seat is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Writer,
    Reader,
    Compactor,
    Collector,
    /// Drops the collection and creates it again.
    Owner,
}

/// A place that one process after the other takes.
pub struct Seat {
    pub number: u64,
    pub role: Role,
    seed: u64,
    steps: AtomicU32,
    processes: AtomicU32,
    control: Mutex<Control>,
}

/// What befalls a process at its next create of a slot, a version or an upload.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// It is frozen for this long, and whether its monotonic clock stops; without, it is killed.
    pub freeze: Option<(Duration, bool)>,
    /// When the request has taken effect, and not before.
    pub after: bool,
}

#[derive(Default)]
struct Control {
    freeze: Option<(Duration, bool)>,
    trap: Option<Trap>,
    /// Until then nothing gets through, by the clock of the run.
    cut: Option<Duration>,
    dead: bool,
    running: bool,
    clock: Option<Arc<ActorClock>>,
    waker: Option<Waker>,
}

impl Seat {
    pub fn new(number: u64, role: Role, steps: u32, seed: u64) -> Arc<Self> {
        let (steps, processes) = (AtomicU32::new(steps), AtomicU32::new(0));
        Arc::new(Seat { number, role, seed, steps, processes, control: Mutex::default() })
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn who(&self) -> String {
        let letter = match self.role {
            Role::Writer => 'w',
            Role::Reader => 'r',
            Role::Compactor => 'c',
            Role::Collector => 'g',
            Role::Owner => 'o',
        };
        format!("{letter}{}", self.number)
    }

    /// Takes one step of those that are left.
    pub fn step(&self) -> bool {
        let left = self.steps.load(Ordering::Relaxed);
        self.steps.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }

    pub fn is_running(&self) -> bool {
        self.control().running
    }

    /// The process is not polled for this long; `stops`: its monotonic clock stands still meanwhile.
    pub fn freeze(&self, time: Duration, stops: bool) {
        let mut control = self.control();
        control.freeze = Some((time, stops));
        control.waker.take().into_iter().for_each(Waker::wake);
    }

    /// Something befalls the process at its next commit.
    pub fn trap(&self, trap: Trap) {
        self.control().trap = Some(trap);
    }

    /// Springs the trap at a commit, before or after it took effect; whether there was one.
    pub fn spring(&self, after: bool) -> bool {
        let trap = self.control().trap.take_if(|trap| trap.after == after);
        match trap {
            Some(Trap { freeze: Some((time, stops)), .. }) => self.freeze(time, stops),
            Some(Trap { freeze: None, .. }) => self.kill(),
            None => return false,
        }
        true
    }

    /// No request of the process gets through until then.
    pub fn cut_off(&self, until: Duration) {
        self.control().cut = Some(until);
    }

    /// Until when it is cut off.
    pub fn is_cut_off(&self) -> Option<Duration> {
        self.control().cut
    }

    /// The process ends where it is.
    pub fn kill(&self) {
        let mut control = self.control();
        control.dead = true;
        control.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// A process's clocks: the wall may be wrong, the monotonic one stands still while the machine is suspended.
#[derive(Debug)]
pub struct ActorClock {
    real: Arc<SimulatedClock>,
    skew_ms: i64,
    lost: Mutex<Duration>,
}

impl ActorClock {
    fn lost(&self) -> MutexGuard<'_, Duration> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Clock for ActorClock {
    fn now_ms(&self) -> i64 {
        self.real.now_ms() + self.skew_ms
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed() - *self.lost()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.elapsed() + duration;
        loop {
            self.real.sleep(until.saturating_sub(self.elapsed())).await;
            if self.elapsed() >= until {
                return;
            }
        }
    }
}

/// One process: a store with a cache, and draws of its own.
pub struct Process {
    pub env: Arc<Env>,
    pub seat: Arc<Seat>,
    pub who: String,
    pub clock: Arc<ActorClock>,
    faults: SimStore,
    seed: u64,
    rng: Mutex<StdRng>,
    stores: AtomicU32,
}

impl Process {
    fn start(env: &Arc<Env>, seat: &Arc<Seat>) -> Self {
        let nth = seat.processes.fetch_add(1, Ordering::Relaxed);
        let mut rng = StdRng::seed_from_u64(seat.seed.wrapping_add(u64::from(nth)));
        let narrow = seat.role == Role::Writer && !env.settings.wild_clocks;
        let most = if narrow { WRITER_SKEW_MS } else { SKEW_MS };
        let skew_ms = if rng.random_ratio(1, 3) { rng.random_range(-most..=most) } else { 0 };
        let real = env.clock().clone();
        let clock = Arc::new(ActorClock { real, skew_ms, lost: Mutex::default() });
        let (who, seed) = (format!("{}.{nth}", seat.who()), rng.random());
        let faults = SimStore::new(env, &who, seat.role, seed, Some(seat.clone()));
        seat.control().clock = Some(clock.clone());
        env.log(&who, || format!("starts, its clock is {skew_ms} ms off"));
        let (env, seat, rng) = (env.clone(), seat.clone(), Mutex::new(rng));
        Process { env, seat, who, clock, faults, seed, rng, stores: AtomicU32::new(0) }
    }

    /// A store of this process with nothing in memory; the cache is on.
    pub fn store(&self) -> Arc<Store> {
        let nth = u64::from(self.stores.fetch_add(1, Ordering::Relaxed));
        open(&self.faults, self.clock.clone(), self.seed.wrapping_add(nth))
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What passes between two steps: mostly little, sometimes minutes.
    pub async fn think(&self) {
        let rushes = self.env.knobs.rush && self.seat.role == Role::Writer;
        let ms = self.draw(|rng| match rng.random_range(0..1000) {
            0..950 if rushes => rng.random_range(0..30),
            0..400 => rng.random_range(0..50),
            400..750 => rng.random_range(0..2_000),
            750..940 => rng.random_range(0..30_000),
            940..996 => rng.random_range(0..300_000),
            _ => rng.random_range(0..1_800_000),
        });
        self.clock.sleep(Duration::from_millis(ms)).await;
    }
}

/// A store over one way to the storage.
pub fn open(faults: &SimStore, clock: Arc<dyn Clock>, seed: u64) -> Arc<Store> {
    let backend = Backend::paged(Arc::new(faults.clone()), Path::default());
    let seams = Seams { clock, random: Arc::new(SeededRandom::new(seed)) };
    let client = Client::new(backend, seams).with_cache(Arc::new(SimpleCache::new(64 << 20)));
    Arc::new(Store::new(client))
}

/// All processes of a seat, until its steps are done.
pub async fn live(env: &Arc<Env>, seat: &Arc<Seat>) {
    loop {
        let process = Process::start(env, seat);
        seat.control().running = true;
        let work: BoxFuture<'_, ()> = match seat.role {
            Role::Writer => Box::pin(clients::write(&process)),
            Role::Reader => Box::pin(readers::read(&process)),
            Role::Compactor => Box::pin(keepers::compact(&process)),
            Role::Collector => Box::pin(keepers::collect(&process)),
            Role::Owner => Box::pin(keepers::own(&process)),
        };
        let done = Life { env, seat, work, frozen: None }.await;
        seat.control().running = false;
        if done {
            return;
        }
        env.log(&process.who, || "is killed".to_owned());
        let ms = process.draw(|rng| rng.random_range(0..5_000));
        env.clock().sleep(Duration::from_millis(ms)).await;
    }
}

/// The future of a process, polled only while it is neither frozen nor dead. Whether it came to its end.
struct Life<'a> {
    env: &'a Arc<Env>,
    seat: &'a Seat,
    work: BoxFuture<'a, ()>,
    frozen: Option<BoxFuture<'static, ()>>,
}

impl Future for Life<'_> {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let this = self.get_mut();
        let mut control = this.seat.control();
        control.waker = Some(context.waker().clone());
        if std::mem::take(&mut control.dead) {
            return Poll::Ready(false);
        }
        if let Some((time, stops)) = control.freeze.take() {
            let clock = this.env.clock().clone();
            if let Some(own) = control.clock.as_ref().filter(|_| stops && this.frozen.is_none()) {
                *own.lost() += time;
            }
            if this.frozen.is_none() {
                this.frozen = Some(Box::pin(async move { clock.sleep(time).await }));
            }
        }
        drop(control);
        if let Some(frozen) = &mut this.frozen {
            ready!(frozen.as_mut().poll(context));
            this.frozen = None;
            this.env.log(&this.seat.who(), || "goes on".to_owned());
        }
        this.work.as_mut().poll(context).map(|()| true)
    }
}
