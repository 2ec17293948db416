//! The `esker` command: one binary, verbs on nouns, works on a store with no server running.

mod args;
mod commands;
mod cost;
mod lean;
mod output;
mod progress;
mod remote;
mod rows;
mod serve;
mod settings;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use esker_format::{Error, Kind, Result};

use crate::args::{Args, Command};
use crate::output::Output;

/// SQL is planned by recursion, so workers have deep stacks.
const STACK_BYTES: usize = 16 << 20;

fn main() -> ExitCode {
    let args = Args::parse();
    if matches!(args.command, Command::Import(_) | Command::Compact(_) | Command::Export(_)) {
        lean::restart();
    }
    let output = Output::new(args.format);
    // A server starts its own, inside the runtime.
    if !matches!(args.command, Command::Serve(_)) {
        settings::start_log();
    }
    match run(args, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output.error(&e);
            ExitCode::from(exit_code(e.kind()))
        }
    }
}

fn run(args: Args, output: &Output) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|e| Error::internal("cannot start the runtime").with_source(e))?;
    // Main's own stack is not deep.
    std::thread::scope(|scope| {
        let deep = std::thread::Builder::new().stack_size(STACK_BYTES);
        let handle = deep.spawn_scoped(scope, || runtime.block_on(commands::run(args, output)));
        let handle = handle.map_err(|e| Error::internal("cannot start a thread").with_source(e))?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// 0 ok, 1 failure, 2 usage, 3 corruption found, 4 conflict.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid => 2,
        Kind::Corrupt => 3,
        Kind::Conflict => 4,
        _ => 1,
    }
}
