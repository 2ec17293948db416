//! TLS by certificate files.

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;

use super::*;

/// Writes a certificate for localhost and its key; the certificate.
fn certify(dir: &std::path::Path) -> rustls::pki_types::CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

async fn healthz(
    address: SocketAddr,
    trusted: &rustls::pki_types::CertificateDer<'static>,
) -> std::io::Result<Reply> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    Ok(Reply::read(&mut stream).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_used_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = certify(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let world = World::new(&["--tls-cert", &cert, "--tls-key", &key]).await;
    assert!(world.server.tls);
    assert_eq!(healthz(world.server.http, &first).await.unwrap().status, 200);
    // Not without TLS, and the server lives on.
    let mut plain = TcpStream::connect(world.server.http).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let second = certify(dir.path());
    let clock = world.store.client().seams().clock.clone();
    let start = clock.elapsed();
    while healthz(world.server.http, &second).await.is_err() {
        assert!(clock.elapsed() - start < Duration::from_secs(10), "the new certificate is not used");
        clock.sleep(Duration::from_millis(100)).await;
    }
    assert!(healthz(world.server.http, &first).await.is_err());
    world.stop().await;
}

#[tokio::test]
async fn files_that_are_none_are_refused_by_flag() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("junk.pem"), "junk").unwrap();
    for (cert, key, flag) in [
        ("junk.pem", "key.pem", "--tls-cert"),
        ("none.pem", "key.pem", "--tls-cert"),
        ("cert.pem", "junk.pem", "--tls-key"),
    ] {
        let e = Tls::open(&file(cert), &file(key)).err().unwrap();
        assert_eq!(e.field(), Some(flag), "{e}");
    }
}
