//! What a file is, by its first bytes; its name only for messages.

use std::fmt;
use std::path::Path;

use esker_format::{Error, Name, Result, limits};

/// A file format that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC with a footer, also known as Feather 2.
    ArrowFile,
    /// Arrow IPC as a stream.
    ArrowStream,
    /// One JSON object a line.
    Ndjson,
    /// Avro object container file.
    Avro,
}

/// First bytes that [`Format::detect`] wants to see, if the file has them.
pub const HEAD_BYTES: usize = 256;

impl Format {
    /// The format of a file that begins with `head`.
    ///
    /// # Errors
    /// Invalid, with a hint for formats that are nearly right.
    pub fn detect(path: &Path, head: &[u8]) -> Result<Format> {
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
        let refuse = |what: &str, hint: &str| {
            Err(Error::invalid("file", format!("{} is {what}", path.display())).with_hint(hint.to_owned()))
        };
        match head {
            [] => refuse("empty", "import Parquet, Arrow IPC, NDJSON or Avro"),
            _ if head.starts_with(b"PAR1") => Ok(Format::Parquet),
            _ if head.starts_with(b"ARROW1") => Ok(Format::ArrowFile),
            _ if head.starts_with(b"Obj\x01") => Ok(Format::Avro),
            _ if head.starts_with(&[0xff; 4]) => Ok(Format::ArrowStream),
            _ if head.starts_with(&[0x1f, 0x8b]) => refuse("compressed with gzip", "decompress it first"),
            _ if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => {
                refuse("compressed with zstd", "decompress it first")
            }
            _ if text.starts_with(b"{") => Ok(Format::Ndjson),
            _ if text.starts_with(b"[") => {
                refuse("a JSON array", "write one object a line: jq -c '.[]' FILE")
            }
            _ => refuse("in no format that can be imported", "import Parquet, Arrow IPC, NDJSON or Avro"),
        }
    }

    /// The name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Parquet => "Parquet",
            Format::ArrowFile => "Arrow IPC file",
            Format::ArrowStream => "Arrow IPC stream",
            Format::Ndjson => "NDJSON",
            Format::Avro => "Avro",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The collection name that a file's name suggests: lowercase, other characters as `_`.
///
/// # Errors
/// Invalid when nothing of the name can be used.
pub fn collection_name(path: &Path) -> Result<Name> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = stem.chars().map(keep).take(limits::NAME_BYTES).collect();
    Name::new(name.trim_matches(['_', '-'])).map_err(|_| {
        Error::invalid("collection", format!("the name of {} suggests no collection name", path.display()))
            .with_hint("name one with --into")
    })
}
