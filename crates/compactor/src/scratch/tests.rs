use super::*;

#[test]
fn what_is_appended_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let scratches: [&dyn Scratch; 2] = [&MemoryScratch, &DirectoryScratch::new(directory.path())];
    for scratch in scratches {
        let mut spooling = Spooling::new(scratch).unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        for part in [&bytes[..10], &bytes[10..400_000], &bytes[400_000..400_001], &bytes[400_001..]] {
            spooling.write_all(part).unwrap();
        }
        let (file, crc) = spooling.finish().unwrap();
        assert_eq!((file.length(), crc), (bytes.len() as u64, crc32c::crc32c(&bytes)));
        let mut copied = Vec::new();
        copy(&*file, &mut copied).unwrap();
        assert_eq!(copied, bytes);
        assert_eq!(file.range(399_990, 20).unwrap(), bytes[399_990..400_010]);
        assert!(file.range(bytes.len() as u64 - 1, 2).is_err());
        // Gone, where a file system has holes; what lies beside it stays, and what follows comes behind it.
        file.discard(100_000, 1_000_000);
        if cfg!(target_os = "linux") {
            let gone = || file.range(100_000, 1_000_000).unwrap() == vec![0; 1_000_000];
            assert!((0..100_000).any(|_| gone()));
        }
        assert_eq!(file.range(0, 100_000).unwrap(), bytes[..100_000]);
        assert_eq!(file.range(1_100_000, 300_000).unwrap(), bytes[1_100_000..1_400_000]);
        assert_eq!((file.length(), file.append(&[]).unwrap()), (bytes.len() as u64, bytes.len() as u64));
        let mut rest = Vec::new();
        Chunks(file).get_read(2_999_000).unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(rest, bytes[2_999_000..]);
    }
    assert!(DirectoryScratch::new(directory.path().join("none")).file().is_err());
}

#[test]
fn a_sealed_file_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = DirectoryScratch::new(directory.path()).file().unwrap();
    file.append(b"rows").unwrap();
    let mut sealed = file.seal().unwrap();
    assert!(file.append(b"more").is_err());
    file.discard(0, 4);
    assert_eq!(file.range(0, 4).unwrap(), b"rows");
    let mut whole = Vec::new();
    sealed.seek(SeekFrom::Start(0)).unwrap();
    sealed.read_to_end(&mut whole).unwrap();
    assert_eq!(whole, b"rows");
    assert!(MemoryScratch.file().unwrap().seal().is_none());
}

/// Holes may still be made then.
#[cfg(target_os = "linux")]
#[test]
fn a_file_with_holes_is_not_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let file = DirectoryScratch::new(directory.path()).file().unwrap();
    file.append(b"rows").unwrap();
    file.discard(0, 2);
    assert!(file.seal().is_none());
    file.append(b"more").unwrap();
}

#[test]
fn what_is_given_to_be_written_over_takes_what_comes_next() {
    let directory = tempfile::tempdir().unwrap();
    let file = DirectoryScratch::new(directory.path()).file().unwrap();
    file.append(b"0123456789").unwrap();
    file.reuse(2, 3);
    // Too long for it; then what is beside it makes room.
    assert_eq!(file.append(b"abcd").unwrap(), 10);
    file.reuse(5, 2);
    assert_eq!(file.append(b"ABCD").unwrap(), 2);
    assert_eq!(file.append(b"").unwrap(), 14);
    assert_eq!(file.append(b"E").unwrap(), 6);
    assert_eq!(file.append(b"F").unwrap(), 14);
    assert_eq!(file.range(0, 15).unwrap(), b"01ABCDE789abcdF");
    assert_eq!(file.length(), 15);
    assert!(file.seal().is_none());
}
