use esker_format::Name;
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_store::{Client, Location, Seams, Store, StoreEnv};

use super::*;

#[tokio::test]
async fn a_sink_compacts_once_for_all_who_wait() {
    let backend = esker_store::open(&Location::Memory, &StoreEnv::new(), true).unwrap();
    let store = Store::new(Client::new(backend, Seams::simulated(1)));
    let settings = Settings { dimension: 2, metric: Metric::Cosine, vector_type: VectorType::F32 };
    let name = Name::new("notes").unwrap();
    let collection = store.create(&Meter::new(), &name, settings, Schema::default()).await.unwrap();
    let runs = Arc::new(AtomicU64::new(0));
    let counter = runs.clone();
    let compact: Compact = Box::new(move || {
        let runs = counter.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    });
    let sink = CollectionSink::new(collection, Meter::new(), Some(compact));
    assert!(!sink.maybe_compact().await.unwrap());
    sink.full.store(true, Ordering::Relaxed);
    let (a, b, c) = futures::join!(sink.maybe_compact(), sink.maybe_compact(), sink.maybe_compact());
    assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (true, true, true));
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert!(!sink.maybe_compact().await.unwrap());
}
