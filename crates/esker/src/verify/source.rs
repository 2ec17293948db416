//! What every check needs: the store, where findings go, and what a failed read means.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use esker_format::keys::Keys;
use esker_format::{CollectionId, Error, Kind};
use esker_store::{Client, Meter};

use super::{Finding, Listener, Options, Progress};

/// Findings of one object and invariant that are listed.
const ALIKE: u64 = 8;
/// Most bytes of parts that are asked for together.
const TOGETHER: u64 = 4 << 20;
/// One of this many is derived again unless `deep`.
const SAMPLE: u64 = 16;

/// Why a check ends early.
#[derive(Debug)]
pub enum Stop {
    /// What was to be read is another version's by now: begin again.
    Moved,
    /// This object, which was to be read, is not there.
    Missing(String),
    /// What was to be read is not as the format says.
    Found(Finding),
    /// The store does not answer.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

/// Says which object an error is about.
pub trait At<T> {
    /// Bytes that cannot be what was written become a finding of `object`.
    fn at(self, object: &str, invariant: &'static str) -> Result<T, Stop>;
}

impl<T> At<T> for Result<T, Error> {
    fn at(self, object: &str, invariant: &'static str) -> Result<T, Stop> {
        self.map_err(|e| match e.kind() {
            Kind::Corrupt | Kind::Invalid | Kind::Internal => Stop::Found(finding(object, invariant, e)),
            Kind::NotFound => Stop::Missing(object.to_owned()),
            _ => Stop::Failed(e),
        })
    }
}

pub fn finding(object: &str, invariant: &'static str, message: impl ToString) -> Finding {
    let message = message.to_string();
    let message = message.strip_prefix(object).map_or(&*message, |m| m.trim_start_matches([' ', ':']));
    let message = message.strip_prefix("is corrupt: ").unwrap_or(message).to_owned();
    Finding { object: object.to_owned(), invariant, message }
}

/// Ends a check with a finding.
pub fn broken<T>(object: &str, invariant: &'static str, message: impl ToString) -> Result<T, Stop> {
    Err(Stop::Found(finding(object, invariant, message)))
}

pub struct Source<'a> {
    pub client: &'a Client,
    pub meter: &'a Meter,
    pub id: &'a CollectionId,
    pub keys: Keys,
    pub options: Options,
    listener: Listener<'a>,
    findings: Mutex<Findings>,
}

#[derive(Default)]
struct Findings {
    listed: Vec<Finding>,
    counts: BTreeMap<(String, &'static str), u64>,
    more: u64,
}

impl<'a> Source<'a> {
    pub fn new(
        client: &'a Client,
        meter: &'a Meter,
        id: &'a CollectionId,
        options: Options,
        listener: Listener<'a>,
    ) -> Self {
        let keys = Keys::new(id);
        Source { client, meter, id, keys, options, listener, findings: Mutex::default() }
    }

    pub fn stage(&self, stage: &'static str, done: u64, total: u64) {
        (self.listener)(Progress { stage, done, total });
    }

    pub fn found(&self, object: &str, invariant: &'static str, message: impl ToString) {
        self.add(finding(object, invariant, message));
    }

    /// Remembers a finding once; of many alike only the first.
    pub fn add(&self, finding: Finding) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.listed.contains(&finding) {
            return;
        }
        let count = findings.counts.entry((finding.object.clone(), finding.invariant)).or_default();
        *count += 1;
        match *count > ALIKE {
            true => findings.more += 1,
            false => findings.listed.push(finding),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).listed.is_empty()
    }

    pub fn into_findings(self) -> (Vec<Finding>, u64) {
        let mut findings = self.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        findings.listed.sort();
        (findings.listed, findings.more)
    }

    /// Takes a finding that ends a check, so that the next one begins.
    pub fn settle<T>(&self, checked: Result<T, Stop>) -> Result<Option<T>, Stop> {
        match checked {
            Ok(value) => Ok(Some(value)),
            Err(Stop::Found(finding)) => {
                self.add(finding);
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    /// Whether the `n`-th of some things is derived again.
    pub fn samples(&self, n: u64) -> bool {
        self.options.deep || n.is_multiple_of(SAMPLE)
    }

    /// A whole object, if it is there.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Stop> {
        Ok(self.client.get(&self.meter.fork(), key).await?.map(|(bytes, _)| bytes))
    }

    /// A whole object that must be there.
    pub async fn need(&self, key: &str) -> Result<Bytes, Stop> {
        self.get(key).await?.ok_or_else(|| Stop::Missing(key.to_owned()))
    }

    /// A part of an object that must be there.
    pub async fn range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Stop> {
        self.client.range(self.meter, key, range).await.at(key, "INV-3")
    }

    /// Many parts of one object; those that follow each other are asked for together.
    pub async fn ranges(&self, key: &str, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, Stop> {
        let mut runs: Vec<(&str, Range<u64>)> = Vec::new();
        let mut places = Vec::with_capacity(ranges.len());
        for range in ranges {
            match runs.last_mut() {
                Some((_, run)) if run.end == range.start && range.end - run.start <= TOGETHER => {
                    run.end = range.end;
                }
                _ => runs.push((key, range.clone())),
            }
            places.push((runs.len() - 1, range));
        }
        let read = self.client.ranges(self.meter, &runs).await.at(key, "INV-3")?;
        let cut = |(run, range): (usize, Range<u64>)| {
            let start = runs[run].1.start;
            read[run].slice((range.start - start) as usize..(range.end - start) as usize)
        };
        Ok(places.into_iter().map(cut).collect())
    }
}
