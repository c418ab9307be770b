//! The server's certificate and key, and whose certificates clients must show; read again when the files change.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::reload::Reloaded;
use crate::serve::Phase;

/// TLS 1.2 and 1.3, by what its files hold now.
#[derive(Clone)]
pub struct Tls(Arc<Reloaded<ServerConfig, TlsError>>);

/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and behind it those that lead to the one that clients trust.
    pub certificates: PathBuf,
    pub key: PathBuf,
    /// If it is given, a client must show a certificate that one of these has signed.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file} cannot be read: {reason}")]
    Unreadable { file: PathBuf, reason: io::Error },
    #[error("{file} has more than {FILE_BYTES} bytes: it should be a PEM file")]
    TooLarge { file: PathBuf },
    #[error("{file} is not PEM: {reason}")]
    NotPem { file: PathBuf, reason: pem::Error },
    #[error("{file} has no certificate: it must have a block that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate { file: PathBuf },
    #[error("{file} has no private key: it must have a block that begins with -----BEGIN PRIVATE KEY-----")]
    NoKey { file: PathBuf },
    #[error("the key in {key} does not belong to the first certificate in {certificates}: give the two of one pair")]
    OtherKey { certificates: PathBuf, key: PathBuf },
    #[error("the certificates in {certificates} with the key in {key} are of no use: {reason}")]
    Pair { certificates: PathBuf, key: PathBuf, reason: rustls::Error },
    #[error("the certificates in {file} cannot vouch for clients: {reason}")]
    ClientCa { file: PathBuf, reason: String },
}

const FILE_BYTES: u64 = 1 << 20;

impl Tls {
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let all = [Some(&files.certificates), Some(&files.key), files.client_ca.as_ref()];
        let all = all.into_iter().flatten().cloned().collect();
        Ok(Self(Arc::new(Reloaded::new(all, move || files.config())?)))
    }

    /// Takes new versions of the files until the phase is `Closing`. Open connections keep what they began with.
    pub async fn follow(self, phase: watch::Receiver<Phase>) {
        self.0.follow("certificates", phase).await;
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.get().into()
    }
}

impl TlsFiles {
    fn config(&self) -> Result<ServerConfig, TlsError> {
        let (certificates, key) = (certificates(&self.certificates)?, key(&self.key)?);
        let provider = Arc::new(ring::default_provider());
        let pair = |reason| match reason {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::OtherKey { certificates: self.certificates.clone(), key: self.key.clone() }
            }
            reason => TlsError::Pair { certificates: self.certificates.clone(), key: self.key.clone(), reason },
        };
        let versions = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let mut config = versions
            .map_err(pair)?
            .with_client_cert_verifier(self.clients(provider)?)
            .with_single_cert(certificates, key)
            .map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn clients(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let Some(file) = &self.client_ca else { return Ok(WebPkiClientVerifier::no_client_auth()) };
        let refused = |reason: String| TlsError::ClientCa { file: file.clone(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|reason| refused(reason.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        verifier.map_err(|reason: VerifierBuilderError| refused(reason.to_string()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |reason| TlsError::NotPem { file: path.to_owned(), reason };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(not_pem)?;
    if found.is_empty() { Err(TlsError::NoCertificate { file: path.to_owned() }) } else { Ok(found) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|reason| match reason {
        pem::Error::NoItemsFound => TlsError::NoKey { file: path.to_owned() },
        reason => TlsError::NotPem { file: path.to_owned(), reason },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(reason) => Err(TlsError::Unreadable { file: path.to_owned(), reason }),
        Ok(read) if read as u64 > FILE_BYTES => Err(TlsError::TooLarge { file: path.to_owned() }),
        Ok(_) => Ok(bytes),
    }
}
