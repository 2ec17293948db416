//! The committed code and descriptor set are what the .proto files give. `ESKER_REGENERATE=1` rewrites them.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the generator writes committed files when a person asks for it"
)]
fn generated_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["record", "error", "ingest", "query", "admin"];
    let protos: Vec<PathBuf> = files.map(|f| root.join(format!("proto/esker/v1/{f}.proto"))).into();
    let mut compiler = protox::Compiler::new([root.join("proto")]).unwrap();
    compiler.include_imports(true).include_source_info(true).open_files(&protos).unwrap();
    let descriptors = compiler.file_descriptor_set();
    // Comments go into the code and not into the descriptor set.
    let code = generate(descriptors.clone());
    let mut bare = descriptors;
    bare.file.iter_mut().for_each(|f| f.source_code_info = None);
    for (name, bytes) in [("esker.v1.rs", code.into_bytes()), ("descriptors.bin", bare.encode_to_vec())] {
        let path = root.join("src").join(name);
        if std::env::var("ESKER_REGENERATE").is_ok() {
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "src/{name} is not what the .proto files give");
    }
}

fn generate(descriptors: prost_types::FileDescriptorSet) -> String {
    let out = tempfile::tempdir().unwrap();
    // Bytes are slices of the message that was received: records go to the log without a copy.
    let builder = tonic_prost_build::configure().btree_map(".").bytes(".").out_dir(out.path());
    builder.compile_fds(descriptors).unwrap();
    fs::read_to_string(out.path().join("esker.v1.rs")).unwrap()
}
