use apache_avro::{DeflateSettings, Writer, ZstandardSettings};

use super::*;
use crate::avro::samples::{avro_schema, block, record, tree};

fn file() -> Vec<u8> {
    let meta = BTreeMap::from([("esker.test".to_owned(), b"\x00\xff".to_vec())]);
    let (a, b) = (block(&[record("a", &[1.0]), record("b", &[2.0])]), block(&[record("c", &[3.0])]));
    write(&meta, &[(2, &a), (1, &b)])
}

fn foreign(codec: apache_avro::Codec) -> Bytes {
    let schema = avro_schema();
    let mut writer = Writer::with_codec(&schema, Vec::new(), codec).unwrap();
    for i in 0..20 {
        writer.append_value(tree(&record(&format!("id{i}"), &[i as f32; 8]))).unwrap();
    }
    writer.into_inner().unwrap().into()
}

#[test]
fn apache_avro_reads_our_files() {
    let bytes = file();
    let reader = apache_avro::Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.user_metadata()["esker.test"], b"\x00\xff");
    let values: Vec<_> = reader.map(|v| v.unwrap()).collect();
    let expected = [("a", 1.0), ("b", 2.0), ("c", 3.0)].map(|(id, v)| tree(&record(id, &[v])));
    assert_eq!(values, expected);
}

#[test]
fn we_read_files_of_apache_avro_in_every_codec() {
    use apache_avro::Codec as Theirs;
    let expected = block(&(0..20).map(|i| record(&format!("id{i}"), &[i as f32; 8])).collect::<Vec<_>>());
    for (theirs, ours) in [
        (Theirs::Null, Codec::Null),
        (Theirs::Deflate(DeflateSettings::default()), Codec::Deflate),
        (Theirs::Snappy, Codec::Snappy),
        (Theirs::Zstandard(ZstandardSettings::default()), Codec::Zstandard),
    ] {
        let container = read(&foreign(theirs)).unwrap();
        assert_eq!(container.codec, ours);
        let [only] = &container.blocks[..] else { panic!("{} blocks", container.blocks.len()) };
        let data = ours.decompress(only, 1 << 20).unwrap();
        // Maps have no order, so compare the trees.
        let trees = |data: &[u8]| {
            let schema = avro_schema();
            let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
            let mut rest = data;
            (0..20).map(|_| reader.read_value(&mut rest).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(trees(&data), trees(&expected));
        assert!(
            ours.decompress(only, data.len() - 1).unwrap_err().to_string().contains("which is the limit")
        );
        if ours != Codec::Null {
            let cut = Block { rows: 20, data: only.data.slice(..only.data.len() / 2) };
            assert!(ours.decompress(&cut, 1 << 20).is_err());
            assert!(ours.decompress(&Block { rows: 1, data: Bytes::new() }, 1 << 20).is_err());
        }
    }
}

#[test]
fn blocks_are_slices_of_the_file() {
    let bytes = Bytes::from(file());
    let container = read_own("k", &bytes).unwrap();
    assert_eq!(container.blocks.iter().map(|b| b.rows).collect::<Vec<_>>(), [2, 1]);
    for block in &container.blocks {
        assert!(bytes.as_ptr_range().contains(&block.data.as_ptr()));
    }
    assert_eq!(container.meta["esker.test"], b"\x00\xff");
    assert_eq!(container.schema_json, crate::record::SCHEMA);
}

#[test]
fn every_flipped_bit_and_every_cut_is_seen() {
    let good = file();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read_own("k", &bad.into()).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
    }
    for end in 0..good.len() {
        assert_eq!(
            read_own("k", &good[..end].to_vec().into()).unwrap_err().kind(),
            Kind::Corrupt,
            "end {end}"
        );
        let _ = read(&good[..end].to_vec().into());
    }
}

#[test]
fn what_is_not_a_container_is_refused() {
    for (bytes, message) in [
        (&b"PAR1"[..], "not an Avro object container"),
        (b"Obj\x01", "ends within"),
        (b"Obj\x01\x000123456789abcdef", "no avro.schema"),
        (b"Obj\x01\x02\x02k\x02v\x02\x02k\x02v\x000123456789abcdef", "given twice"),
        (
            b"Obj\x01\x04\x16avro.schema\x00\x14avro.codec\x06lzo\x000123456789abcdef",
            "`lzo` is not supported",
        ),
        (b"Obj\x01\x02\x16avro.schema\x00\x000123456789abcdef\x01\x00", "negative number of records"),
        (b"Obj\x01\x02\x16avro.schema\x00\x000123456789abcdef\x02\x00xxxxxxxxxxxxxxxx", "sync marker"),
    ] {
        let error = read(&Bytes::from_static(bytes)).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
