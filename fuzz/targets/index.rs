//! An index file: its hot header, whose checksum is made to fit, and all that is addressed by it.
#![no_main]

use std::ops::Range;

use esker_format::envelope::Kind;
use esker_format::segment::index::{Header, Section};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let file = esker_fuzz::resealed(Kind::Index, data);
    esker_fuzz::bounded(data.len(), || {
        Header::parse("index", bytes::Bytes::copy_from_slice(data)).ok();
        let Ok(header) = Header::parse("index", file.clone()) else { return };
        let part = |range: Range<u64>| {
            assert!(range.start <= range.end && range.end <= header.facts().file_size, "{range:?}");
            let end = range.end.min(file.len() as u64) as usize;
            file.slice((range.start as usize).min(end)..end)
        };
        for leaf in (0..header.leaf_count().min(64)).chain([u32::MAX]) {
            let l = header.leaf(leaf);
            let codes = part(header.codes_range(header.leaf_groups(leaf)));
            header.check_leaf_codes(leaf, &codes).ok();
            header.leaf_copies(leaf, &codes).ok();
            let idplane = part(header.idplane_range(l.postings.clone()));
            header.check_leaf_idplane(leaf, &idplane).ok();
            header.leaf_hashes(leaf, &idplane).ok();
            header.leaf_payload_blocks(leaf, &part(header.payload_sizes_range(leaf))).ok();
            header.leaf_of(l.ordinals.start);
            header.leaf_of_posting(l.postings.end);
        }
        for hash in [0, 1 << 33, u64::MAX / 3, u64::MAX] {
            header.idmap_find(hash, &part(header.idmap_pages(hash))).ok();
        }
        for section in [Section::Codes, Section::IdMap, Section::Checks, Section::Footer, Section::Extension]
        {
            if let Some(range) = header.section(section) {
                let bytes = part(range);
                header.check_section(section, &bytes).ok();
                match section {
                    Section::IdMap => drop(header.idmap_entries(&bytes)),
                    Section::Checks => drop(header.checks(&bytes)),
                    _ => {}
                }
            }
        }
        let rows = header.facts().rows;
        for ordinal in [0, 1, rows / 2, rows.saturating_sub(1), rows, u32::MAX] {
            header.rows().vector_range(ordinal);
            header.payload_block_range(header.payload_block_of(ordinal));
        }
        for page in [0, header.rows().pages() / 2, header.rows().pages(), u32::MAX] {
            header.rows().page_range(page);
        }
        for group in 0..4 {
            header.rows().group_rows(group);
        }
        header.centroids();
        header.basis();
        header.attributes().columns();
    });
});
