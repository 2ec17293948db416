use super::*;

#[test]
fn sizes_and_times() {
    assert_eq!(size("64MiB"), Ok(64 << 20));
    assert_eq!(size("2 gib"), Ok(2 << 30));
    assert_eq!(size("17"), Ok(17));
    assert_eq!(size("3kB"), Ok(3000));
    assert!(size("1.5GiB").is_err() && size("GiB").is_err() && size("99999999999TiB").is_err());
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
    assert!(duration("30").is_err() && duration("-1s").is_err() && duration("1y").is_err());
}
