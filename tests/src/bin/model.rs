//! Explores the storage protocol exhaustively and prints how many states it has seen; fails where an invariant is
//! broken. `model --full` takes minutes in a release build.

use clap::Parser;
use esker_tests::model::{Protocol, Weakening};
use stateright::{Checker, Model};
use std::num::NonZero;
use std::process::ExitCode;

/// Explores the storage protocol.
#[derive(Parser)]
struct Args {
    /// The full explorations instead of the two bounded ones: minutes.
    #[arg(long)]
    full: bool,
    /// Batches of the two writers.
    #[arg(long, num_args = 2)]
    batches: Option<Vec<u8>>,
    /// Publishes, at most 2.
    #[arg(long)]
    publishes: Option<u8>,
    /// Snapshots the reader takes.
    #[arg(long)]
    reads: Option<u8>,
    /// Lost replies, lost requests and empty 409s.
    #[arg(long)]
    faults: Option<u8>,
    /// Late puts.
    #[arg(long)]
    late: Option<u8>,
    /// Times that head goes backwards.
    #[arg(long)]
    head_back: Option<u8>,
}

fn main() -> std::io::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout();
    let mut failed = false;
    let named = match args.full {
        true => vec![("full log", Protocol::full_log()), ("full read", Protocol::full_read())],
        false => vec![("log", Protocol::small_log()), ("read", Protocol::small_read())],
    };
    for (name, mut protocol) in named {
        if let Some([a, b]) = args.batches.as_deref() {
            protocol.batches = [*a, *b];
        }
        protocol.publishes = args.publishes.unwrap_or(protocol.publishes);
        protocol.reads = args.reads.unwrap_or(protocol.reads);
        protocol.faults = args.faults.unwrap_or(protocol.faults);
        protocol.late = args.late.unwrap_or(protocol.late);
        protocol.head_back = args.head_back.unwrap_or(protocol.head_back);
        failed |= explore(&mut out, name, protocol)?;
    }
    for weakening in Weakening::ALL {
        failed |= weaken(&mut out, weakening)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Whether an invariant broke, or something never happened.
fn explore(out: &mut impl std::io::Write, name: &str, protocol: Protocol) -> std::io::Result<bool> {
    writeln!(out, "{name}: {protocol:?}")?;
    let started = started();
    // Depth first keeps fingerprints only; breadth first would keep a whole generation of states.
    let checker = protocol.checker().threads(threads()).spawn_dfs().join();
    let seconds = started.elapsed().as_secs_f64();
    let (unique, all, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    writeln!(out, "{name}: {unique} states ({all} with repeats), depth {depth}, {seconds:.1} s")?;
    let mut failed = false;
    for property in checker.model().properties() {
        let wrong = checker.discovery(property.name).is_some()
            == matches!(property.expectation, stateright::Expectation::Always);
        failed |= wrong;
        writeln!(out, "  {} {}", if wrong { "BROKEN" } else { "held  " }, property.name)?;
        if let Some(path) = checker.discovery(property.name).filter(|_| wrong) {
            writeln!(out, "{:#?}", path.into_actions())?;
        }
    }
    Ok(failed)
}

/// Whether the weakening went unnoticed.
fn weaken(out: &mut impl std::io::Write, weakening: Weakening) -> std::io::Result<bool> {
    let checker = Protocol::weakened(weakening)
        .checker()
        .threads(threads())
        .finish_when(stateright::HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let broken = checker.discoveries().into_keys().find(|name| name.starts_with("INV"));
    let states = checker.unique_state_count();
    writeln!(out, "{weakening:?}: {} ({states} states)", broken.unwrap_or("NOT CAUGHT"))?;
    Ok(broken.is_none())
}

#[expect(clippy::disallowed_methods, reason = "a report of real time")]
fn started() -> std::time::Instant {
    std::time::Instant::now()
}
