use esker_format::schema::VectorType;

use super::super::tests::{World, delete, exact, tight};
use super::*;
use crate::scratch::MemoryScratch;

#[tokio::test(start_paused = true)]
async fn without_memory_a_merge_copies_the_codes_of_its_base() {
    let mut world = World::new(VectorType::F16).await;
    let both = exact(4000, 1);
    world.import(0, both[..3000].to_vec()).await;
    let tight = |world: &World| {
        let collection = Arc::clone(&world.collection);
        async move { tight().compact(&Meter::new(), &collection, &|_| {}).await.unwrap() }
    };
    let made = tight(&world).await;
    assert_eq!((made.copied, made.encoded), (0, 3000));
    world.import(3000, both[3000..].to_vec()).await;
    for n in 0..50 {
        world.write(&[delete(7 * n)]).await;
    }
    // As many commits as entries; the first merges.
    let merged = tight(&world).await;
    assert_eq!((merged.merged, merged.copied + merged.encoded), (1, 4000));
    assert!(merged.copied > 1500, "{} codes of 3,000 copied", merged.copied);
    let manifest = world.check().await;
    // Codes that do not fit `head` go to a file in parts.
    let meter = Meter::new();
    let segment = &manifest.segments[0];
    let reader =
        SegmentReader::open(&world.process(5).await, &meter, segment, None).await.unwrap().uncached();
    let codes = reader.section(&meter, Section::Codes).await.unwrap();
    for at_once in [1, 5000, u32::MAX] {
        let file = codes_aside(&meter, &reader, &MemoryScratch, at_once).await.unwrap();
        assert_eq!(codes, file.range(0, file.length() as usize).unwrap());
    }
}
