//! Plays seeds of the simulator; fails at the first one that breaks something and says how to play it again.

use clap::Parser;
use esker_tests::sim::{self, Settings, Weakening};
use std::io::Write;
use std::process::ExitCode;

/// Simulates writers, readers, compactors and collectors over a store that fails.
#[derive(Parser)]
struct Args {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Many, as in 0..1000.
    #[arg(long, value_parser = range, default_value = "0..100")]
    seeds: std::ops::Range<u64>,
    /// Goes on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Breaks a promise on purpose, named as in the code, and prints the first seed that notices.
    #[arg(long, value_parser = weakening)]
    weaken: Option<Weakening>,
    /// Looks only at what clients were told.
    #[arg(long)]
    clients_only: bool,
    /// The clocks of writers are a day wrong, too.
    #[arg(long)]
    wild_clocks: bool,
    /// Prints the log of every request and answer.
    #[arg(long)]
    verbose: bool,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is written 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    Ok(number(from)?..number(to)?)
}

fn weakening(text: &str) -> Result<Weakening, String> {
    let names: Vec<String> = Weakening::ALL.iter().map(|w| format!("{w:?}")).collect();
    let found = names.iter().position(|name| name == text).map(|i| Weakening::ALL[i]);
    found.ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn main() -> std::io::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout();
    // A panic is a finding, and is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let settings = Settings {
        verbose: args.verbose,
        weakening: args.weaken,
        clients_only: args.clients_only,
        wild_clocks: args.wild_clocks,
    };
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    let (mut failed, mut played, mut total) = (0, 0, sim::Report::default());
    for seed in seeds {
        match sim::run(seed, &settings) {
            Ok(report) => {
                for line in &report.lines {
                    writeln!(out, "{line}")?;
                }
                if args.verbose {
                    writeln!(out, "seed {seed}: {:?}", sim::Report { lines: Vec::new(), ..report.clone() })?;
                }
                total.add(&report);
            }
            Err(failure) => {
                for line in &failure.lines {
                    writeln!(out, "{line}")?;
                }
                writeln!(out, "{failure}")?;
                failed += 1;
                if !args.keep_going {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        played += 1;
        if played % 100 == 0 {
            writeln!(out, "{played} seeds, {failed} failed")?;
            out.flush()?;
        }
    }
    writeln!(out, "{played} seeds, {failed} failed: {total}")?;
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
