use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use esker_format::Kind;
use esker_format::schema::{Metric, VectorType};

use super::*;
use crate::fixture::{self, Write};
use crate::scratch::{MemoryScratch, Scratch, ScratchFile};

/// Files that hold so many appends.
#[derive(Debug)]
struct Small(usize);

struct SmallFile(Arc<dyn ScratchFile>, AtomicUsize);

impl Scratch for Small {
    fn file(&self) -> io::Result<Arc<dyn ScratchFile>> {
        Ok(Arc::new(SmallFile(MemoryScratch.file()?, AtomicUsize::new(self.0))))
    }
}

impl ScratchFile for SmallFile {
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let left = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        self.0.append(bytes)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(at, out)
    }

    fn length(&self) -> u64 {
        self.0.length()
    }
}

fn spilling(scratch: &dyn Scratch) -> Spilling {
    let settings = fixture::settings(4, Metric::L2, VectorType::F32);
    Spilling::new(Box::new(Spill::new(&settings, 1 << 20, 1, 2, scratch).unwrap())).unwrap()
}

fn batch(number: u64) -> RecordBatch {
    let settings = fixture::settings(4, Metric::L2, VectorType::F32);
    let write =
        |i| Write::Upsert { id: format!("{number}-{i}"), vector: vec![i as f32; 4], expires_at: None };
    fixture::entry(&settings, number, &(0..3).map(write).collect::<Vec<_>>()).rows.clone()
}

#[test]
fn all_rows_are_written() {
    let mut spilling = spilling(&MemoryScratch);
    (1..=5).for_each(|number| spilling.push(batch(number)).unwrap());
    assert_eq!(spilling.finish().unwrap().rows(), 15);
}

#[test]
fn what_cannot_be_written_is_told_to_who_brings_more() {
    let mut full = spilling(&Small(2));
    let told = (1..).find_map(|number| full.push(batch(number)).err()).unwrap();
    assert_eq!(told.kind(), Kind::Unavailable, "{told}");
    assert!(full.push(batch(9)).is_err());
    assert!(full.finish().is_err());
    // And to who waits, if nothing more comes.
    let mut full = spilling(&Small(0));
    full.push(batch(1)).unwrap();
    assert_eq!(full.finish().err().unwrap().kind(), Kind::Unavailable);
}
