//! SQL over collections, read-only: planned by DataFusion, nearest-neighbour queries by the index.
//!
//! A query runs in four steps: limits on its text ([`guard`](crate::filter)), parsing, tables from the [`Catalog`], planning
//! on a large stack; then its batches are collected. Only queries and `EXPLAIN` of queries are accepted, and the session
//! knows no files, URLs or tables but the catalog's.

mod distance;
pub(crate) mod errors;
mod exec;
pub(crate) mod growth;
mod param;
mod provider;
mod repeats;
mod rule;
pub(crate) mod session;
pub(crate) mod simplify;
mod vectors;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use esker_format::schema::{Schema, Settings};
use esker_format::{Error, Kind, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use self::exec::CollectionExec;
pub use self::param::Param;
use self::provider::{Access, Collection};
use crate::filter::{Resolved, guard, suggest};

/// Most joins of a query that pair every row with every row: each keeps one side in memory, of which a pool sees the
/// columns but not the rows.
const PRODUCTS: usize = 2;

/// Finds collections by name.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The collection of this name as a table, at the snapshot of the query; none if there is none.
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn Table>>>;
    /// Names of collections, for hints.
    async fn names(&self) -> Result<Vec<String>>;
}

/// A collection at one snapshot.
#[async_trait]
pub trait Table: Send + Sync {
    /// Dimension, metric and vector type.
    fn settings(&self) -> &Settings;
    /// Metadata columns.
    fn schema(&self) -> &Schema;
    /// WIRE §6: id, vector, metadata, `_timestamp`, `_created_at`, `_updated_at`, `_expires_at`, `_version`, `_seq`.
    fn arrow(&self) -> SchemaRef;
    /// All rows that pass `filter`, at most `limit` of them, with the columns of [`Table::arrow`] at `projection`, in that
    /// order. An empty projection yields batches without columns that have a row count.
    async fn scan(
        &self,
        projection: &[usize],
        filter: Option<&Resolved>,
        limit: Option<usize>,
    ) -> Result<SendableRecordBatchStream>;
    /// The `k` rows nearest to `query` by the collection's metric among those that pass `filter` (all of them if they are
    /// fewer): the columns at `projection`, then `distance`, Float32, ascending.
    async fn search(
        &self,
        query: &[f32],
        k: usize,
        filter: Option<&Resolved>,
        projection: &[usize],
    ) -> Result<RecordBatch>;
    /// Exact number of rows, if it is known without reading.
    fn row_count(&self) -> Option<usize>;
    /// What `EXPLAIN` should say of the table, such as its segments; may be empty.
    fn explain(&self) -> String;
}

/// Limits of a query.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes that sorts, joins and aggregates may hold, and bytes of the result. All queries of a service share them.
    pub memory: usize,
}

impl Default for Options {
    /// 1 GiB.
    fn default() -> Self {
        Options { memory: 1 << 30 }
    }
}

/// What a query did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows returned.
    pub rows: usize,
    /// Searches by index in the plan.
    pub searches: usize,
    /// Exact scans in the plan.
    pub scans: usize,
}

/// The answer of a query.
#[derive(Debug, Clone)]
pub struct QueryOutput {
    /// Columns, also when there are no rows.
    pub schema: SchemaRef,
    /// Rows.
    pub batches: Vec<RecordBatch>,
    /// What it took.
    pub stats: Stats,
}

/// A query under way.
pub struct Rows {
    /// Columns, also when there are no rows.
    pub schema: SchemaRef,
    /// Rows, as they are found.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// What the plan has; no row is counted yet.
    pub stats: Stats,
}

/// Runs one SQL query. `params` are `$1`, `$2`, …
///
/// Anything wrong with the text is `Invalid`: syntax, limits, unknown tables and columns, wrong types and
/// dimensions, statements other than queries. Errors of the catalog and of tables come through as they are.
pub async fn query(
    catalog: Arc<dyn Catalog>,
    text: &str,
    params: &[Param],
    options: Options,
) -> Result<QueryOutput> {
    let Rows { schema, batches: mut rows, stats } = stream(catalog, text, params, options).await?;
    let mut output = QueryOutput { schema, batches: Vec::new(), stats };
    let mut bytes = 0;
    while let Some(batch) = rows.try_next().await? {
        bytes += batch.get_array_memory_size();
        if bytes > options.memory {
            let message = format!("the result has more than {} bytes", options.memory);
            return Err(Error::invalid("query", message).with_hint("add a LIMIT, or select fewer columns"));
        }
        output.stats.rows += batch.num_rows();
        output.batches.push(batch);
    }
    Ok(output)
}

/// As [`query`], without collecting the rows: a result may be larger than the memory of the query.
pub async fn stream(
    catalog: Arc<dyn Catalog>,
    text: &str,
    params: &[Param],
    options: Options,
) -> Result<Rows> {
    stream_in(catalog, text, params, Arc::new(GreedyMemoryPool::new(options.memory))).await
}

/// As [`stream`], with memory that several queries share.
pub(crate) async fn stream_in(
    catalog: Arc<dyn Catalog>,
    text: &str,
    params: &[Param],
    memory: Arc<dyn MemoryPool>,
) -> Result<Rows> {
    guard::check("query", text)?;
    let statement = guard::on_big_stack(|| parse(text))?;
    let tables = tables(catalog.as_ref(), &statement).await?;
    let state = session::with_tables(tables, memory)?;
    let (plan, context) = guard::on_big_stack(|| plan(state, statement, params))?;
    let (stats, schema) = (count(plan.as_ref()), plan.schema());
    let batches = execute_stream(plan, context).map_err(invalid)?.map_err(invalid).boxed();
    Ok(Rows { schema, batches, stats })
}

fn invalid(e: datafusion::error::DataFusionError) -> Error {
    errors::from_datafusion("query", e)
}

/// One statement, and only one that reads.
fn parse(text: &str) -> Result<Statement> {
    let mut statements = DFParserBuilder::new(text)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(guard::PARSER_DEPTH)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(invalid)?;
    let statement = match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => statement,
        (None, _) => return Err(Error::invalid("query", "the query is empty")),
        (Some(_), more) => {
            return Err(Error::invalid("query", format!("the text has {} statements, send one", more + 1)));
        }
    };
    if reads(&statement) {
        return Ok(statement);
    }
    let verb = text.split_whitespace().next().unwrap_or_default().to_uppercase();
    Err(read_only(format!("{verb} is not a query")))
}

fn read_only(why: String) -> Error {
    Error::invalid("query", format!("SQL is read-only: {why}"))
        .with_hint("SELECT, WITH, VALUES and EXPLAIN are accepted; records are written by upsert and import")
}

fn reads(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(s) => match s.as_ref() {
            ast::Statement::Query(_) => true,
            ast::Statement::Explain { statement, .. } => {
                matches!(statement.as_ref(), ast::Statement::Query(_))
            }
            _ => false,
        },
        Statement::Explain(e) => reads(&e.statement),
        _ => false,
    }
}

/// The tables that the statement names.
async fn tables(
    catalog: &dyn Catalog,
    statement: &Statement,
) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    let named = session::base().resolve_table_references(statement).map_err(invalid)?;
    let (mut found, mut seen) = (Vec::<(String, Arc<dyn TableProvider>)>::new(), HashSet::new());
    for reference in named {
        let TableReference::Bare { table: name } = &reference else {
            return Err(Error::invalid("query", format!("unknown table {reference}")).with_hint(
                "a table is the name of a collection, without a schema before it; quote names with dots",
            ));
        };
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(table) = catalog.table(name).await? else {
            return Err(unknown_table(catalog, name).await);
        };
        let collection = Collection::new(name, table, Access::Scan { note: None });
        found.push((name.to_string(), Arc::new(collection)));
    }
    Ok(found)
}

async fn unknown_table(catalog: &dyn Catalog, name: &str) -> Error {
    let error = Error::new(Kind::NotFound, format!("no collection is named {}", suggest::ident(name)));
    let names = catalog.names().await.unwrap_or_default();
    match suggest::hint("collections", name, names.iter().map(String::as_str)) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// From a statement to what runs. Nothing here waits: tables are at hand, so the futures are ready at once.
fn plan(
    mut state: SessionState,
    statement: Statement,
    params: &[Param],
) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)> {
    let logical = futures::executor::block_on(state.statement_to_plan(statement)).map_err(invalid)?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&logical).map_err(invalid)?;
    let logical = with_params(logical, params)?;
    let logical = vectors::fold(logical)?;
    let logical = growth::bounded(logical).and_then(repeats::told_apart).map_err(invalid)?;
    let logical = state.optimize(&logical).map_err(invalid)?;
    let rows = growth::rows_at_once(&logical, state.config().batch_size()).map_err(invalid)?;
    state.config_mut().options_mut().execution.batch_size =
        ConfigNonZeroUsize::try_new(rows).map_err(invalid)?;
    let planner = state.query_planner().clone();
    let plan =
        futures::executor::block_on(planner.create_physical_plan(&logical, &state)).map_err(invalid)?;
    Ok((interruptible(plan)?, state.task_ctx()))
}

/// Has joins take part in the scheduler's turns. By themselves only leaves do, and a join makes any number of batches of
/// one that a leaf gave: whoever collects them would never wait, and no deadline could end the query.
fn interruptible(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let mut products = 0;
    let plan = plan.transform_up(|node| {
        let product = node.is::<CrossJoinExec>() || node.is::<NestedLoopJoinExec>();
        products += usize::from(product);
        Ok(match product || node.is::<HashJoinExec>() || node.is::<SortMergeJoinExec>() {
            true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>),
            false => Transformed::no(node),
        })
    });
    if products > PRODUCTS {
        let message = format!("the query has {products} joins without an equality, the limit is {PRODUCTS}");
        return Err(Error::invalid("query", message).with_hint("join ON columns that are equal"));
    }
    plan.map(|plan| plan.data).map_err(invalid)
}

fn with_params(plan: LogicalPlan, params: &[Param]) -> Result<LogicalPlan> {
    let wanted = plan.get_parameter_names().map_err(invalid)?;
    for name in &wanted {
        let number = name.trim_start_matches('$').parse::<usize>().ok().filter(|n| *n > 0);
        match number {
            Some(n) if n <= params.len() => {}
            Some(_) => {
                let message = format!("the query uses {name}, and {} parameters were given", params.len());
                return Err(Error::invalid("params", message));
            }
            None => {
                return Err(Error::invalid("params", format!("parameter {name} has no number"))
                    .with_hint("parameters are $1, $2, …"));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(plan);
    }
    let values: Vec<_> = params.iter().map(Param::scalar).collect();
    plan.with_param_values(values).map_err(invalid)
}

fn count(plan: &dyn ExecutionPlan) -> Stats {
    let mut stats = Stats::default();
    if let Some(leaf) = plan.downcast_ref::<CollectionExec>() {
        if leaf.searches() {
            stats.searches += 1;
        } else {
            stats.scans += 1;
        }
    }
    for child in plan.children() {
        let below = count(child.as_ref());
        stats.searches += below.searches;
        stats.scans += below.scans;
    }
    stats
}

#[cfg(test)]
mod tests;
