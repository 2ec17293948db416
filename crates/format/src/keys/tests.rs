use super::*;

#[test]
fn every_key_parses_to_what_built_it() {
    let id: CollectionId = "notes-2".parse().unwrap();
    let keys = Keys::new(&id);
    let made = Made { base: 7, token: Token(0xfeed) };
    let of = |part| Key::Of(id.clone(), part);
    let table = [
        (STORE.to_owned(), Key::Store),
        (name_record(id.name(), 3), Key::Name(id.name().clone(), 3)),
        (dirty(&id, 9), Key::Dirty(id.clone(), 9)),
        (dirty_job(&id, made), Key::DirtyJob(id.clone(), made)),
        (keys.wal(1), of(Part::Wal(1))),
        (keys.manifest(2), of(Part::Manifest(2))),
        (keys.head(), of(Part::Head)),
        (keys.rows(made), of(Part::Rows(made))),
        (keys.index(made), of(Part::Index(made))),
        (keys.deletes(made), of(Part::Deletes(made))),
        (keys.body(5, made.token), of(Part::Body(5, made.token))),
        (keys.inbox(5, made.token), of(Part::Inbox(5, made.token))),
        (keys.pin(5, made.token), of(Part::Pin(5, made.token))),
        (keys.work(made), of(Part::Work(made))),
        (keys.job(made, "piece-3"), of(Part::Work(made))),
        (keys.upload(made.token), of(Part::Upload(made.token))),
        (keys.progress(made.token), of(Part::Progress(made.token))),
    ];
    for (text, key) in table {
        assert_eq!(Key::parse(&text).unwrap(), key, "{text}");
    }
}

#[test]
fn listings_are_newest_first() {
    let keys = Keys::new(&"a-1".parse().unwrap());
    assert!(keys.wal(10) < keys.wal(9));
    assert!(keys.manifest(u64::MAX) < keys.manifest(1));
}

#[test]
fn strangers_are_refused() {
    for key in [
        "",
        "c/",
        "c/a/head",
        "c/a-1/wal/1.avro",
        "c/A-1/head",
        "names/a/1",
        "c/a-1/../x",
        "c/a-01/head",
        "c/a-1/work/x/y",
    ] {
        assert!(Key::parse(key).is_err(), "{key}");
    }
}
