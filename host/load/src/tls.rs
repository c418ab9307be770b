//! How connections are made: TCP, and TLS by rustls with the system's certificates or those of a file.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::error::BenchError;

pub(crate) fn connector(certificates: Option<&Path>) -> Result<HttpsConnector<HttpConnector>, BenchError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(config(certificates)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp))
}

fn config(certificates: Option<&Path>) -> Result<ClientConfig, BenchError> {
    let mut roots = RootCertStore::empty();
    match certificates {
        Some(file) => trust_file(&mut roots, file)?,
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| BenchError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn trust_file(roots: &mut RootCertStore, file: &Path) -> Result<(), BenchError> {
    let flag = "--ca-cert";
    let read = std::fs::read(file).map_err(|source| BenchError::File { flag, path: file.to_owned(), source })?;
    let certificates = CertificateDer::pem_slice_iter(&read).filter_map(Result::ok);
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 { Err(BenchError::NoCertificate(file.to_owned())) } else { Ok(()) }
}
