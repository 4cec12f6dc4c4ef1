//! TLS 1.2 and 1.3 in front of AMQP.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Settings;
use crate::error::StartError;

/// What turns an accepted socket into an encrypted one; `None` if nothing listens for TLS.
///
/// # Errors
/// [`StartError`] if certificate or key cannot be read or do not belong together.
pub fn acceptor(settings: &Settings) -> Result<Option<TlsAcceptor>, StartError> {
    if settings.amqps_listen.0.is_empty() {
        return Ok(None);
    }
    let (Some(certificate), Some(key)) = (&settings.tls_certificate.0, &settings.tls_key.0) else {
        return Err(StartError::new(
            "amqps_listen needs tls_certificate and tls_key",
        ));
    };
    let unusable = |e: rustls::Error| {
        StartError::new(format!(
            "cannot use {} with {}: {e}",
            certificate.display(),
            key.display()
        ))
    };
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(read_certificates(certificate)?, read_key(key)?)
        .map_err(unusable)?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let wrong = |reason: &dyn std::fmt::Display| {
        StartError::new(format!(
            "cannot read the certificates in {}: {reason}",
            path.display()
        ))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(&e))?;
    if chain.is_empty() {
        return Err(wrong(&"there is none"));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, StartError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| {
        StartError::new(format!(
            "cannot read the private key in {}: {e}",
            path.display()
        ))
    })
}
