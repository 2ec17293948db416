//! The planner's set-up: our functions and rule, and nothing that could touch a file.

use std::sync::{Arc, OnceLock};

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::common::config::{ConfigNonZeroUsize, Dialect};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, lit};
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use esker_format::Result;
use esker_format::schema::time_type;

use super::{distance, errors, growth, rule, simplify};
use crate::filter::guard;

/// The dialect that text is parsed in.
pub(crate) const DIALECT: Dialect = Dialect::Generic;

/// Where unqualified names are looked up.
const CATALOG: &str = "esker";
const SCHEMA: &str = "public";

/// Functions that make a long value of a short one, of any length that a number can say, in memory that no pool sees: a
/// line of text would end the process.
const UNBOUNDED: [&str; 7] =
    ["repeat", "lpad", "rpad", "range", "generate_series", "array_repeat", "array_resize"];

/// A session without tables: parses text and knows the functions. No file formats, no table factories.
pub(crate) fn base() -> &'static SessionState {
    static BASE: OnceLock<SessionState> = OnceLock::new();
    BASE.get_or_init(|| {
        let ours = distance::functions();
        let mut functions = SessionStateDefaults::default_scalar_functions();
        // Left in, one of theirs would come back under its own name through an alias, in some sessions.
        functions.retain(|f| ours.iter().all(|o| o.name() != f.name()) && !UNBOUNDED.contains(&f.name()));
        functions.extend(ours);
        functions.push(growth::text_concat());
        let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(Milliseconds)];
        planners.extend(SessionStateDefaults::default_expr_planners());
        SessionStateBuilder::new()
            .with_config(config())
            .with_expr_planners(planners)
            .with_scalar_functions(functions)
            .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
            .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .with_table_function_list(SessionStateDefaults::default_table_functions())
            .with_optimizer_rules(simplify::rules())
            .with_optimizer_rule(Arc::new(rule::SearchByIndex))
            .build()
    })
}

/// A session for one query: these tables, memory of this pool, no disk.
pub(super) fn with_tables(
    tables: Vec<(String, Arc<dyn TableProvider>)>,
    memory: Arc<dyn MemoryPool>,
) -> Result<SessionState> {
    let bad = |e| errors::from_datafusion("query", e);
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        schema.register_table(name, table).map_err(bad)?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(schema)).map_err(bad)?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(memory)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
        .map_err(bad)?;
    let mut state = SessionStateBuilder::new_from_existing(base().clone())
        .with_catalog_list(Arc::new(catalogs))
        .with_runtime_env(runtime)
        .build();
    // The one `now()` of the query.
    state.mark_start_execution();
    Ok(state)
}

fn config() -> SessionConfig {
    let mut config = SessionConfig::new()
        // One partition: a query's work is in the index; the rest is small.
        .with_target_partitions(1)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    // One that does not end never waits for anything, so that no deadline could end it.
    config.options_mut().execution.enable_recursive_ctes = false;
    let parser = &mut config.options_mut().sql_parser;
    parser.enable_ident_normalization = false;
    parser.dialect = DIALECT;
    if let Ok(depth) = ConfigNonZeroUsize::try_new(guard::PARSER_DEPTH) {
        parser.recursion_limit = depth;
    }
    config
}

/// A time compared with a whole number is compared with that many milliseconds since the epoch.
#[derive(Debug)]
struct Milliseconds;

impl ExprPlanner for Milliseconds {
    fn plan_binary_op(
        &self,
        mut expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> datafusion::error::Result<PlannerResult<RawBinaryExpr>> {
        let is_time =
            |e: &Expr| matches!(e, Expr::Column(_)) && e.get_type(schema).is_ok_and(|t| t == time_type());
        let time = |e: &Expr| match e {
            Expr::Literal(ScalarValue::Int64(Some(ms)), _) => {
                Some(lit(ScalarValue::TimestampMillisecond(Some(*ms), Some("UTC".into()))))
            }
            _ => None,
        };
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        if matches!(expr.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) {
            if let (true, Some(right)) = (is_time(&expr.left), time(&expr.right)) {
                expr.right = right;
            } else if let (Some(left), true) = (time(&expr.left), is_time(&expr.right)) {
                expr.left = left;
            }
        }
        Ok(PlannerResult::Original(expr))
    }
}
