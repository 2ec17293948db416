//! What readers are asked, and what they must answer.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float32Type, Int64Type};
use esker_format::Kind;
use esker_format::record::Value;
use esker_format::schema::Metric;
use esker_query::sql::{self, Param};
use esker_query::{Filter, Hit, Reader, Search};
use esker_store::Meter;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::model::{Model, Row, distance, vector};
use super::play::{Play, Who};
use super::predicate::Predicate;

/// How far a distance may be off, as a share of the terms it is made of.
const DISTANCE_ERROR: f64 = 1e-5;

/// Hits in order, with what is common to every way of searching.
struct Found<'a> {
    who: Who,
    query: &'a [f32],
    k: usize,
    predicate: Option<&'a Predicate>,
    hits: Vec<(String, f32)>,
}

impl Play {
    /// One reader looks; `rng` decides at what.
    pub async fn look(&mut self, who: Who, rng: &mut StdRng) {
        let engine = self.engine(who);
        let reader = engine.collection(&self.name);
        match rng.random_range(0..12) {
            0..3 => self.look_near(who, &reader, None, rng).await,
            3..7 => {
                let predicate = Predicate::random(rng, self.ids, 2);
                self.look_near(who, &reader, Some(predicate), rng).await;
            }
            7 => self.look_back(who, &reader, rng).await,
            8 => self.look_up(&reader, rng).await,
            9 => self.look_at_number(&reader, rng).await,
            10 => self.look_by_sql(who, &engine, rng).await,
            _ => self.look_at_all(&reader, &engine).await,
        }
    }

    fn query(&self, rng: &mut StdRng) -> Vec<f32> {
        let row = self.model.rows.values().choose(rng).filter(|_| rng.random_bool(0.4));
        row.map_or_else(|| vector(rng, &self.settings), |row| row.0.vector.clone())
    }

    /// The filter in one of its two forms; `None` if it names columns that are not there, which must be refused.
    async fn filter(&self, reader: &Reader, predicate: &Predicate, rng: &mut StdRng) -> Option<Filter> {
        let filter = match rng.random() {
            true => Filter::sql(&predicate.sql()).unwrap(),
            false => Filter::json(&predicate.json()).unwrap(),
        };
        let known = |c: &&str| *c == "id" || *c == "_version" || self.model.columns.contains(*c);
        if predicate.columns().iter().all(known) {
            return Some(filter);
        }
        let refused = reader.count(&Meter::new(), Some(&filter)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{predicate:?}: {refused}");
        None
    }

    async fn look_near(&mut self, who: Who, reader: &Reader, predicate: Option<Predicate>, rng: &mut StdRng) {
        let filter = match &predicate {
            None => None,
            Some(p) => match self.filter(reader, p, rng).await {
                None => return,
                filter => filter,
            },
        };
        let k = *[1, 3, 10, 10, 40, 1000].choose(rng).unwrap();
        let mut queries: Vec<Vec<f32>> = (0..rng.random_range(1..3)).map(|_| self.query(rng)).collect();
        let mut search = Search { k, filter, include_vector: rng.random(), ..Search::default() };
        match self.model.rows.values().choose(rng).filter(|_| rng.random_bool(0.2)) {
            Some(row) if row.expired(self.now_ms()) => {
                search.like = Some(row.0.id.clone());
                let refused = reader.search(&Meter::new(), &search).await.unwrap_err();
                assert_eq!(refused.kind(), Kind::NotFound, "like the expired {}: {refused}", row.0.id);
                return;
            }
            Some(row) => {
                search.like = Some(row.0.id.clone());
                queries = vec![row.0.vector.clone()];
            }
            None => search.vectors = queries.clone(),
        }
        let reply = reader.search(&Meter::new(), &search).await.unwrap();
        assert!(reply.position >= self.position, "{who:?} is behind");
        assert_eq!(reply.results.len(), queries.len());
        for (query, hits) in queries.iter().zip(&reply.results) {
            self.check_fields(&self.model, hits, search.include_vector);
            let hits = hits.iter().map(|h| (h.id.clone(), h.distance)).collect();
            let found = Found { who, query, k, predicate: predicate.as_ref(), hits };
            self.check(&self.model.clone(), found);
        }
    }

    /// As of a version: the same as then, whatever was written since.
    async fn look_back(&mut self, who: Who, reader: &Reader, rng: &mut StdRng) {
        let Some((version, then)) = self.versions.iter().choose(rng) else { return };
        let (version, then, k, query) = (*version, then.clone(), rng.random_range(1..20), self.query(rng));
        let search = Search { as_of: Some(version), ..Search::new(query.clone(), k) };
        let reply = reader.search(&Meter::new(), &search).await.unwrap();
        assert_eq!(reply.version, version);
        let hits = &reply.results[0];
        self.check_fields(&then, hits, false);
        let hits = hits.iter().map(|h| (h.id.clone(), h.distance)).collect();
        self.check(&then, Found { who, query: &query, k, predicate: None, hits });
    }

    async fn look_up(&mut self, reader: &Reader, rng: &mut StdRng) {
        let some = |rng: &mut StdRng| format!("r{}", rng.random_range(0..self.ids + 2));
        let ids: Vec<String> = (0..rng.random_range(1..12)).map(|_| some(rng)).collect();
        let (records, position) = reader.get(&Meter::new(), &ids, true).await.unwrap();
        assert!(position >= self.position);
        for (id, record) in ids.iter().zip(records) {
            let row = self.model.rows.get(id).filter(|r| !r.expired(self.now_ms()));
            assert_eq!(record.is_some(), row.is_some(), "{id}: {record:?} and {row:?}");
            let (Some(record), Some(row)) = (record, row) else { continue };
            assert_eq!(record.vector, row.0.vector, "{id}");
            assert_eq!(record.metadata, self.model.metadata(row), "{id}");
            assert_eq!((record.version, record.expires_at), (row.0.version, row.0.expires_at), "{id}");
        }
        self.tally.reads += 1;
    }

    async fn look_at_number(&mut self, reader: &Reader, rng: &mut StdRng) {
        let predicate = Predicate::random(rng, self.ids, 3);
        let Some(filter) = self.filter(reader, &predicate, rng).await else { return };
        let (rows, position) = reader.count(&Meter::new(), Some(&filter)).await.unwrap();
        assert!(position >= self.position);
        let expected = self.model.live(self.now_ms()).filter(|r| predicate.eval(r) == Some(true)).count();
        assert_eq!(rows, expected as u64, "{predicate:?}");
        let all = reader.count(&Meter::new(), None).await.unwrap().0;
        assert_eq!(all, self.model.live(self.now_ms()).count() as u64);
        self.tally.reads += 1;
    }

    async fn look_by_sql(&mut self, who: Who, engine: &esker_query::Engine, rng: &mut StdRng) {
        let predicate = Predicate::random(rng, self.ids, 2);
        if self.filter(&engine.collection(&self.name), &predicate, rng).await.is_none() {
            return;
        }
        let catalog = engine.catalog(&Meter::new());
        let text = format!("SELECT count(*) FROM rows WHERE {}", predicate.sql());
        let counted = one(sql::query(catalog.clone(), &text, &[], sql::Options::default()).await.unwrap());
        let expected = self.model.live(self.now_ms()).filter(|r| predicate.eval(r) == Some(true)).count();
        assert_eq!(counted.column(0).as_primitive::<Int64Type>().value(0), expected as i64, "{text}");
        let (query, k) = (self.query(rng), rng.random_range(1..20));
        let distance = match self.settings.metric {
            Metric::Cosine => "cosine_distance(vector, $1)",
            Metric::L2 => "l2_distance(vector, $1)",
            Metric::Dot => "-inner_product(vector, $1)",
        };
        let order = match self.settings.metric {
            Metric::Dot => "inner_product(vector, $1) DESC".to_owned(),
            _ => distance.to_owned(),
        };
        let condition = predicate.sql();
        let text =
            format!("SELECT id, {distance} AS d FROM rows WHERE {condition} ORDER BY {order} LIMIT {k}");
        let params = [Param::Vector(query.clone())];
        let out = sql::query(catalog, &text, &params, sql::Options::default()).await.unwrap();
        assert_eq!(out.stats.searches, 1, "the index answers {text}");
        let batch = one(out);
        let (ids, distances) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Float32Type>());
        let hits = (0..batch.num_rows()).map(|i| (ids.value(i).to_owned(), distances.value(i))).collect();
        self.check(&self.model.clone(), Found { who, query: &query, k, predicate: Some(&predicate), hits });
        self.tally.reads += 1;
    }

    /// Every row with its vector and its numbers, by a scan through SQL.
    async fn look_at_all(&mut self, reader: &Reader, engine: &esker_query::Engine) {
        let text = "SELECT id, _version, number FROM rows ORDER BY id";
        let text = if self.model.columns.contains("number") {
            text
        } else {
            "SELECT id, _version FROM rows ORDER BY id"
        };
        let out =
            sql::query(engine.catalog(&Meter::new()), text, &[], sql::Options::default()).await.unwrap();
        let batch = one(out);
        let ids = batch.column(0).as_string::<i32>();
        let versions = batch.column(1).as_primitive::<Int64Type>();
        let live: BTreeMap<&str, &Row> =
            self.model.live(self.now_ms()).map(|r| (r.0.id.as_str(), r)).collect();
        let seen: Vec<(&str, i64)> =
            (0..batch.num_rows()).map(|i| (ids.value(i), versions.value(i))).collect();
        assert_eq!(seen, live.iter().map(|(id, r)| (*id, r.0.version)).collect::<Vec<_>>());
        if batch.num_columns() > 2 {
            let numbers = batch.column(2).as_primitive::<Int64Type>();
            for (i, (id, row)) in live.iter().enumerate() {
                let number = numbers.is_valid(i).then(|| Value::Int(numbers.value(i)));
                assert_eq!(number, row.get("number"), "{id}");
            }
        }
        let stats = reader.stats(&Meter::new()).await.unwrap();
        assert!(stats.segments <= 4 && stats.position >= self.position, "{stats:?}");
        self.tally.reads += 1;
    }

    /// Everything of a hit but its distance.
    fn check_fields(&self, model: &Model, hits: &[Hit], with_vector: bool) {
        for (rank, hit) in (1..).zip(hits) {
            let row = model.rows.get(&hit.id).unwrap_or_else(|| panic!("{} is not there", hit.id));
            assert_eq!(hit.rank, rank);
            assert_eq!(hit.score, self.settings.metric.score(hit.distance));
            assert_eq!(hit.metadata, model.metadata(row), "{}", hit.id);
            assert_eq!((hit.version, hit.expires_at), (row.0.version, row.0.expires_at), "{}", hit.id);
            assert_eq!(hit.vector.as_ref(), with_vector.then_some(&row.0.vector), "{}", hit.id);
            let given = |given: i64, shown: i64| given == 0 && shown > 0 || given == shown;
            assert!(
                given(row.0.timestamp, hit.timestamp) && given(row.0.created_at, hit.created_at),
                "{hit:?}"
            );
        }
    }

    /// The set, the distances, the order, and which rows were found.
    fn check(&mut self, model: &Model, found: Found<'_>) {
        let Found { who, query, k, predicate, hits } = found;
        let passes = |row: &&Row| predicate.is_none_or(|p| p.eval(row) == Some(true));
        let metric = self.settings.metric;
        let mut truth: Vec<(f64, f64, &str)> = (model.live(self.now_ms()).filter(passes))
            .map(|row| (distance(metric, query, &row.0.vector), row))
            .map(|((distance, scale), row)| (distance, scale, row.0.id.as_str()))
            .collect();
        truth.sort_by(|a, b| a.0.total_cmp(&b.0));
        let by_id: BTreeMap<&str, (f64, f64)> =
            truth.iter().map(|(d, scale, id)| (*id, (*d, *scale))).collect();
        let what = || format!("{who:?}, k {k}, {} matches, {predicate:?}, {query:?}", truth.len());
        assert_eq!(hits.len(), truth.len().min(k), "min(k, matches) rows: {}", what());
        let distinct: BTreeSet<&str> = hits.iter().map(|h| h.0.as_str()).collect();
        assert_eq!(distinct.len(), hits.len(), "a row twice: {}", what());
        for (id, distance) in &hits {
            let Some((expected, scale)) = by_id.get(id.as_str()) else {
                panic!("{id} is not live or does not pass: {}", what());
            };
            let error = (f64::from(*distance) - expected).abs();
            assert!(
                error <= DISTANCE_ERROR * scale.max(expected.abs()),
                "{id}: {distance}, not {expected}: {}",
                what()
            );
        }
        assert!(hits.is_sorted_by(|a, b| a.1 <= b.1), "out of order: {}", what());
        self.tally.searches += 1;
        let Some((furthest, scale, _)) = truth.get(hits.len().wrapping_sub(1)) else { return };
        // Ties, and what rounding makes of them, are as good as one another.
        let limit = furthest + DISTANCE_ERROR * scale;
        let near = hits.iter().filter(|h| by_id[h.0.as_str()].0 <= limit).count();
        // The tail's ids are compared only after the rows that pass are counted.
        if self.measures_all(who, k, truth.len(), self.touched(), predicate.is_some()) {
            assert_eq!(near, hits.len(), "nearest rows are missing: {}, {hits:?}", what());
            self.tally.exact += 1;
        } else {
            self.tally.found += near as u64;
            self.tally.expected += hits.len() as u64;
        }
    }
}

fn one(out: sql::QueryOutput) -> RecordBatch {
    concat_batches(&out.schema, &out.batches).unwrap()
}
