//! TLS that believes everybody, as a kubelet's probes do: whether the server answers is asked, not who it is.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Connection;

/// Does the handshake. The connection is given back with the error, for what it has seen.
pub async fn handshake(connection: Connection, host: &str) -> Result<TlsStream<Connection>, (io::Error, Connection)> {
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(error) => return Err((io::Error::other(error), connection)),
    };
    let connector = TlsConnector::from(Arc::clone(config()));
    connector.connect(name, connection).into_fallible().await
}

fn config() -> &'static Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let provider = Arc::new(ring::default_provider());
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        let mut config = builder(provider)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Everybody(schemes)))
            .with_no_client_auth();
        // Every check is a client that comes for the first time.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    })
}

fn builder(provider: Arc<CryptoProvider>) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
}

/// The schemes that are offered; what is signed with them is believed unseen.
#[derive(Debug)]
struct Everybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
