//! The record is the same in Avro and in protocol buffers, field by field (the table of the wire contract).

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::RecordSchema;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const AVSC: &str = include_str!("../../crates/format/src/record.avsc");

fn avro() -> RecordSchema {
    match Schema::parse_str(AVSC).unwrap() {
        Schema::Record(record) => record,
        other => panic!("the schema is a {other}"),
    }
}

fn message() -> DescriptorProto {
    let set = FileDescriptorSet::decode(esker_proto::DESCRIPTOR_SET).unwrap();
    let mut ours = set.file.into_iter().filter(|f| f.package() == "esker.v1").flat_map(|f| f.message_type);
    ours.find(|m| m.name() == "Record").unwrap()
}

/// The Avro type that a proto field stands for.
fn avro_type(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let scalar = |field: &FieldDescriptorProto| match field.r#type() {
        Type::String => "\"string\"",
        Type::Float => "\"float\"",
        Type::Int32 => "\"int\"",
        Type::Int64 => "\"long\"",
        other => panic!("{other:?} has no Avro type here"),
    };
    if field.r#type() == Type::Message {
        let entry = message.nested_type.iter().find(|m| field.type_name().ends_with(m.name())).unwrap();
        assert!(entry.options.as_ref().unwrap().map_entry());
        assert_eq!(
            (entry.field[0].r#type(), entry.field[1].type_name()),
            (Type::String, ".google.protobuf.Value")
        );
        // What google.protobuf.Value holds, with whole numbers and precision told apart.
        return concat!(
            r#"{"type":"map","values":["null","boolean","int","long","float","double","string","#,
            r#"{"type":"array","items":"string"}]}"#
        )
        .to_owned();
    }
    match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => format!(r#"{{"type":"array","items":{}}}"#, scalar(field)),
        (_, true) => format!(r#"["null",{}]"#, scalar(field)),
        (_, false) => scalar(field).to_owned(),
    }
}

#[test]
fn avro_and_proto_have_the_same_fields() {
    let (avro, message) = (avro(), message());
    assert_eq!((avro.name.name(), avro.name.namespace()), ("Record", Some("esker.v1")));
    assert_eq!(avro.fields.len(), message.field.len());
    for (i, (a, p)) in avro.fields.iter().zip(&message.field).enumerate() {
        assert_eq!(a.name, p.name());
        assert_eq!(p.number(), i as i32 + 1, "{}", a.name);
        let sorted = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(sorted(&a.schema.canonical_form()), sorted(&avro_type(p, &message)), "{}", a.name);
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    use serde_json::{Value, json};
    let defaults: BTreeMap<_, _> =
        avro().fields.into_iter().filter_map(|f| Some((f.name, f.default?))).collect();
    let expected = [
        ("distance", Value::Null),
        ("expires_at", Value::Null),
        ("rank", Value::Null),
        ("score", Value::Null),
        ("version", json!(1)),
    ];
    assert_eq!(defaults.into_iter().collect::<Vec<_>>(), expected.map(|(k, v)| (k.to_owned(), v)));
}

#[test]
fn records_survive_their_encoding() {
    use esker_proto::v1::Record;
    use prost_types::value::Kind;
    let value = |kind| prost_types::Value { kind: Some(kind) };
    let record = Record {
        id: "a".into(),
        vector: vec![1.0, 2.0],
        metadata: [("k".to_owned(), value(Kind::NumberValue(2.0)))].into(),
        expires_at: Some(0),
        version: 1,
        ..Record::default()
    };
    assert_eq!(Record::decode(&record.encode_to_vec()[..]).unwrap(), record);
}
