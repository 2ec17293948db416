use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

fn settings(args: &[&str]) -> Settings {
    Line::try_parse_from(["serve"].iter().chain(args)).unwrap().settings
}

#[test]
fn defaults_are_valid_and_loopback_needs_no_keys() {
    let settings = settings(&[]);
    settings.check().unwrap();
    assert!(settings.http.ip().is_loopback() && settings.grpc.ip().is_loopback());
    assert_eq!((settings.deadline, settings.max_body), (Duration::from_secs(30), 64 << 20));
}

#[test]
fn another_address_needs_keys_or_insecure() {
    for flag in ["--http", "--grpc"] {
        let open = [flag, "0.0.0.0:1"];
        let e = settings(&open).check().unwrap_err();
        assert_eq!(e.field(), Some(flag));
        assert!(e.hint().unwrap().contains("--insecure"), "{e}");
        settings(&[&open[..], &["--insecure"]].concat()).check().unwrap();
        settings(&[&open[..], &["--keys", "f"]].concat()).check().unwrap();
    }
}

#[test]
fn a_certificate_needs_its_key() {
    assert!(Line::try_parse_from(["serve", "--tls-cert", "c.pem"]).is_err());
    assert!(Line::try_parse_from(["serve", "--tls-key", "k.pem"]).is_err());
}

#[test]
fn limits_are_checked() {
    assert_eq!(settings(&["--memory", "1MiB"]).check().unwrap_err().field(), Some("--memory"));
    assert_eq!(settings(&["--max-body", "2GiB"]).check().unwrap_err().field(), Some("--max-body"));
    assert_eq!(settings(&["--deadline", "1ms"]).check().unwrap_err().field(), Some("--deadline"));
}
