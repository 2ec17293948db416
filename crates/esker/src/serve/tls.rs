//! TLS from certificate files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use esker_format::{Error, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The certificates of a server.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
    seen: RwLock<[Option<SystemTime>; 2]>,
}

impl Tls {
    /// Reads a certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// Invalid, naming the flag whose file is at fault.
    pub fn open(cert: &Path, key: &Path) -> Result<Self> {
        Ok(Tls {
            cert: cert.to_owned(),
            key: key.to_owned(),
            config: RwLock::new(Arc::new(load(cert, key)?)),
            seen: RwLock::new([modified(cert), modified(key)]),
        })
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// Reads the files again if they changed. Files that do not fit together leave everything as it is.
    pub fn refresh(&self) {
        let now = [modified(&self.cert), modified(&self.key)];
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
        match load(&self.cert, &self.key) {
            Ok(config) => {
                tracing::info!("certificates read again");
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(e) => tracing::error!(error = %e, "certificates cannot be read again: the old ones stay"),
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn load(cert: &Path, key: &Path) -> Result<ServerConfig> {
    let wrong = |flag: &str, path: &Path, problem: String| {
        Error::invalid(flag, format!("{}: {problem}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong("--tls-cert", cert, e.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("--tls-cert", cert, "it holds no certificate".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("--tls-key", key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| wrong("--tls-cert", cert, e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
