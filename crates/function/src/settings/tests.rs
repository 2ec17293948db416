use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Settings> {
    Settings::read(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn the_store_is_all_that_must_be_said() {
    assert_eq!(read(&[]).err().and_then(|e| e.field().map(str::to_owned)), Some("ESKER_STORE".to_owned()));
    let settings = read(&[("ESKER_STORE", "s3://b/p"), ("ESKER_INGEST_FUNCTION", "")]).unwrap();
    assert_eq!(settings.store, Location::S3 { bucket: "b".to_owned(), prefix: "p".to_owned() });
    assert_eq!((settings.memory, settings.ingest), (MEMORY, None));
}

#[test]
fn memory_is_the_functions_unless_it_is_said() {
    let store = ("ESKER_STORE", "memory:");
    let platform = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024");
    assert_eq!(read(&[store, platform]).unwrap().memory, 1 << 30);
    assert_eq!(read(&[store, platform, ("ESKER_MEMORY", "256MiB")]).unwrap().memory, 256 << 20);
    for wrong in ["1MiB", "much", "-1"] {
        let e = read(&[store, ("ESKER_MEMORY", wrong)]).err().unwrap();
        assert_eq!(e.field(), Some("ESKER_MEMORY"), "{e}");
    }
    assert_eq!(read(&[store, ("ESKER_RETAIN", "1 year")]).err().unwrap().field(), Some("ESKER_RETAIN"));
}

#[test]
fn only_what_the_platform_sets_is_handed_on() {
    let settings =
        read(&[("ESKER_STORE", "memory:"), ("AWS_REGION", "eu-west-1"), ("HOME", "/root")]).unwrap();
    assert_eq!(settings.aws.len(), 1);
}
