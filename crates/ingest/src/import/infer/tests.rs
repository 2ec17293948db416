use super::*;

fn column(name: &str, shape: Shape, key: Key) -> SampleColumn {
    SampleColumn { name: name.to_owned(), shape, vector: None, key }
}

fn text(name: &str) -> SampleColumn {
    column(name, Shape::Typed(ColumnType::String, None), Key::Unique)
}

fn whole(name: &str) -> SampleColumn {
    column(name, Shape::Typed(ColumnType::Int, None), Key::Unique)
}

fn repeats(mut c: SampleColumn) -> SampleColumn {
    c.key = Key::Not("repeats `x`".to_owned());
    c
}

fn vectors(name: &str, dimension: usize, element: Element) -> SampleColumn {
    SampleColumn {
        vector: Some(VectorShape { dimension, element, unit: false }),
        ..column(name, Shape::Other("a list of float32".to_owned()), Key::No)
    }
}

fn sample(columns: impl IntoIterator<Item = SampleColumn>) -> Sample {
    Sample { columns: columns.into_iter().collect() }
}

fn found(columns: impl IntoIterator<Item = SampleColumn>) -> Inference {
    infer(&sample(columns), &Overrides::default()).unwrap()
}

fn refused(columns: impl IntoIterator<Item = SampleColumn>, overrides: &Overrides) -> (String, String) {
    let e = infer(&sample(columns), overrides).unwrap_err();
    (e.to_string(), e.hint().unwrap_or_default().to_owned())
}

#[test]
fn ids() {
    let v = || vectors("vector", 3, Element::F32);
    let table: [(Vec<SampleColumn>, Option<&str>); 7] = [
        (vec![text("id"), text("name"), v()], Some("id")),
        (vec![text("name"), whole("_id"), v()], Some("_id")),
        (vec![text("title"), text("name"), v()], Some("name")),
        (vec![text("title"), repeats(text("name")), v()], None),
        (vec![text("title"), text("UUID"), v()], Some("UUID")),
        (vec![text("title"), whole("key"), v()], Some("key")),
        (vec![text("title"), v()], None),
    ];
    for (columns, id) in table {
        let names: Vec<_> = columns.iter().map(|c| c.name.clone()).collect();
        assert_eq!(found(columns).id_column.as_deref(), id, "{names:?}");
    }
    let notes = found([text("title"), repeats(text("name")), v()]).notes.join("\n");
    assert!(notes.contains("row numbers from 0 (`name` repeats `x`)"), "{notes}");
}

#[test]
fn an_id_that_repeats_is_not_silently_metadata() {
    let columns = [repeats(text("id")), vectors("vector", 3, Element::F32)];
    let (message, hint) = refused(columns.clone(), &Overrides::default());
    assert!(message.contains("`id`") && hint.contains("--id-column id"), "{message}: {hint}");
    let overrides = Overrides { id_column: Some("id".to_owned()), ..Overrides::default() };
    assert_eq!(infer(&sample(columns), &overrides).unwrap().id_column.as_deref(), Some("id"));
}

#[test]
fn vector_columns() {
    use Element::{F32, Text};
    let table: [(Vec<SampleColumn>, &str); 4] = [
        (vec![text("id"), vectors("anything", 3, F32)], "anything"),
        (vec![text("id"), vectors("anything", 3, Text)], "anything"),
        (
            vec![
                text("id"),
                {
                    let mut t = vectors("t", 3, Text);
                    t.shape = Shape::Typed(ColumnType::String, None);
                    t
                },
                vectors("v", 4, F32),
            ],
            "v",
        ),
        (vec![text("id"), vectors("vector", 3, F32)], "vector"),
    ];
    for (columns, name) in table {
        assert_eq!(found(columns).vector_column, name);
    }
    let two = || [text("id"), vectors("title_v", 3, F32), vectors("body_v", 4, F32)];
    let (message, hint) = refused(two(), &Overrides::default());
    assert_eq!(message, "several columns could hold the vectors: `title_v`, `body_v`");
    assert_eq!(hint, "choose with --vector-column");
    // Chosen, the other is in the way until it is left out.
    let choose = Overrides { vector_column: Some("body_v".to_owned()), ..Overrides::default() };
    assert_eq!(refused(two(), &choose).1, "leave it out with --skip-column title_v");
    let skip = Overrides { skip_columns: vec!["title_v".to_owned()], ..choose };
    let inference = infer(&sample(two()), &skip).unwrap();
    assert_eq!((inference.dimension, &inference.skipped[..]), (4, &["title_v".to_owned()][..]));
    // The collection's dimension decides too.
    let settings = Settings { dimension: 4, metric: Metric::L2, vector_type: VectorType::F16 };
    let existing = Overrides {
        existing: Some(settings.clone()),
        skip_columns: vec!["title_v".to_owned()],
        ..Overrides::default()
    };
    assert_eq!(infer(&sample(two()), &existing).unwrap().settings(), settings);
    assert!(refused([text("id")], &Overrides::default()).0.contains("no column holds vectors"));
    assert!(refused([vectors("v", 9000, F32)], &Overrides::default()).0.contains("9000 dimensions"));
}

#[test]
fn settings() {
    let unit = |element| SampleColumn {
        vector: Some(VectorShape { dimension: 3, element, unit: true }),
        ..vectors("vector", 3, element)
    };
    let inference = found([text("id"), unit(Element::F32)]);
    assert_eq!((inference.metric, inference.vector_type), (Metric::Cosine, VectorType::F32));
    assert!(inference.notes.contains(&"metric: cosine (the vectors are of unit length)".to_owned()));
    let inference = found([text("id"), unit(Element::F16)]);
    assert_eq!(inference.vector_type, VectorType::F16);
    let inference = found([text("id"), vectors("vector", 3, Element::F64)]);
    assert!(inference.notes.iter().any(|n| n.contains("rounded")), "{:?}", inference.notes);
    let overrides =
        Overrides { metric: Some(Metric::Dot), vector_type: Some(VectorType::F32), ..Overrides::default() };
    let inference = infer(&sample([text("id"), unit(Element::F16)]), &overrides).unwrap();
    assert_eq!((inference.metric, inference.vector_type), (Metric::Dot, VectorType::F32));
}

#[test]
fn other_columns() {
    let of = |c: SampleColumn| [text("id"), vectors("vector", 3, Element::F32), c];
    let inference = found(of(text("version")));
    assert_eq!(
        inference.columns,
        [Column { name: "version".to_owned(), kind: ColumnType::String, wide: false }]
    );
    let inference = found(of(column("at", Shape::Time, Key::No)));
    assert_eq!(inference.columns[0].kind, ColumnType::Int);
    for name in FIELDS {
        assert_eq!(found(of(whole(name))).fields, [name]);
    }
    assert_eq!(found(of(column("_timestamp", Shape::Time, Key::No))).fields, ["_timestamp"]);
    assert_eq!(found(of(whole("_seq"))).skipped, ["_seq"]);
    assert!(found(of(column("e", Shape::Empty, Key::No))).columns.is_empty());

    let table = [
        (text("_x"), "column `_x`: the metadata key `_x` is reserved"),
        (text("score"), "column `score`: the metadata key `score` is reserved"),
        (
            text("_timestamp"),
            "column `_timestamp` is a field of the record and must hold whole numbers or times",
        ),
        (
            column("s", Shape::Other("a struct".to_owned()), Key::No),
            "column `s` is a struct, which metadata cannot hold",
        ),
    ];
    for (c, message) in table {
        let name = c.name.clone();
        assert_eq!(
            refused(of(c), &Overrides::default()),
            (message.to_owned(), format!("leave it out with --skip-column {name}"))
        );
    }
    let unknown = Overrides { skip_columns: vec!["nope".to_owned()], ..Overrides::default() };
    assert_eq!(refused([text("id")], &unknown).1, "it has id");
    assert!(refused([text("a"), text("a")], &Overrides::default()).0.contains("two columns named `a`"));
}
