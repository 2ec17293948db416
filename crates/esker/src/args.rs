//! The command line (WIRE §5), declared once.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use esker_format::schema::{Metric, VectorType};

use crate::serve::keys::Scope;
use crate::serve::settings::Settings as Serve;

/// Vector search on object storage.
///
/// Everything is kept in a store: a directory, an S3 bucket, or memory. No server is needed.
#[derive(Debug, Parser)]
#[command(name = "esker", version, after_help = "Start here:\n  esker demo")]
pub struct Args {
    /// Where the data is: a path, file://…, memory: or s3://bucket/prefix (standard AWS_* variables) [default: ./esker-data]
    #[arg(
        long,
        global = true,
        env = "ESKER_STORE",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub store: Option<String>,
    /// How results are printed on stdout: text (for people) or json (for programs)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub format: Format,
    /// Memory for an import, a compaction, an export or a query: 256MiB, 4GiB [default: 1GiB]
    #[arg(
        long,
        global = true,
        env = "ESKER_MEMORY",
        hide_env_values = true,
        value_name = "SIZE",
        value_parser = crate::serve::settings::size,
        help_heading = "Global options"
    )]
    pub memory: Option<u64>,
    /// Directory for what does not fit that memory, on a disk with room for three times the rows [default: the system's for
    /// temporary files]
    #[arg(
        long,
        global = true,
        env = "ESKER_SCRATCH",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub scratch: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

fn metrics() -> impl TypedValueParser<Value = Metric> {
    PossibleValuesParser::new(["cosine", "l2", "dot"]).try_map(|text| text.parse())
}

fn vector_types() -> impl TypedValueParser<Value = VectorType> {
    PossibleValuesParser::new(["f32", "f16"]).try_map(|text| text.parse())
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A complete tour: create, import, compact, search, filter, SQL
    #[command(
        after_help = "Example:\n  esker demo\n\nUnless a store is named it uses a fresh temporary directory and removes it."
    )]
    Demo(Demo),
    /// Create, list, describe or drop collections
    #[command(subcommand)]
    Collection(Collection),
    /// Import a Parquet, Arrow IPC, NDJSON or Avro file
    #[command(after_help = "Example:\n  esker import notes.parquet --into notes\n\n\
        Creates the collection if need be and prints what it inferred and why. Run the same command again\n\
        after an interruption: batches that are there already are not written twice.\n\n\
        Into a server or a gateway:\n  ESKER_API_KEY=… esker import notes.parquet --endpoint https://example.org")]
    Import(Import),
    /// Write a collection to a Parquet, Arrow IPC (.arrow) or NDJSON file
    #[command(after_help = "Example:\n  esker export notes notes.parquet --filter \"topic = 'music'\"")]
    Export(Export),
    /// Find the nearest rows
    #[command(after_help = "Examples:\n  esker search notes --like note-0001 -k 5\n  \
        esker search notes --vector '[0.1, 0.2, 0.3]' --filter \"year >= 1990 AND topic IN ('music', 'sports')\"")]
    Search(Search),
    /// Print rows by id
    #[command(after_help = "Example:\n  esker get notes note-0001")]
    Get(Get),
    /// Delete rows by id
    #[command(after_help = "Example:\n  esker delete notes note-0001 note-0002\n  \
        generate-ids | esker delete notes -")]
    Delete(Delete),
    /// Run a read-only SQL query
    #[command(after_help = "Examples:\n  esker sql \"SELECT topic, count(*) FROM notes GROUP BY topic\"\n  \
        esker sql \"SELECT id FROM notes ORDER BY cosine_distance(vector, $1) LIMIT 5\" -p '[0.1, 0.2, 0.3]'")]
    Sql(Sql),
    /// Measure recall, speed and requests with a file of queries
    #[command(after_help = "Example:\n  esker eval notes queries.parquet -k 10 --filter \"topic = 'music'\"")]
    Eval(Eval),
    /// Compute what queries, writes and a month of idling cost with functions on S3
    #[command(
        after_help = "Examples:\n  esker cost\n  esker cost notes --queries 1000000 --upserts 1000000 --prices prices.json\n\n\
        Requests are counted by doing the operations: queries on the collection, which is only read, writes in memory.\n\
        How long functions run is assumed; the assumptions are in the file of prices."
    )]
    Cost(Cost),
    /// Fold the log into clustered, indexed segments
    #[command(after_help = "Example:\n  esker compact notes")]
    Compact(Compact),
    /// Print what is garbage and why; with --run, remove it
    #[command(after_help = "Examples:\n  esker gc notes\n  esker gc notes --run --retain 10m\n\n\
        Versions stay readable by as_of for the retention; pinned ones until their lease ends. Parts of incomplete\n\
        uploads in a bucket are not listed here: give it a lifecycle rule that removes them.")]
    Gc(Gc),
    /// Look at the register of a collection
    #[command(subcommand)]
    Manifest(Manifest),
    /// Look at the log of a collection
    #[command(subcommand)]
    Wal(Wal),
    /// Look at the segments of a collection
    #[command(subcommand)]
    Segment(Segment),
    /// Derive again from the stored bytes what is true of a collection, and name whatever is not
    #[command(after_help = "Examples:\n  esker verify notes\n  esker verify --deep --format json\n\n\
        Exit code 3 says that something is corrupt. Without a collection: all of them, and what lies around them.")]
    Verify(Verify),
    /// Check that the store keeps the promises Esker rests on, and record the verdict
    #[command(after_help = "Example:\n  esker doctor --store s3://bucket/prefix\n\n\
        Races creates, lists, ranges and conditional reads under doctor/. Collections are not created in\n\
        a store that failed.")]
    Doctor,
    /// Serve HTTP and gRPC, and compact in the background
    #[command(
        after_help = "Example:\n  esker serve --store s3://bucket/prefix --keys keys.json --http 0.0.0.0:5678"
    )]
    Serve(Box<Serve>),
    /// Make, list or revoke the keys of a server
    #[command(subcommand)]
    Key(Key),
}

#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Keep the temporary store and print where it is
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Subcommand)]
pub enum Collection {
    /// Create an empty collection
    #[command(after_help = "Example:\n  esker collection create notes --dimension 384 --metric cosine")]
    Create {
        /// 1 to 64 of a-z, 0-9, _ and -
        name: String,
        /// Elements of every vector, 1 to 8192
        #[arg(long)]
        dimension: u32,
        /// cosine, l2 or dot
        #[arg(long, default_value = "cosine", value_parser = metrics(), hide_possible_values = true)]
        metric: Metric,
        /// f32 (lossless) or f16 (half the size)
        #[arg(long, default_value = "f32", value_parser = vector_types(), hide_possible_values = true)]
        vector_type: VectorType,
        /// Declare a metadata column: name=boolean|int|float|string|strings. Columns appear by themselves otherwise
        #[arg(long = "column", value_name = "NAME=TYPE")]
        columns: Vec<String>,
    },
    /// List collections
    #[command(after_help = "Example:\n  esker collection list")]
    List,
    /// Settings, columns, rows and files of a collection
    #[command(after_help = "Example:\n  esker collection describe notes")]
    Describe {
        /// The collection
        name: String,
    },
    /// Drop a collection
    #[command(after_help = "Example:\n  esker collection drop notes")]
    Drop {
        /// The collection
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// The file
    pub file: PathBuf,
    /// The collection [default: the file's name]
    #[arg(long, value_name = "COLLECTION")]
    pub into: Option<String>,
    /// Column with the ids [default: inferred]
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// Column with the vectors [default: inferred]
    #[arg(long, value_name = "COLUMN")]
    pub vector_column: Option<String>,
    /// Leave this column out
    #[arg(long = "skip-column", value_name = "COLUMN")]
    pub skip_columns: Vec<String>,
    /// Metric of a collection that is created: cosine, l2 or dot [default: inferred]
    #[arg(long, value_parser = metrics(), hide_possible_values = true)]
    pub metric: Option<Metric>,
    /// Vector type of a collection that is created: f32 or f16 [default: inferred]
    #[arg(long, value_parser = vector_types(), hide_possible_values = true, value_name = "TYPE")]
    pub vector_type: Option<VectorType>,
    /// Compact when the import is done
    #[arg(long, conflicts_with = "endpoint")]
    pub compact: bool,
    /// Import into the server or gateway at this address, not into a store
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// A file with the key, or the token, that it asks for [default: the variable ESKER_API_KEY]
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Export {
    /// The collection
    pub collection: String,
    /// The file; its extension says the format: .parquet, .arrow, .ndjson or .jsonl
    pub file: PathBuf,
    /// Only rows for which this SQL predicate holds
    #[arg(long, value_name = "PREDICATE")]
    pub filter: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Search {
    /// The collection
    pub collection: String,
    #[command(flatten)]
    pub query: QueryVector,
    /// Number of hits
    #[arg(short, default_value_t = 10)]
    pub k: usize,
    /// SQL predicate over the columns, or the JSON form ({"topic": {"$eq": "music"}})
    #[arg(long, value_name = "PREDICATE")]
    pub filter: Option<String>,
    /// Recall that probing aims at
    #[arg(long, value_name = "R")]
    pub min_recall: Option<f32>,
    /// Metadata columns to print, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub include: Option<Vec<String>>,
    /// Only hits at most this far
    #[arg(long, value_name = "DISTANCE")]
    pub max_distance: Option<f32>,
    /// Say how the search went
    #[arg(long)]
    pub explain: bool,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct QueryVector {
    /// Rows like the one with this id
    #[arg(long, value_name = "ID")]
    pub like: Option<String>,
    /// The query vector, a JSON list of numbers
    #[arg(long, value_name = "LIST")]
    pub vector: Option<String>,
    /// A file that holds the query vector as a JSON list
    #[arg(long, value_name = "FILE")]
    pub vector_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Get {
    /// The collection
    pub collection: String,
    /// The ids
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Print the vector too
    #[arg(long)]
    pub vector: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Delete {
    /// The collection
    pub collection: String,
    /// The ids; `-` reads them from stdin, one a line
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    pub ids: Vec<String>,
    /// Every row for which this SQL predicate, or JSON filter, holds
    #[arg(long, value_name = "PREDICATE")]
    pub filter: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Sql {
    /// The query. Collections are tables
    pub query: String,
    /// Value of $1, $2, … as JSON; a list of numbers is a vector
    #[arg(short, long = "param", value_name = "JSON")]
    pub params: Vec<String>,
    /// Print the rows, and nothing else, as ndjson or csv
    #[arg(long = "as", value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub rows: Option<RowFormat>,
}

/// How the rows of a query are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated values.
    Csv,
}

#[derive(Debug, ClapArgs)]
pub struct Eval {
    /// The collection
    pub collection: String,
    /// A Parquet file with a column `vector`
    pub queries: PathBuf,
    /// Number of hits
    #[arg(short, default_value_t = 10)]
    pub k: usize,
    /// Search under this filter
    #[arg(long, value_name = "PREDICATE")]
    pub filter: Option<String>,
    /// Recall that probing aims at
    #[arg(long, value_name = "R")]
    pub min_recall: Option<f32>,
    /// Threads that search at once
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Use only the first queries of the file
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Start each query with nothing cached
    #[arg(long)]
    pub cold: bool,
    /// Put the ids that each query found into the JSON
    #[arg(long)]
    pub ids: bool,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key and print it, once
    #[command(
        after_help = "Example:\n  esker key create reports --scope read --collection notes --keys keys.json"
    )]
    Create {
        /// What the key is called in the list and in the log
        name: String,
        /// read, write (also changes rows) or admin (also creates and drops collections)
        #[arg(long, value_enum)]
        scope: Scope,
        /// The only collection that it reaches; may be given more than once [default: all]
        #[arg(long = "collection", value_name = "NAME")]
        collections: Vec<String>,
        /// The file of keys; made if it is not there
        #[arg(long, env = "ESKER_KEYS", hide_env_values = true, value_name = "FILE")]
        keys: PathBuf,
    },
    /// List the keys of a file
    #[command(after_help = "Example:\n  esker key list --keys keys.json")]
    List {
        /// The file of keys
        #[arg(long, env = "ESKER_KEYS", hide_env_values = true, value_name = "FILE")]
        keys: PathBuf,
    },
    /// Remove a key from a file; running servers notice within seconds
    #[command(after_help = "Example:\n  esker key revoke reports --keys keys.json")]
    Revoke {
        /// Its name
        name: String,
        /// The file of keys
        #[arg(long, env = "ESKER_KEYS", hide_env_values = true, value_name = "FILE")]
        keys: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Cost {
    /// The collection [default: one of 10,000 made rows, in memory]
    pub collection: Option<String>,
    /// Queries, of one vector each
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub queries: u64,
    /// Rows that are written
    #[arg(long, visible_alias = "rows", value_name = "N", default_value_t = 1_000_000)]
    pub upserts: u64,
    /// Rows of one write
    #[arg(long, value_name = "ROWS", default_value_t = crate::cost::ROWS_PER_CALL,
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// A file of prices, in the form that --format json shows under `prices` [default: AWS, us-east-1]
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Compact {
    /// The collection
    pub collection: String,
}

#[derive(Debug, ClapArgs)]
pub struct Gc {
    /// The collection
    pub collection: String,
    /// Delete, after a minute's grace
    #[arg(long)]
    pub run: bool,
    /// Keep versions that were the newest less long ago than this
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::serve::settings::duration)]
    pub retain: std::time::Duration,
}

#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// The collection [default: all, and what lies around them]
    pub collection: Option<String>,
    /// Derive every code and payload row again, not one in 16, and read the whole register
    #[arg(long)]
    pub deep: bool,
}

#[derive(Debug, Subcommand)]
pub enum Manifest {
    /// Print a manifest
    #[command(after_help = "Example:\n  esker manifest show notes --format json")]
    Show {
        /// The collection
        collection: String,
        /// The version [default: the newest]
        #[arg(long)]
        version: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Wal {
    /// Print the tail of the log, or one entry
    #[command(after_help = "Example:\n  esker wal show notes 3")]
    Show {
        /// The collection
        collection: String,
        /// The entry [default: all above the watermark]
        seq: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Segment {
    /// Print what the index of each segment holds
    #[command(after_help = "Example:\n  esker segment show notes")]
    Show {
        /// The collection
        collection: String,
        /// Only this one, counted from 0, oldest first
        number: Option<usize>,
    },
}
