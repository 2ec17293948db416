//! The limits of DESIGN §4, each stated once.

/// Most slots after the one it was uploaded for that may name a body.
pub const BODY_REACH: u64 = 256;
/// Slots after its tail that may take a batch from the inbox.
pub const INBOX_REACH: u64 = 256;
/// Bytes of the batches that are offered together in the inbox; more are put by their own writer.
pub const INBOX_BYTES: usize = INLINE_BYTES / 4;
/// Bytes of a collection name.
pub const NAME_BYTES: usize = 64;
/// Bytes of a record id.
pub const ID_BYTES: usize = 256;
/// Greatest number of dimensions of a vector.
pub const DIMENSION: u32 = 8192;
/// Greatest elements of vectors whose squares, 8192 of them, neither overflow nor vanish as a sum in 32 bits. Of other metrics
/// than cosine only the upper end counts.
pub const MAGNITUDES: std::ops::RangeInclusive<f32> = 1e-18..=1e17;
/// Rows of one batch.
pub const BATCH_ROWS: usize = 10_000;
/// Bytes of one batch, encoded.
pub const BATCH_BYTES: usize = 16 << 20;
/// Bytes of a body that is uploaded and then committed.
pub const UPLOAD_BYTES: u64 = 256 << 20;
/// How long such a body is kept after it was put; twice as long it is known how far its commit went.
pub const UPLOAD_RETENTION_MS: i64 = TOKEN_RETENTION_MS;
/// Metadata columns of a collection.
pub const COLUMNS: usize = 1_024;
/// Bytes of a metadata key.
pub const KEY_BYTES: usize = 256;
/// Hits of one search.
pub const K: usize = 10_000;
/// Terms of a filter.
pub const FILTER_TERMS: usize = 256;
/// Bytes of a filter as text.
pub const FILTER_BYTES: usize = 64 << 10;
/// Entries are inline up to this many bytes; a larger one is a body and a small entry.
pub const INLINE_BYTES: usize = 1 << 20;
/// Entries of a tail above which appends are refused until a compaction.
pub const TAIL_ENTRIES: u64 = 900;
/// Bytes of a tail above which appends are refused until a compaction.
pub const TAIL_BYTES: u64 = 2 << 30;
/// A fold is due at this many entries of tail.
pub const FOLD_ENTRIES: u64 = 16;
/// A fold is due at this many bytes of tail.
pub const FOLD_BYTES: u64 = 1 << 20;
/// Whole numbers above this magnitude are not exact as a float.
pub const EXACT_INT: i64 = 1 << 53;
/// Tokens that callers gave stay known to the manifest this long.
pub const TOKEN_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;
/// Most of these in a manifest: the newest.
pub const TOKENS: usize = 4_096;
/// A drawn token is refused whose time of drawing is further ahead than this: clocks are not that wrong.
pub const TOKEN_AHEAD_MS: i64 = 2 * TOKEN_RETENTION_MS;
/// Drawn tokens stay known this long: a caller learns one by an outcome that is unknown, and tries again with it.
pub const DRAWN_RETENTION_MS: i64 = 10 * 60 * 1000;
/// Most of these in a manifest: the newest.
pub const DRAWN_TOKENS: usize = 1_024;
/// An expired row is dropped by a compaction this long after its instant.
pub const EXPIRY_GRACE_MS: i64 = 5 * 60 * 1000;
