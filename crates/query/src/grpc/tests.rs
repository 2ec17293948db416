use super::*;

#[test]
fn unknown_numbers_of_enumerations_are_refused() {
    let e = access(7, None, None).unwrap_err();
    assert_eq!((e.field(), e.to_string().as_str()), (Some("consistency"), "there is no consistency 7"));
    let eventual = access(v1::Consistency::Eventual.into(), Some(3), Some(4)).unwrap();
    assert_eq!(
        eventual,
        Access { consistency: Consistency::Eventual, min_position: Some(3), as_of: Some(4) }
    );
}
