//! Bits of a small store are flipped, one at a time, and everything is read, compacted and written to by processes that
//! know nothing: each answer is the true one, or an error that is `Corrupt` and names the object. Never another answer,
//! never a panic, never another error.
//!
//! The store has one of everything: name record, manifests, `head`, entries with and without a body, rows, index and
//! deletion bitmap. It is read with its `head` and without, since `head` stands in for most of the others. What is done
//! with an object that was flipped where it is not read gives the true answer without being run: requests are
//! recorded once, on the whole store, and depend on nothing but what they read.
//!
//! A test run flips a sample of the bits ([`Sample`]) and asks one question of each, in turn. `FLIPS=bits` flips every bit
//! of every object, `FLIPS=all` asks each of them everything.

mod asks;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;

use esker_format::{Error, Kind};
use esker_tests::world::World;
use futures::FutureExt;

use asks::{Ask, Reads};

/// Which bits are flipped. Strides are coprime to 8, so that they walk through all positions in a byte.
struct Sample {
    /// Of objects up to 4 KiB, one bit in so many.
    small: usize,
    /// Of larger ones.
    large: usize,
    /// Whether everything that reads a bit is asked, or one question after the other.
    every_question: bool,
}

impl Sample {
    #[expect(clippy::disallowed_methods, reason = "how to flip more than a test run can afford")]
    fn chosen() -> Sample {
        match std::env::var("FLIPS").as_deref() {
            Ok("all") => Sample { small: 1, large: 1, every_question: true },
            Ok("bits") => Sample { small: 1, large: 1, every_question: false },
            _ => Sample { small: 5, large: 23, every_question: false },
        }
    }

    fn stride(&self, bytes: usize) -> usize {
        if bytes <= 4 << 10 { self.small } else { self.large }
    }
}

/// Wrong answers that are shown.
const SHOWN: usize = 20;

/// What became of the flips of one kind of object.
#[derive(Debug, Default)]
struct Count {
    flipped: u64,
    asked: u64,
    refused: u64,
    equal: u64,
    unread: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count { flipped, asked, refused, equal, unread } = self;
        write!(f, "{flipped} bits flipped, {unread} of them never read; ")?;
        write!(f, "{asked} questions: {refused} refused, {equal} answered truly")
    }
}

/// One question to a whole store: its answer and what it reads.
struct Truth {
    ask: Ask,
    answer: String,
    reads: Reads,
}

#[expect(clippy::disallowed_macros, clippy::print_stderr, reason = "a test says what it ran")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// The kind of an object: the folder it is in.
fn folder(key: &str) -> &str {
    let mut parts = key.rsplit('/');
    let last = parts.next().unwrap_or(key);
    match parts.next() {
        Some("segment") if last.ends_with(".parquet") => "rows",
        Some("segment") => "index",
        Some(_) if last == "head" => "head",
        Some(_) if key.starts_with("names/") => "name",
        Some(_) if key.starts_with("dirty/") => "dirty",
        Some(folder) => folder,
        None => key,
    }
}

/// Whether an error is the right one for a flipped bit of `key`. A drop that has put its name record and then meets the
/// damage must say that its outcome is unknown, and why.
fn names(ask: Ask, e: &Error, key: &str) -> bool {
    let kind = e.kind() == Kind::Corrupt || ask == Ask::Drop && e.kind() == Kind::Unknown;
    kind && e.to_string().contains(&format!("{key} is corrupt"))
}

/// What is wrong with an answer, if anything.
async fn wrong(truth: &Truth, world: &World, key: &str, count: &mut Count) -> Option<String> {
    count.asked += 1;
    let answer = AssertUnwindSafe(truth.ask.of(world)).catch_unwind().await;
    match answer {
        Ok(Ok((answer, _))) if answer == truth.answer => count.equal += 1,
        Ok(Ok((answer, _))) => return Some(format!("answered\n{answer}\nand not\n{}", truth.answer)),
        Ok(Err(e)) if names(truth.ask, &e, key) => count.refused += 1,
        Ok(Err(e)) => return Some(format!("failed otherwise: {}: {e}", e.kind())),
        Err(_) => return Some("panicked".to_owned()),
    }
    None
}

/// Asks everything of a whole store.
async fn truths(world: &World) -> Vec<Truth> {
    let mut truths = Vec::new();
    for ask in Ask::ALL {
        let (answer, reads) = ask.of(world).await.unwrap();
        truths.push(Truth { ask, answer, reads });
    }
    truths
}

/// Flips bits of every object of `world`.
async fn flip(name: &str, world: &World, truths: &[Truth]) {
    let sample = Sample::chosen();
    let (mut counts, mut failures, mut turn) = (BTreeMap::<String, Count>::new(), Vec::new(), 0);
    for key in world.keys("") {
        let body = world.body(&key).unwrap();
        let count = counts.entry(folder(&key).to_owned()).or_default();
        for bit in (0..body.len() * 8).step_by(sample.stride(body.len())) {
            let mut reading: Vec<&Truth> = truths.iter().filter(|t| t.reads.has(&key, bit / 8)).collect();
            count.flipped += 1;
            if reading.is_empty() {
                count.unread += 1;
                continue;
            }
            if !sample.every_question {
                turn += 1;
                reading = vec![reading[turn % reading.len()]];
            }
            world.flip_bit(&key, bit);
            for truth in reading {
                if let Some(what) = wrong(truth, world, &key, count).await {
                    failures.push(format!("{} with bit {bit} of {key} flipped {what}", truth.ask.name()));
                }
            }
            world.tamper(&key, body.clone());
        }
    }
    // A mark of work to do is empty.
    counts.retain(|_, count| count.flipped > 0);
    for (folder, count) in &counts {
        say(&format!("flips {name}, {folder}: {count}"));
    }
    let shown: Vec<&str> = failures.iter().take(SHOWN).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} wrong answers:\n{}", failures.len(), shown.join("\n"));
    let refused: u64 = counts.values().map(|c| c.refused).sum();
    assert!(refused > 1000, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn with_a_head() {
    let world = asks::store().await;
    flip("with head", &world, &truths(&world).await).await;
}

/// Where `head` is missing the register, the index and its parts are read themselves; only what is not read with a
/// head is flipped.
#[tokio::test(start_paused = true)]
async fn without_a_head() {
    let world = asks::store().await;
    let with = truths(&world).await;
    for head in world.keys("").iter().filter(|k| folder(k) == "head") {
        world.lose(head);
    }
    let mut without = truths(&world).await;
    for (truth, with) in without.iter_mut().zip(with) {
        truth.reads = std::mem::take(&mut truth.reads).without(&with.reads);
    }
    flip("without head", &world, &without).await;
}
