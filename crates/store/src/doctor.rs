//! Does this store keep the promises the protocol rests on? Races it, and records the verdict.

use std::fmt;

use bytes::Bytes;
use esker_format::envelope::{self, FORMAT_VERSION};
use esker_format::keys::{DOCTOR, STORE};
use esker_format::{Error, Kind, Result};
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::client::{Client, CreateReply, ETag, IfMatch};
use crate::meter::Meter;

/// Writers that race for one name.
const RACERS: usize = 16;
/// Names raced for. A store that lets rivals win only now and then must not get away with it: of one that did so in a
/// quarter of the rounds, ten found nothing in one visit of twenty.
const RACES: usize = 30;
/// Times that one object is replaced.
const ROUNDS: usize = 10;

/// What a store was found to do. Kept at the store's root, where every create looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Version of the storage format.
    pub format_version: u32,
    /// When the doctor was here, milliseconds since the epoch.
    pub at_ms: i64,
    /// Every check with its result.
    pub checks: Vec<Check>,
}

/// One promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Which.
    pub name: String,
    /// What was seen instead; none if it was kept.
    pub broken: Option<String>,
}

impl Verdict {
    /// Whether the store may be used.
    pub fn safe(&self) -> bool {
        self.checks.iter().all(|c| c.broken.is_none())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.broken {
            None => write!(f, "ok      {}", self.name),
            Some(broken) => write!(f, "BROKEN  {}: {broken}", self.name),
        }
    }
}

/// Checks the store with some six hundred small requests under `doctor/`, removes what it wrote, and records the verdict.
///
/// # Errors
/// Where the store cannot be written or read at all; a broken promise is in the verdict.
pub async fn examine(client: &Client, meter: &Meter) -> Result<Verdict> {
    let folder = format!("{DOCTOR}{}/", client.seams().token());
    // A store that cannot be reached, or is not ours to use, is no verdict on its promises.
    client.overwrite(meter, &format!("{folder}reachable"), Bytes::from("x")).await?;
    let mut checks = Vec::new();
    let mut check = |name: &str, seen: Result<Option<String>>| {
        checks.push(Check { name: name.to_owned(), broken: seen.unwrap_or_else(|e| Some(e.to_string())) });
    };
    check("one of 16 racing creates wins", race(client, meter, &folder).await);
    check("a create never replaces", create_keeps(client, meter, &folder).await);
    check("a listing is complete, sorted and starts where asked", listing(client, meter, &folder).await);
    check("ranges and suffixes are exact", ranges(client, meter, &folder).await);
    check("a missing object is reported missing", missing(client, meter, &folder).await);
    check("a read sees what was written before it", newest(client, meter, &folder).await);
    check("a read can be tied to the object that was listed", if_match(client, meter, &folder).await);
    check("a delete is seen at once", delete(client, meter, &folder).await);
    for left in client.list_all(meter, &folder).await? {
        client.delete(meter, &left.key).await?;
    }
    let verdict = Verdict { format_version: FORMAT_VERSION, at_ms: client.seams().clock.now_ms(), checks };
    let json =
        serde_json::to_vec(&verdict).map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
    client.overwrite(meter, STORE, envelope::seal(envelope::Kind::Store, 0, &json).into()).await?;
    Ok(verdict)
}

/// The recorded verdict, if the doctor was here.
pub async fn verdict(client: &Client, meter: &Meter) -> Result<Option<Verdict>> {
    let Some((bytes, _)) = client.get(meter, STORE).await? else { return Ok(None) };
    let json = envelope::open(STORE, envelope::Kind::Store, &bytes)?;
    serde_json::from_slice(&json).map(Some).map_err(|e| Error::corrupt(STORE, e))
}

/// Refuses a store that failed.
pub(crate) async fn refuse_unsafe(client: &Client, meter: &Meter) -> Result<()> {
    let Some(verdict) = verdict(client, meter).await? else { return Ok(()) };
    let Some(broken) = verdict.checks.iter().find(|c| c.broken.is_some()) else { return Ok(()) };
    Err(Error::new(Kind::Unavailable, format!("this store would lose writes: {broken}"))
        .with_hint("use another store, or run `esker doctor` again once it is mended"))
}

async fn race(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    // Every racer has a connection by then: those that must open one first come too late to race.
    let warm = (0..RACERS).map(|_| {
        let meter = meter.fork();
        async move { client.get(&meter, &format!("{folder}reachable")).await }
    });
    join_all(warm).await;
    for round in 0..RACES {
        let key = format!("{folder}race/{round}");
        let body = |racer: usize| Bytes::from(format!("racer {racer} of round {round}"));
        let racers = (0..RACERS).map(|racer| {
            let (key, meter) = (&key, meter.fork());
            async move { client.create(&meter, key, body(racer)).await }
        });
        let replies = join_all(racers).await;
        let won: Vec<usize> = (0..RACERS).filter(|i| matches!(replies[*i], CreateReply::Created)).collect();
        if let Some(CreateReply::Refused(e)) = replies.iter().find(|r| matches!(r, CreateReply::Refused(_))) {
            return Ok(Some(format!("the store refuses conditional puts: {e}")));
        }
        let unresolved = replies.iter().filter(|r| matches!(r, CreateReply::Unresolved(_))).count();
        let found = client.get(meter, &key).await?.map(|(bytes, _)| bytes);
        match (&won[..], found) {
            ([winner], Some(found)) if found == body(*winner) => {}
            ([], Some(_)) if unresolved > 0 => {}
            ([_], Some(_)) => return Ok(Some("the winner's bytes are not what is stored".to_owned())),
            (_, None) => return Ok(Some("an object that was created is not there".to_owned())),
            (won, _) => return Ok(Some(format!("{} of {RACERS} were told that they won", won.len()))),
        }
    }
    Ok(None)
}

async fn create_keeps(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    let key = format!("{folder}create");
    client.overwrite(meter, &key, Bytes::from("first")).await?;
    let again = client.create(meter, &key, Bytes::from("second")).await;
    let kept = client.get(meter, &key).await?.map(|(bytes, _)| bytes);
    Ok(match again {
        _ if kept.as_deref() != Some(b"first") => Some("a second create replaced the object".to_owned()),
        CreateReply::Created => Some("a second create was answered as the first".to_owned()),
        _ => None,
    })
}

async fn listing(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    let prefix = format!("{folder}list/");
    let keys: Vec<String> = (0..20).map(|i| format!("{prefix}{:02}", (i * 7) % 20)).collect();
    for (written, key) in keys.iter().enumerate() {
        client.overwrite(meter, key, Bytes::from("x")).await?;
        let listed = client.list_page(meter, &prefix, None, 1000).await?;
        if listed.objects.len() != written + 1 {
            return Ok(Some(format!(
                "{} of {} objects just written were listed",
                listed.objects.len(),
                written + 1
            )));
        }
    }
    let page = client.list_page(meter, &prefix, Some(&format!("{prefix}04")), 5).await?;
    let names: Vec<&str> = page.objects.iter().filter_map(|l| l.key.strip_prefix(&prefix)).collect();
    if names != ["05", "06", "07", "08", "09"] || !page.more {
        let last = if page.more { "" } else { " and said to be the last" };
        return Ok(Some(format!("a page of five after 04 was {}{last}", names.join(", "))));
    }
    Ok(None)
}

async fn ranges(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    let key = format!("{folder}range");
    let body: Bytes = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    client.overwrite(meter, &key, body.clone()).await?;
    for range in [0..1, 1000..5000, 99_999..100_000] {
        match client.range(meter, &key, range.clone()).await {
            Ok(bytes) if bytes == body[range.start as usize..range.end as usize] => {}
            Ok(_) => return Ok(Some(format!("bytes {range:?} were others than written"))),
            Err(e) => return Ok(Some(e.to_string())),
        }
    }
    Ok(match client.suffix(meter, &key, 77).await {
        Ok((bytes, 100_000)) if bytes == body[body.len() - 77..] => None,
        Ok(_) => Some("the last 77 bytes were others than written".to_owned()),
        Err(e) => Some(e.to_string()),
    })
}

async fn missing(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    Ok(match client.get(meter, &format!("{folder}none")).await {
        Ok(None) => None,
        Ok(Some(_)) => Some("something was read where nothing was written".to_owned()),
        Err(e) => Some(format!("instead: {e}")),
    })
}

/// A name is probed before it is written, and `head` is read before and after it is replaced.
async fn newest(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    let key = format!("{folder}newest");
    // What a store says of a missing name has its own check.
    client.get(meter, &key).await.ok();
    let created = client.create(meter, &key, Bytes::from("0")).await;
    if !matches!(created, CreateReply::Created) {
        return Ok(Some(format!("the create of a new name was answered {created:?}")));
    }
    for round in 1..=ROUNDS {
        match client.get(meter, &key).await? {
            None => return Ok(Some("an object just written was still missing".to_owned())),
            Some((bytes, _)) if bytes != (round - 1).to_string() => {
                return Ok(Some("a read brought the object that had been replaced".to_owned()));
            }
            Some(_) => client.overwrite(meter, &key, Bytes::from(round.to_string())).await?,
        }
    }
    Ok(None)
}

async fn if_match(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    let prefix = format!("{folder}match/");
    let key = format!("{prefix}object");
    client.overwrite(meter, &key, Bytes::from("first")).await?;
    let Some((_, etag)) = client.get(meter, &key).await? else {
        return Ok(Some("an object that was written is not there".to_owned()));
    };
    let listed = client.list_page(meter, &prefix, None, 1).await?;
    if etag == ETag(String::new()) || listed.objects.first().map(|l| &l.etag) != Some(&etag) {
        return Ok(Some("the tags of a read and of a listing differ".to_owned()));
    }
    if client.get_if_match(meter, &key, &etag).await? == IfMatch::Gone {
        return Ok(Some("an object was not found by its own tag".to_owned()));
    }
    client.overwrite(meter, &key, Bytes::from("second")).await?;
    Ok((client.get_if_match(meter, &key, &etag).await? != IfMatch::Gone)
        .then(|| "an object was found by the tag of the one it replaced".to_owned()))
}

async fn delete(client: &Client, meter: &Meter, folder: &str) -> Result<Option<String>> {
    let key = format!("{folder}delete");
    client.overwrite(meter, &key, Bytes::from("x")).await?;
    client.delete(meter, &key).await?;
    Ok(client.get(meter, &key).await?.map(|_| "a deleted object was read".to_owned()))
}

#[cfg(test)]
mod tests;
