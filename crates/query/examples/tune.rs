//! Scratch: not kept.
#![allow(clippy::all, clippy::disallowed_methods, clippy::disallowed_macros, clippy::print_stdout)]
use esker_format::Name;
use esker_format::record::Record;
use esker_format::schema::*;
use esker_query::*;
use esker_store::*;
use std::sync::Arc;
use std::time::Instant;

fn floats(path: &str, d: usize) -> Vec<Vec<f32>> {
    let b = std::fs::read(path).unwrap();
    b.chunks_exact(4 * d)
        .map(|r| r.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect())
        .collect()
}

#[tokio::main]
async fn main() {
    let base = floats("/tmp/esker/base.f32", 384);
    let queries = floats("/tmp/esker/query.f32", 384);
    let objects = Arc::new(object_store::memory::InMemory::new());
    let client = || Client::new(esker_store::open::Backend::new(objects.clone()), Seams::system());
    let store = Arc::new(Store::new(client()));
    let name = Name::new("deb").unwrap();
    let m = Meter::new();
    store
        .create(
            &m,
            &name,
            Settings { dimension: 384, metric: Metric::Cosine, vector_type: VectorType::F32 },
            Schema::default(),
        )
        .await
        .unwrap();
    let ingest = esker_ingest::Ingest::new(store.clone());
    let t = Instant::now();
    for (b, rows) in base.chunks(5000).enumerate() {
        let records: Vec<Record> = rows
            .iter()
            .enumerate()
            .map(|(i, v)| Record {
                id: format!("{}", b * 5000 + i),
                vector: v.clone(),
                metadata: [
                    ("n".to_owned(), esker_format::record::Value::Int((b * 5000 + i) as i64)),
                    (
                        "text".to_owned(),
                        esker_format::record::Value::String(format!(
                            "some text about {} and {} with {}",
                            i * 7919,
                            i * 31,
                            i % 17
                        )),
                    ),
                ]
                .into(),
                ..Record::default()
            })
            .collect();
        ingest.upsert(&m, &name, &records, None).await.unwrap();
    }
    println!("ingest {:?}", t.elapsed());
    let t = Instant::now();
    let c = store.collection(&m, &name).await.unwrap();
    esker_compactor::Compactor::default().compact(&m, &c, &|_| {}).await.unwrap();
    println!("compact {:?}", t.elapsed());
    // truth
    let exact: Vec<Vec<f32>> = queries
        .iter()
        .take(300)
        .map(|q| {
            let e = esker_index::Exact::new(esker_index::Metric::Cosine, q);
            let mut d: Vec<f32> = base.iter().map(|r| e.f32(r)).collect();
            d.sort_by(f32::total_cmp);
            d.truncate(10);
            d
        })
        .collect();
    // cold
    let mut io = (0f64, 0f64, 0f64);
    let mut rec = 0f64;
    let mut ms = 0f64;
    let n = 40;
    for (q, truth) in queries.iter().zip(&exact).take(n) {
        let engine = Engine::new(Arc::new(Store::new(client())), Options::default());
        let m = Meter::new();
        let t = Instant::now();
        let r = engine
            .collection(&name)
            .search(&m, &Search { explain: true, ..Search::new(q.clone(), 10) })
            .await
            .unwrap();
        ms += t.elapsed().as_secs_f64() * 1e3;
        io.0 += r.io.waves as f64;
        io.1 += r.io.gets as f64;
        io.2 += r.io.bytes_read as f64;
        rec += r.results[0].iter().filter(|h| h.distance <= truth[9] + 1e-6).count() as f64 / 10.0;
        if io.0 <= 3.0 {
            println!("{:?}", r.explain);
        }
    }
    println!(
        "cold waves {} gets {} bytes {} recall {} ms {}",
        io.0 / n as f64,
        io.1 / n as f64,
        io.2 / n as f64,
        rec / n as f64,
        ms / n as f64
    );
    let engine = Engine::new(Arc::new(Store::new(client())), Options::default());
    let reader = engine.collection(&name);
    let t = Instant::now();
    let warm = reader.warm(&Meter::new()).await.unwrap();
    println!("warm up {:?} rows {}", t.elapsed(), warm.rows());
    for r in [0.9, 0.95, 0.98, 0.99] {
        let mut best = f64::INFINITY;
        let mut rec = 0.0;
        for _ in 0..5 {
            let t = Instant::now();
            for q in &queries {
                std::hint::black_box(warm.search(q, 10, r, None).unwrap());
            }
            best = best.min(t.elapsed().as_secs_f64());
        }
        for (q, truth) in queries.iter().zip(&exact) {
            let h = warm.search(q, 10, r, None).unwrap();
            rec += h.iter().filter(|h| h.distance <= truth[9] + 1e-6).count() as f64 / 10.0;
        }
        let x = reader
            .search(
                &Meter::new(),
                &Search {
                    vectors: queries[..100].to_vec(),
                    min_recall: r,
                    explain: true,
                    ..Search::default()
                },
            )
            .await
            .unwrap()
            .explain
            .unwrap();
        println!(
            "warm r={r}: {:.0}/s recall {:.4} leaves {} codes {} reranked {} b {} delta {} R {}",
            queries.len() as f64 / best,
            rec / exact.len() as f64,
            x.leaves_probed / 100,
            x.codes_scanned / 100,
            x.rows_reranked / 100,
            x.segments[0].b,
            x.segments[0].delta,
            x.segments[0].rerank
        );
    }
    for f in ["n < 30000", "n < 6000", "n % 100 = 3", "n < 60"] {
        let filter = warm.filter(&Meter::new(), &Filter::sql(f).unwrap()).await.unwrap();
        let t = Instant::now();
        for q in &queries[..200] {
            std::hint::black_box(warm.search(q, 10, 0.98, Some(&filter)).unwrap());
        }
        println!(
            "filter {f}: {} rows {:.0} µs",
            warm.count(&filter),
            t.elapsed().as_secs_f64() * 1e6 / 200.0
        );
    }
    let t = Instant::now();
    for q in &queries[..300] {
        std::hint::black_box(reader.search(&Meter::new(), &Search::new(q.clone(), 10)).await.unwrap());
    }
    println!("async search in memory {:.0} µs", t.elapsed().as_secs_f64() * 1e6 / 300.0);
}
