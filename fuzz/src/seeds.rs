//! Writes the seeds: `seeds FOLDER` makes a folder per target from crates/format/golden. Every target starts from input
//! that its decoder takes.

#![expect(clippy::disallowed_methods, reason = "a command that reads and writes files")]

use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use esker_format::avro::{container, framing};
use esker_format::envelope;
use esker_format::head::{Head, Part};
use esker_format::keys::Keys;
use esker_format::manifest::{NameRecord, NameState};
use esker_format::record::{Record, SCHEMA};
use esker_format::schema::{Metric, Schema};
use esker_format::segment::attributes::Chunk;
use esker_format::segment::index::{Header, Section};
use esker_format::wal::{self, inbox};

fn golden(name: &str) -> io::Result<Vec<u8>> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/format/golden").join(name))
}

struct Seeds {
    folder: PathBuf,
}

impl Seeds {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seeds FOLDER")?;
    let seeds = Seeds { folder: folder.into() };
    log(&seeds)?;
    register(&seeds)?;
    segment(&seeds)?;
    text(&seeds)?;
    Ok(())
}

fn log(seeds: &Seeds) -> Result<(), Box<dyn std::error::Error>> {
    for name in ["upsert", "delete", "body", "entry-with-body", "invalid/combined", "invalid/unknown-flag"] {
        let file = golden(&format!("wal/{name}.avro"))?;
        let short = name.replace('/', "-");
        for target in ["wal", "container", "import"] {
            seeds.put(target, &short, &file)?;
        }
        seeds.put("http", &short, &[&[2], &file[..]].concat())?;
        // Application/avro as an upload.
        seeds.put("http", &format!("{short}-upload"), &[&[67], &file[..]].concat())?;
        for (i, block) in container::read(&file.into())?.blocks.iter().enumerate() {
            seeds.put("record", &format!("{short}-{i}"), &block.data)?;
            seeds.put("framing", &format!("{short}-{i}"), &framing::encode("upsert", &block.data))?;
        }
    }
    // What an entry holds, offered.
    for name in ["upsert", "delete"] {
        let mut offer = container::read(&golden(&format!("wal/{name}.avro"))?.into())?;
        let batches = offer.meta.remove(wal::BATCHES).ok_or("an entry lists its batches")?;
        let mut batches: serde_json::Value = serde_json::from_slice(&batches)?;
        for batch in batches.as_array_mut().into_iter().flatten() {
            batch.as_object_mut().and_then(|batch| batch.remove("hash"));
        }
        offer.meta.insert(inbox::TAIL.to_owned(), b"4".to_vec());
        offer.meta.insert(inbox::OFFERED.to_owned(), serde_json::to_vec(&batches)?);
        let blocks: Vec<(u64, &[u8])> = offer.blocks.iter().map(|b| (b.rows, &b.data[..])).collect();
        seeds.put("inbox", name, &container::write(&offer.meta, &blocks))?;
    }
    let mut block = Vec::new();
    let record: Record = serde_json::from_str(RECORD)?;
    record.encode(&mut block);
    seeds.put("record", "made", &block)?;
    seeds.put("http", "framed", &[&[3], &framing::encode("upsert", &block)[..]].concat())?;
    // The same data under a schema that differs in a name, so that values go through Avro's resolution.
    let writer = SCHEMA.replacen("\"Record\"", "\"Other\"", 1).replacen("\"long\"", "\"int\"", 1);
    for (name, schema) in [("ours", SCHEMA), ("other", &writer), ("small", SMALL)] {
        seeds.put("foreign", name, &[schema.as_bytes(), &[0xff], &block].concat())?;
    }
    Ok(())
}

fn register(seeds: &Seeds) -> Result<(), Box<dyn std::error::Error>> {
    let record = NameRecord {
        n: 1,
        token: "00000000000000000000000000000001".parse()?,
        at_ms: 1,
        state: NameState::Bound {
            id: esker_fuzz::collection(),
            settings: esker_fuzz::settings(4, Metric::L2),
            schema: Schema::default(),
        },
    };
    let manifest = record.first_manifest().ok_or("a bound name has a first manifest")?;
    let made = esker_format::keys::Made { base: 1, token: record.token };
    let header = Bytes::from(golden("segment/plain.index")?).slice(..64);
    let head =
        Head { manifest: manifest.clone(), parts: vec![Part { made, header, codes: None, deletes: None }] };
    for (name, object) in
        [("name", record.encode()?), ("manifest", manifest.encode()?), ("head", head.encode()?)]
    {
        seeds.put("register", name, &object[envelope::LENGTH..])?;
        seeds.put("envelope", name, &object)?;
    }
    let keys = Keys::new(&esker_fuzz::collection());
    for (name, key) in [
        ("wal", keys.wal(7)),
        ("manifest", keys.manifest(3)),
        ("rows", keys.rows(made)),
        ("head", keys.head()),
    ] {
        seeds.put("keys", name, key.as_bytes())?;
    }
    Ok(())
}

fn segment(seeds: &Seeds) -> Result<(), Box<dyn std::error::Error>> {
    let deletes = golden("segment/plain.deletes")?;
    seeds.put("deletes", "plain", &deletes)?;
    seeds.put("deletes", "slice", &deletes[64 + 8 + 4 + 20..])?;
    for name in ["plain", "spilled"] {
        let file = Bytes::from(golden(&format!("segment/{name}.index"))?);
        seeds.put("index", name, &file)?;
        let header = Header::parse(name, file.clone())?;
        for section in [Section::Payload, Section::IdMap, Section::Codes] {
            let Some(range) = header.section(section) else { continue };
            let bytes = &file[range.start as usize..range.end as usize];
            seeds.put("payload", &format!("{name}-{section:?}"), bytes)?;
        }
        for block in 0..4 {
            let Some(range) = header.payload_block_range(block) else { continue };
            let stored = &file[range.start as usize..range.end as usize];
            seeds.put("payload", &format!("{name}-{block}"), stored)?;
            seeds.put("payload", &format!("{name}-{block}-raw"), &zstd::decode_all(stored)?)?;
        }
    }
    chunks(seeds)?;
    for pick in 0..64 {
        seeds.put("attributes", &format!("{pick}"), &[pick, 0, 0, 1, 4, 0, 2])?;
    }
    Ok(())
}

/// The column chunks of the golden rows file, each behind the position of its column.
fn chunks(seeds: &Seeds) -> Result<(), Box<dyn std::error::Error>> {
    let header = Header::parse("plain", golden("segment/plain.index")?.into())?;
    let rows = golden("segment/plain.parquet")?;
    let schema = esker_format::schema::arrow_schema(header.settings(), header.schema());
    for (i, field) in schema.fields().iter().enumerate() {
        let Some(column) = header.attributes().column(field.name()) else { continue };
        for (group, chunk) in column.chunks().iter().enumerate() {
            let Chunk { range, .. } = chunk;
            let bytes = rows.get(range.start as usize..range.end as usize).ok_or("a chunk lies outside")?;
            seeds.put("chunk", &format!("{i}-{group}"), &[&[i as u8], bytes].concat())?;
        }
    }
    Ok(())
}

const RECORD: &str = r#"{"id":"a","vector":[1,0.5,-2,3e-3],"metadata":{"topic":"music","year":1999,"tags":["a","b"],"ok":true,"x":0.5},"version":2,"expires_at":5}"#;
const SMALL: &str = r#"{"type":"record","name":"Row","fields":[{"name":"id","type":"string"},{"name":"vector","type":{"type":"array","items":"double"}}]}"#;

fn text(seeds: &Seeds) -> io::Result<()> {
    seeds.put("json", "record", RECORD.as_bytes())?;
    seeds.put("json", "list", format!("[{RECORD}]").as_bytes())?;
    seeds.put("import", "lines", format!("{RECORD}\n{RECORD}\n").as_bytes())?;
    seeds.put("http", "json-upload", format!("A{{\"records\":[{RECORD}]}}").as_bytes())?;
    seeds.put("http", "json", format!("\0{{\"records\":[{RECORD}]}}").as_bytes())?;
    seeds.put("http", "patch", b"\xfa{\"records\":[{\"id\":\"a\",\"metadata\":{\"topic\":\"b\"}}]}")?;
    seeds.put("http", "ndjson", format!("\x01{RECORD}\n{RECORD}").as_bytes())?;
    let sql = [
        "topic = 'music' AND year >= 1990",
        "NOT (rating BETWEEN 0.5 AND 2 OR flag) AND topic IN ('a', 'b')",
        "array_has(tags, 'a') AND topic LIKE 'mu%' AND year IS NOT NULL",
        "_timestamp > TIMESTAMP '2020-01-01T00:00:00Z' AND year + 1 < 5e3",
    ];
    let json = [
        r#"{"topic":{"$eq":"music"},"year":{"$gte":1990,"$lt":2000}}"#,
        r#"{"$or":[{"flag":true},{"$not":{"tags":{"$contains":"a"}}}],"topic":{"$in":["a","b"]}}"#,
        r#"{"topic":{"$like":"mu%","$exists":true},"year":{"$nin":[1,2.5]}}"#,
    ];
    for (target, texts) in [("filter_sql", &sql[..]), ("filter_json", &json[..])] {
        for (i, text) in texts.iter().enumerate() {
            seeds.put(target, &i.to_string(), text.as_bytes())?;
        }
    }
    Ok(())
}
