//! The store around its collections: name registers, "there is work" marks, the store object, and strays.

use std::collections::{BTreeMap, BTreeSet};

use esker_format::keys::{self, Key};
use esker_format::manifest::{NameRecord, NameState};
use esker_format::{CollectionId, Error, Kind, Name, Result};
use esker_store::{Client, Meter, doctor};

use super::report::Finding;
use super::source::finding;
use super::{Class, Listener, Options, Report, StoreReport, collection};

/// What a name register says.
struct Register {
    /// Its newest record.
    state: NameState,
    /// Which record that is.
    n: u64,
}

/// The collection that a name means, and what is wrong with its register.
///
/// # Errors
/// `NotFound` if the name means none.
pub async fn resolve(client: &Client, meter: &Meter, name: &Name) -> Result<(CollectionId, Vec<Finding>)> {
    let mut findings = Vec::new();
    let missing = || Error::new(Kind::NotFound, format!("collection `{name}` does not exist"));
    let first = CollectionId::new(name.clone(), 1);
    match register(client, meter, name, &mut findings).await? {
        Some(Register { state: NameState::Bound { id, .. }, .. }) => Ok((id, findings)),
        Some(Register { n, .. }) if !findings.is_empty() => {
            Ok((CollectionId::new(name.clone(), n.div_ceil(2)), findings))
        }
        Some(_) => Err(missing()),
        None => {
            // Readers assume the first life, so a lost record does not hide the collection from them.
            let folder = keys::Keys::new(&first).manifest_prefix();
            if client.list_page(meter, &folder, None, 1).await?.objects.is_empty() {
                return Err(missing());
            }
            findings.push(finding(&keys::name_record(name, 1), "INV-3", "no record binds the collection"));
            Ok((first, findings))
        }
    }
}

/// Reads a name's register: dense from 1, binding and dropping in turn.
async fn register(
    client: &Client,
    meter: &Meter,
    name: &Name,
    findings: &mut Vec<Finding>,
) -> Result<Option<Register>> {
    let prefix = format!("{}{name}/", keys::NAMES);
    let listed = client.list_all(meter, &prefix).await?;
    let numbers: BTreeSet<u64> = listed
        .iter()
        .filter_map(|o| match Key::parse(&o.key) {
            Ok(Key::Name(_, n)) => Some(n),
            _ => None,
        })
        .collect();
    let (mut newest, mut n) = (None, 0u64);
    loop {
        n = match n.checked_add(1) {
            Some(n) => n,
            None => return Ok(newest),
        };
        let key = keys::name_record(name, n);
        let Some((bytes, _)) = client.get(meter, &key).await? else {
            let Some(later) = numbers.range(n.saturating_add(1)..).next() else { return Ok(newest) };
            findings.push(finding(&key, "INV-4", format!("it is missing, and record {later} is there")));
            n = later - 1;
            continue;
        };
        let record = match NameRecord::decode(&key, &bytes) {
            Ok(record) => record,
            Err(e) => {
                findings.push(finding(&key, "INV-3", e));
                continue;
            }
        };
        let as_named = match &record.state {
            NameState::Bound { id, .. } => {
                n % 2 == 1 && *id == CollectionId::new(name.clone(), n.div_ceil(2))
            }
            NameState::Dropped => n % 2 == 0,
        };
        if record.n != n || !as_named {
            findings.push(finding(&key, "INV-4", "it is another record than its name says"));
            continue;
        }
        newest = Some(Register { state: record.state, n });
    }
}

/// Examines every collection, dropped ones too, and everything around them.
///
/// # Errors
/// What kept the store from answering.
pub async fn store(
    client: &Client,
    meter: &Meter,
    options: Options,
    listener: Listener<'_>,
) -> Result<StoreReport> {
    let mut out =
        StoreReport { collections: Vec::new(), classes: BTreeMap::new(), findings: Vec::new(), more: 0 };
    let (names, ids) = walk(client, meter, &mut out).await?;
    if let Err(e) = doctor::verdict(client, meter).await {
        match e.kind() {
            Kind::Corrupt | Kind::Invalid => out.findings.push(finding(keys::STORE, "INV-3", e)),
            _ => return Err(e),
        }
    }
    let mut bound = BTreeMap::new();
    for name in &names {
        if let Some(register) = register(client, meter, name, &mut out.findings).await? {
            bound.insert(name, register.n);
        }
    }
    for id in &ids {
        let n = id.life().saturating_mul(2).saturating_sub(1);
        if bound.get(id.name()).is_none_or(|newest| *newest < n) {
            let record = keys::name_record(id.name(), n);
            // Or its record was put after the names were listed.
            if client.get(meter, &record).await?.is_none() {
                out.findings.push(finding(&record, "INV-3", format!("no record binds collection {id}")));
            }
        }
        match collection(client, meter, id, options, listener).await {
            Ok(report) => out.collections.push(report),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    out.findings.sort();
    Ok(out)
}

/// Lists everything but the insides of collections.
async fn walk(
    client: &Client,
    meter: &Meter,
    out: &mut StoreReport,
) -> Result<(BTreeSet<Name>, BTreeSet<CollectionId>)> {
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut after: Option<String> = None;
    loop {
        let page = client.list_page(meter, "", after.as_deref(), 1000).await?;
        let Some(last) = page.objects.last() else { return Ok((names, ids)) };
        let mut next = last.key.clone();
        for object in &page.objects {
            let class = match Key::parse(&object.key) {
                Ok(Key::Of(id, _)) => {
                    next = beyond(&id);
                    ids.insert(id);
                    if page.more {
                        break;
                    }
                    continue;
                }
                Ok(Key::Name(name, _)) => {
                    names.insert(name);
                    Class::Names
                }
                Ok(Key::Store) => Class::Names,
                Ok(Key::Dirty(..) | Key::DirtyJob(..)) => Class::Dirty,
                Ok(Key::Doctor) => Class::Garbage,
                Err(_) => {
                    // Inside of a collection its own examination counts it.
                    let id = object.key.strip_prefix(keys::COLLECTIONS).and_then(|k| k.split_once('/'));
                    if let Some(id) = id.and_then(|(id, _)| id.parse::<CollectionId>().ok()) {
                        ids.insert(id);
                        continue;
                    }
                    out.findings.push(finding(&object.key, "format", "it is no object of this format"));
                    Class::Unknown
                }
            };
            next = object.key.clone();
            out.classes.entry(class).or_default().add(object.size);
        }
        if !page.more {
            return Ok((names, ids));
        }
        after = Some(next);
    }
}

/// A name after every object of a collection.
fn beyond(id: &CollectionId) -> String {
    format!("{}~", keys::Keys::new(id).prefix())
}

impl StoreReport {
    /// All findings there are.
    pub fn count(&self) -> u64 {
        self.collections.iter().map(Report::count).sum::<u64>() + self.findings.len() as u64 + self.more
    }
}
