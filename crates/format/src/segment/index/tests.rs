use bytes::Bytes;
use proptest::prelude::*;

use super::idmap::IdMap;
use super::*;
use crate::envelope::{self, Kind};
use crate::error;
use crate::segment::fixture::{Built, GROUP_BYTES, build, rows, write_rows};

fn slice(all: &[u8], range: Range<u64>) -> &[u8] {
    &all[range.start as usize..range.end as usize]
}

#[test]
fn what_is_written_is_read() {
    let built = build(500, false);
    let h = built.header();
    let f = h.facts();
    assert_eq!((f.rows, f.postings, f.leaves), (500, 500, built.leaf_starts.len() as u32 - 1));
    assert_eq!((f.code_bits, f.group_bytes, f.centroid_bits), (64, GROUP_BYTES, 8));
    assert_eq!((f.rotation_seed, f.scale, f.seqs), (42, 0.125, (1, 6)));
    assert_eq!(f.file_size, built.index.len() as u64);
    assert_eq!(built.summary.size, built.index.len() as u64);
    assert_eq!(built.summary.header_crc, crc32c::crc32c(h.bytes()));
    assert_eq!(h.rows(), &built.layout.address);
    assert_eq!(h.settings().dimension, 8);
    assert_eq!(h.schema(), &crate::segment::fixture::schema());
    assert_eq!(h.calibration()[2], Calibration { min_recall: 0.98, b: 0.1, delta: 0.2, rerank: 50 });
    assert_eq!(h.centroids(), built.codes[..64]);
    assert_eq!(h.leaf_starts(), built.leaf_starts);
    assert!(!h.is_spilled());
    for (section, want) in [
        (Section::Codes, &built.codes[..]),
        (Section::Payload, &built.payload.blocks),
        (Section::Footer, &built.layout.footer),
    ] {
        let bytes = built.read(h.section(section).unwrap());
        assert_eq!(bytes, want, "{section:?}");
        h.check_section(section, &bytes).unwrap();
    }
    assert_eq!(h.checks(&built.read(h.section(Section::Checks).unwrap())).unwrap(), built.layout.checks);
}

fn leaves_are_where_they_are(built: &Built) {
    let h = built.header();
    let mut own = 0;
    for l in 0..h.leaf_count() {
        let leaf = h.leaf(l);
        assert_eq!(leaf.ordinals.start, own);
        own = leaf.ordinals.end;
        let codes = built.read(h.codes_range(h.leaf_groups(l)));
        h.check_leaf_codes(l, &codes).unwrap();
        assert_eq!(codes.len() as u32, h.leaf_groups(l).len() as u32 * h.facts().group_bytes);
        let hashes = h.leaf_hashes(l, &built.read(h.idplane_range(leaf.postings.clone()))).unwrap();
        let spilled = h.leaf_copies(l, &codes).unwrap();
        let ordinals: Vec<u32> = leaf.ordinals.clone().chain(spilled).collect();
        assert_eq!(hashes, ordinals.iter().map(|o| built.hashes[*o as usize]).collect::<Vec<_>>());
        if let Some((starts, copies)) = &built.postings {
            assert_eq!(leaf.postings, starts[l as usize]..starts[l as usize + 1]);
            assert_eq!(ordinals[leaf.ordinals.len()..], copies[2 * l as usize..2 * l as usize + 2]);
        }
        for ordinal in leaf.ordinals {
            assert_eq!(h.leaf_of(ordinal), l);
        }
        for posting in leaf.postings {
            assert_eq!(h.leaf_of_posting(posting), l);
        }
    }
    assert_eq!(own, h.facts().rows);
    assert_eq!(h.leaf(h.leaf_count()).ordinals, 0..0);
}

#[test]
fn leaves_have_their_codes_and_hashes() {
    leaves_are_where_they_are(&build(500, false));
    leaves_are_where_they_are(&build(1, false));
}

#[test]
fn spilled_postings_are_read() {
    let built = build(500, true);
    leaves_are_where_they_are(&built);
    assert!(built.header().facts().postings > 500);
    // The id map has each row once.
    let h = built.header();
    let all = h.idmap_entries(&built.read(h.section(Section::IdMap).unwrap())).unwrap();
    let mut ordinals: Vec<u32> = all.iter().map(|(_, o)| *o).collect();
    ordinals.sort_unstable();
    assert_eq!(ordinals, (0..500).collect::<Vec<_>>());
}

#[test]
fn ids_are_found() {
    let built = build(1500, false);
    let h = built.header();
    for (ordinal, hash) in (0..).zip(&built.hashes) {
        assert_eq!(h.idmap_find(*hash, &built.read(h.idmap_pages(*hash))).unwrap(), vec![ordinal]);
        assert!(h.idmap_find(hash + 1, &built.read(h.idmap_pages(hash + 1))).unwrap().is_empty());
    }
}

fn check_map(hashes: &[u64]) {
    let (map, bytes) = IdMap::build(hashes.iter().copied().zip(0..).collect());
    assert_eq!(map.length(), bytes.len() as u64);
    for hash in hashes {
        let pages = map.pages(*hash);
        let entries = map.read("i", pages.start, slice(&bytes, pages)).unwrap();
        let found: Vec<u32> = entries.iter().filter(|(h, _)| h == hash).map(|(_, o)| *o).collect();
        let want: Vec<u32> = (0..).zip(hashes).filter(|(_, h)| *h == hash).map(|(o, _)| o).collect();
        assert_eq!(found, want);
    }
    for absent in [0, 1, u64::MAX, 1 << 63] {
        let pages = map.pages(absent);
        map.read("i", pages.start, slice(&bytes, pages)).unwrap();
    }
}

#[test]
fn hashes_that_are_not_uniform_are_found() {
    check_map(&[]);
    check_map(&[u64::MAX; 1000]);
    check_map(&[0; 1000]);
    check_map(&(0..3000).collect::<Vec<u64>>());
    check_map(&(0..3000).map(|i| u64::MAX - i * i).collect::<Vec<u64>>());
    check_map(
        &(0..3000u64).map(|i| if i % 2 == 0 { i } else { (1 << 63) + (i << 40) }).collect::<Vec<u64>>(),
    );
}

#[test]
fn uniform_hashes_take_few_pages() {
    let mut r = crate::segment::fixture::Numbers(1);
    let (map, _) = IdMap::build((0..100_000).map(|i| (r.next(), i)).collect());
    let most = (0..10_000).map(|_| map.pages(r.next())).map(|p| (p.end - p.start) / 4096).max();
    assert!(most <= Some(3), "{most:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_hashes_are_found(hashes in prop::collection::vec(prop_oneof![any::<u64>(), 0..50u64, (0..9u64).prop_map(|s| s << 60)], 0..800)) {
        check_map(&hashes);
    }
}

#[test]
fn payload_sizes_that_do_not_fit_the_header_are_read_by_leaf() {
    let rows = 32 * 17_000 - 5;
    let mut built = build(200, false);
    // Blocks of made-up sizes: only addresses matter here.
    let sizes: Vec<u32> = (0..17_000).map(|i| i % 7).collect();
    built.payload.sizes = sizes.clone();
    built.payload.blocks = vec![0; sizes.iter().sum::<u32>() as usize];
    built.layout.address.rows = rows;
    built.layout.address.row_group_rows = 1 << 20;
    let leaf_starts: Vec<u32> = (0..rows as u32).step_by(1001).chain([rows as u32]).collect();
    let idplane = vec![0; rows as usize];
    let codes = vec![0; (rows as usize).div_ceil(32)];
    let h = built.header();
    let parts = IndexParts {
        settings: h.settings(),
        schema: h.schema(),
        rows: &built.layout,
        seqs: (1, 1),
        code_bits: 64,
        rotation_seed: 0,
        scale: 1.0,
        basis: None,
        calibration: *h.calibration(),
        leaf_starts: &leaf_starts,
        centroid_bits: 8,
        centroids: &[],
        group_bytes: 1,
        codes: &codes,
        idplane: &idplane,
        spill: None,
        payload: &built.payload,
        attributes: &built.attributes,
        payload_spool: None,
        attributes_spool: None,
    };
    let mut index = Vec::new();
    let summary = IndexWriter::new(parts).unwrap().write(&mut index).unwrap();
    let h = Header::parse("i", Bytes::from(index.clone()).slice(..summary.header_len as usize)).unwrap();
    assert!(!h.payload_sizes_in_header() && h.payload_block_range(0).is_none());
    let base = h.section(Section::Payload).unwrap().start;
    let starts: Vec<u64> =
        sizes.iter().scan(base, |at, s| Some(std::mem::replace(at, *at + u64::from(*s)))).collect();
    for l in 0..h.leaf_count() {
        let range = h.payload_sizes_range(l);
        assert!(range.end - range.start <= 8192);
        let blocks = h.leaf_payload_blocks(l, slice(&index, range)).unwrap();
        let rows = h.leaf(l).ordinals;
        assert_eq!(blocks[0].0, rows.start / 32);
        assert_eq!(blocks[blocks.len() - 1].0, (rows.end - 1) / 32);
        for (block, range) in blocks {
            let start = starts[block as usize];
            assert_eq!(range, start..start + u64::from(sizes[block as usize]));
        }
    }
}

#[test]
fn unknown_features_are_refused_by_name() {
    let built = build(40, false);
    for (feature, name) in [(envelope::EXTENSION, "extension"), (1 << 40, "0x10000000000")] {
        let h = built.header();
        let object = envelope::seal(Kind::Index, feature, &h.bytes()[envelope::LENGTH..]);
        let error = Header::parse("i", object.into()).unwrap_err();
        assert_eq!(error.to_string(), format!("i requires the feature {name}, which this build lacks"));
        assert_eq!(error.kind(), error::Kind::Invalid);
    }
    let other = envelope::seal(Kind::Deletes, 0, &[]);
    assert!(Header::parse("i", other.into()).is_err());
}

/// Everything a reader can learn from an index file, or the first error.
fn read_everything(index: &Bytes, built: &Built) -> error::Result<Vec<u8>> {
    let header = index.slice(..(built.summary.header_len as usize).min(index.len()));
    let h = Header::parse("i", header)?;
    let read = |range: Range<u64>| {
        let range = range.start as usize..range.end as usize;
        if range.end <= index.len() {
            Ok(index.slice(range))
        } else {
            Err(error::Error::corrupt("i", "short"))
        }
    };
    let mut out = h.bytes().to_vec();
    for l in 0..h.leaf_count() {
        let codes = read(h.codes_range(h.leaf_groups(l)))?;
        h.check_leaf_codes(l, &codes)?;
        out.extend_from_slice(&codes);
        let hashes = h.leaf_hashes(l, &read(h.idplane_range(h.leaf(l).postings))?)?;
        out.extend(hashes.iter().flat_map(|h| h.to_le_bytes()));
        out.extend(h.leaf_copies(l, &codes)?.iter().flat_map(|o| o.to_le_bytes()));
    }
    for (hash, ordinal) in h.idmap_entries(&read(h.section(Section::IdMap).unwrap_or(0..0))?)? {
        out.extend(hash.to_le_bytes());
        out.extend(ordinal.to_le_bytes());
    }
    let schema = std::sync::Arc::new(h.schema().clone());
    for block in 0..h.facts().rows.div_ceil(32) {
        let bytes = read(h.payload_block_range(block).unwrap_or(0..0))?;
        let rows = crate::segment::payload::decode_block("i", block, &bytes, &schema)?;
        out.extend(format!("{:?}", rows.to_batch(&(0..rows.len()).collect::<Vec<_>>())?).bytes());
    }
    for predicate in crate::segment::attributes::tests::predicates() {
        let Some(plan) = h.attributes().plan(&predicate) else { continue };
        let bytes: error::Result<Vec<Bytes>> = plan.ranges.iter().map(|r| read(r.clone())).collect();
        out.extend(plan.evaluate(&bytes?)?.iter().flat_map(|o| o.to_le_bytes()));
    }
    let checks = h.checks(&read(h.section(Section::Checks).unwrap_or(0..0))?)?;
    out.extend(format!("{checks:?}").bytes());
    let footer = read(h.section(Section::Footer).unwrap_or(0..0))?;
    h.check_section(Section::Footer, &footer)?;
    out.extend_from_slice(&footer);
    Ok(out)
}

#[test]
fn no_flipped_bit_changes_an_answer() {
    let built = build(70, true);
    let truth = read_everything(&built.index, &built).unwrap();
    // Every bit of the envelope and the directory, and one bit of every third byte of the rest.
    let mut unseen = 0;
    for byte in (0..200).chain((200..built.index.len()).step_by(3)) {
        for bit in if byte < 200 { 0..8 } else { byte % 8..byte % 8 + 1 } {
            let mut bad = built.index.to_vec();
            bad[byte] ^= 1 << bit;
            match read_everything(&bad.into(), &built) {
                Err(e) => assert!(matches!(e.kind(), error::Kind::Corrupt | error::Kind::Invalid), "{e}"),
                Ok(read) => {
                    assert_eq!(read, truth, "bit {bit} of byte {byte}");
                    unseen += 1;
                }
            }
        }
    }
    // What no predicate of the test reads.
    assert!(unseen < built.index.len() / 4, "{unseen} of {}", built.index.len());
}

#[test]
fn truncated_headers_are_refused() {
    let built = build(40, false);
    for length in (0..built.summary.header_len as usize).step_by(7) {
        assert!(Header::parse("i", built.index.slice(..length)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    // A header that passes its checksum but is not what a writer makes must not panic.
    #[test]
    fn forged_headers_never_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), spill in any::<bool>()) {
        thread_local! { static BUILT: [Built; 2] = [build(40, false), build(40, true)]; }
        BUILT.with(|built| {
            let built = &built[usize::from(spill)];
            let mut payload = built.header().bytes()[envelope::LENGTH..].to_vec();
            let at = at.index(payload.len());
            payload[at] = value;
            let feature = if spill { envelope::SPILL } else { 0 };
            let mut index = built.index.to_vec();
            let forged = envelope::seal(Kind::Index, feature, &payload);
            index[..forged.len()].copy_from_slice(&forged);
            let _ = read_everything(&index.into(), built);
        });
    }
}

/// The files of a small segment never change: readers of every later version read them.
#[test]
fn golden_files() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/segment");
    let (plain, spilled) = (build(300, false), build(300, true));
    let half = crate::segment::fixture::settings(3, crate::schema::VectorType::F16);
    let half = write_rows(&rows(300, &half, 8), &half, 300).0;
    let deletes = crate::segment::deletes::encode(&[1, 5, 299].into(), &plain.leaf_starts).unwrap();
    for (name, bytes) in [
        ("plain.parquet", &plain.rows),
        ("half.parquet", &half),
        ("plain.index", &plain.index),
        ("spilled.index", &spilled.index),
        ("plain.deletes", &deletes),
    ] {
        let path = folder.join(name);
        #[allow(clippy::disallowed_methods, reason = "a test that regenerates its files on request")]
        if std::env::var("ESKER_REGENERATE").is_ok() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        #[allow(clippy::disallowed_methods, reason = "a test that compares files")]
        let golden = std::fs::read(&path).unwrap();
        assert!(golden == bytes[..], "{name} changed");
    }
}

/// Run by hand in release: what a compaction of 60k × 384 writes, in seconds.
#[test]
#[ignore = "a measurement"]
#[allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "a measurement, by hand"
)]
fn speed() {
    use crate::schema::VectorType;
    use crate::segment::attributes::AttributesBuilder;
    use crate::segment::fixture::{schema, settings};
    use crate::segment::payload::PayloadWriter;
    use crate::segment::rows::{RowsWriter, verify_layout};
    for vector_type in [VectorType::F32, VectorType::F16] {
        let (n, settings, schema) = (60_000, settings(384, vector_type), schema());
        let batch = rows(n, &settings, 1);
        let mut times = vec![("start", std::time::Instant::now())];
        let mut file = Vec::new();
        let mut writer = RowsWriter::new(&mut file, &settings, &schema).unwrap();
        writer.write(&batch).unwrap();
        let layout = writer.finish().unwrap();
        times.push(("rows", std::time::Instant::now()));
        let file = Bytes::from(file);
        verify_layout("r", &file, &layout).unwrap();
        times.push(("verify", std::time::Instant::now()));
        let mut payload = PayloadWriter::new(&settings, &schema).unwrap();
        payload.push_batch(&batch).unwrap();
        let payload = payload.finish().unwrap();
        times.push(("payload", std::time::Instant::now()));
        let mut attributes = AttributesBuilder::new(&settings, &schema, 1);
        attributes.push_batch(&batch).unwrap();
        let attributes = attributes.finish(&layout).unwrap();
        times.push(("attributes", std::time::Instant::now()));
        let mut r = crate::segment::fixture::Numbers(1);
        let idplane: Vec<u64> = (0..n).map(|_| r.next()).collect();
        let leaf_starts: Vec<u32> = (0..n as u32).step_by(64).chain([n as u32]).collect();
        let built = build(1, false);
        let h = built.header();
        let parts = IndexParts {
            settings: &settings,
            schema: &schema,
            rows: &layout,
            seqs: (1, 2),
            code_bits: 384,
            rotation_seed: 1,
            scale: 1.0,
            basis: None,
            calibration: *h.calibration(),
            leaf_starts: &leaf_starts,
            centroid_bits: 8,
            centroids: &vec![1; leaf_starts.len() * 384],
            group_bytes: 1792,
            codes: &vec![1; n / 32 * 1792],
            idplane: &idplane,
            spill: None,
            payload: &payload,
            attributes: &attributes,
            payload_spool: None,
            attributes_spool: None,
        };
        let mut index = Vec::new();
        let summary = IndexWriter::new(parts).unwrap().write(&mut index).unwrap();
        times.push(("index", std::time::Instant::now()));
        let h = Header::parse("i", Bytes::from(index).slice(..summary.header_len as usize)).unwrap();
        times.push(("parse", std::time::Instant::now()));
        for w in times.windows(2) {
            eprintln!("{vector_type} {:<11} {:>8.1} ms", w[1].0, (w[1].1 - w[0].1).as_secs_f64() * 1e3);
        }
        eprintln!(
            "rows {} · index {} · header {} · directory {} · attributes {} · payload {}",
            file.len(),
            summary.size,
            summary.header_len,
            attributes.directory.len(),
            attributes.section.len(),
            payload.blocks.len()
        );
        assert_eq!(h.facts().rows, n as u32);
    }
}
