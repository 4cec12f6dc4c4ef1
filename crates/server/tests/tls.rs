//! AMQP over TLS.

#![allow(clippy::unwrap_used)] // also in helpers

mod common;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;

use common::{Broker, Client, PATIENCE};
use leveret_codec::Method;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

struct Certificate {
    directory: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn for_localhost() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(
            directory.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
        Self {
            directory,
            der: made.cert.der().clone(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn broker(&self, more: &[(&'static str, &str)]) -> Broker {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        let mut settings = vec![
            ("amqps_listen", "127.0.0.1:0"),
            ("tls_certificate", certificate.as_str()),
            ("tls_key", key.as_str()),
        ];
        settings.extend(more);
        Broker::start(&settings)
    }

    fn connect(
        &self,
        broker: &Broker,
        version: &'static SupportedProtocolVersion,
    ) -> Client<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(broker.server().amqps_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client::over(StreamOwned::new(tls, socket))
    }
}

#[test]
fn both_versions_of_tls_carry_messages() {
    let certificate = Certificate::for_localhost();
    let broker = certificate.broker(&[]);
    for version in [&TLS12, &TLS13] {
        let mut client = certificate.connect(&broker, version);
        client.log_in("guest", "guest", "/");
        client.open_channel(1);
        client.declare_queue("q");
        client.consume("q");
        let body = vec![9; 100_000]; // several records
        client.publish("q", &body);
        let delivery = client.answer();
        assert!(matches!(delivery.method, Method::BasicDeliver(_)));
        assert_eq!(delivery.body, body);
    }
}

#[test]
fn who_does_not_speak_tls_has_to_go() {
    let certificate = Certificate::for_localhost();
    let broker = certificate.broker(&[("tls_handshake_timeout", "200ms")]);
    let mut silent = Client::connect(broker.server().amqps_addr().unwrap());
    silent.rest().unwrap();
    let mut plain = Client::connect(broker.server().amqps_addr().unwrap());
    plain.stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
    let _ = plain.rest(); // closed, or reset because it had more to say
}

#[test]
fn a_certificate_that_cannot_be_used_is_one_line_and_exit_code_2() {
    let certificate = Certificate::for_localhost();
    let other = Certificate::for_localhost();
    fs::write(certificate.path("empty.pem"), "").unwrap();
    let [cert, key, empty, other_key] = [
        certificate.path("cert.pem"),
        certificate.path("key.pem"),
        certificate.path("empty.pem"),
        other.path("key.pem"),
    ];
    let table = [
        (
            &empty,
            &key,
            format!("cannot read the certificates in {empty}: there is none"),
        ),
        (
            &cert,
            &empty,
            format!("cannot read the private key in {empty}: "),
        ),
        (
            &cert,
            &other_key,
            format!("cannot use {cert} with {other_key}: "),
        ),
    ];
    for (cert, key, line) in table {
        let output = common::command()
            .args([
                "--amqps-listen",
                "127.0.0.1:0",
                "--tls-certificate",
                cert,
                "--tls-key",
                key,
            ])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(&format!("leveret: {line}")), "{stderr}");
        assert_eq!(
            (output.status.code(), stderr.lines().count()),
            (Some(2), 1),
            "{stderr}"
        );
    }
}
