//! Files to import: what they are, and what would become of them. Formats of other libraries are left to those.
#![no_main]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use esker_ingest::import::{Format, Overrides, inspect};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("esker-fuzz-{}.data", std::process::id())));

fuzz_target!(|data: &[u8]| {
    let format = Format::detect(&FILE, &data[..data.len().min(256)]);
    if !matches!(format, Ok(Format::Ndjson | Format::Avro)) {
        return;
    }
    std::fs::File::create(&*FILE)
        .and_then(|mut file| file.write_all(data))
        .expect("there is room for a file");
    esker_fuzz::bounded(data.len(), || inspect(&FILE, &Overrides::default()).ok());
});
