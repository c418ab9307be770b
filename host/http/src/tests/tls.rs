//! TLS on a real socket with a real client: whom each side trusts, what does not speak it, and new certificates.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion};
use sluice_core::FinishReason;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Reply, chat, connect, get, rest, send};
use super::engine::{Server, config, end, say};
use crate::config::EdgeLimits;
use crate::gate::Gate;
use crate::tls::{Tls, TlsError, TlsFiles};

const PATIENCE: Duration = Duration::from_secs(20);

/// One that signs certificates.
struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

struct Signed {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(parameters, key) }
    }

    fn sign(&self) -> Signed {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Signed { pem: certificate.pem(), der: certificate.der().clone(), key }
    }

    /// The files of a server that it has signed for.
    fn files(&self, folder: &Path) -> TlsFiles {
        let signed = self.sign();
        let files = TlsFiles { certificates: folder.join("cert.pem"), key: folder.join("key.pem"), client_ca: None };
        fs::write(&files.certificates, &signed.pem).unwrap();
        fs::write(&files.key, signed.key.serialize_pem()).unwrap();
        files
    }

    /// A client that trusts it, and shows what was signed for it.
    async fn connect(&self, address: SocketAddr, shown: Option<&Signed>) -> io::Result<TlsStream<TcpStream>> {
        self.connect_by(ALL_VERSIONS, address, shown).await
    }

    async fn connect_by(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        address: SocketAddr,
        shown: Option<&Signed>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match shown {
            None => config.with_no_client_auth(),
            Some(Signed { der, key, .. }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                config.with_client_auth_cert(vec![der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connected = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
        connected.expect("a handshake in time")
    }

    async fn send(&self, address: SocketAddr, request: &str) -> io::Result<Reply> {
        let mut stream = self.connect(address, None).await?;
        stream.write_all(request.as_bytes()).await?;
        Ok(rest(stream).await)
    }
}

struct Secured {
    folder: TempDir,
    authority: Authority,
    tls: Tls,
    server: Server,
}

async fn secured(limits: EdgeLimits) -> Secured {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = Tls::load(authority.files(folder.path())).unwrap();
    let server = Server::behind(limits, Gate::open(), Some(tls.clone())).await;
    Secured { folder, authority, tls, server }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_server_is_answered_and_one_that_does_not_hurts_nobody() {
    let Secured { authority, mut server, folder: _folder, .. } = secured(config().limits).await;
    let stranger = Authority::new();
    assert_eq!(
        stranger.send(server.address, &get("/health")).await.map(|_| ()).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    let mut client = authority.connect(server.address, None).await.unwrap();
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    client.write_all(chat(body).as_bytes()).await.unwrap();
    let request = server.offered().await;
    say(&request, "abc").unwrap();
    end(&request, FinishReason::Stop, None);
    let reply = rest(client).await;
    assert!(reply.status == 200 && reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_either_version_are_answered() {
    let Secured { authority, server, folder: _folder, .. } = secured(config().limits).await;
    for version in [&TLS12, &TLS13] {
        let mut client = authority.connect_by(&[version], server.address, None).await.unwrap();
        assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));
        client.write_all(get("/health").as_bytes()).await.unwrap();
        assert_eq!(rest(client).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_told_what_this_port_speaks() {
    let Secured { authority, server, folder: _folder, .. } = secured(config().limits).await;
    let reply = send(server.address, &get("/health")).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "tls_required"));
    assert_eq!(authority.send(server.address, &get("/health")).await.unwrap().status, 200);
}

/// Two that never finish their handshake take all there is; whoever comes after them is served all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_ends() {
    let limits = EdgeLimits { connections: 2, header_time: Duration::from_millis(500), ..config().limits };
    let Secured { authority, server, folder: _folder, .. } = secured(limits).await;
    let mut silent = connect(server.address, "").await;
    let mut begun = connect(server.address, "").await;
    begun.write_all(&[22, 3, 1, 2]).await.unwrap();
    assert_eq!(authority.send(server.address, &get("/health")).await.unwrap().status, 200);
    for stream in [&mut silent, &mut begun] {
        let ended = timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("the server ends it");
        assert!(!matches!(ended, Ok(read) if read > 0), "{ended:?}");
    }
    let counting = async {
        let counted = "sluice_timeouts_total{kind=\"handshake\"} 2\n";
        while !authority.send(server.address, &get("/metrics")).await.unwrap().body.contains(counted) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, counting).await.expect("both are counted");

    // From then on it is as without TLS.
    let mut silent = authority.connect(server.address, None).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, silent.read_to_string(&mut answer)).await.expect("the server ends it").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("header_timeout"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_in_use_without_a_restart() {
    let Secured { authority, server, tls, folder } = secured(config().limits).await;
    tokio::spawn(tls.follow(server.phase.subscribe()));
    let mut open = authority.connect(server.address, None).await.unwrap();
    let next = Authority::new();
    next.files(folder.path());
    let taking = async {
        while next.send(server.address, &get("/health")).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, taking).await.expect("the new certificate is in use in time");
    assert!(authority.send(server.address, &get("/health")).await.is_err());
    open.write_all(get("/health").as_bytes()).await.unwrap();
    assert_eq!(rest(open).await.status, 200, "a connection keeps what it began with");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_must_show_a_certificate_where_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let client_ca = folder.path().join("clients.pem");
    fs::write(&client_ca, &clients.pem).unwrap();
    let files = TlsFiles { client_ca: Some(client_ca), ..authority.files(folder.path()) };
    let server = Server::behind(config().limits, Gate::open(), Some(Tls::load(files).unwrap())).await;
    for (shown, expected) in [(None, false), (Some(stranger.sign()), false), (Some(clients.sign()), true)] {
        // In TLS 1.3 the client learns of it with the first thing it reads.
        let answered = async {
            let mut stream = authority.connect(server.address, shown.as_ref()).await?;
            stream.write_all(get("/health").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            io::Result::Ok(answer.starts_with("HTTP/1.1 200 "))
        };
        assert_eq!(timeout(PATIENCE, answered).await.unwrap().unwrap_or(false), expected);
    }
}

#[test]
fn what_is_wrong_with_the_files_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = Authority::new().files(folder.path());
    let other = Authority::new().sign();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let nowhere = folder.path().join("nowhere.pem");
    let empty = write("empty.pem", "");
    let other_key = write("other-key.pem", &other.key.serialize_pem());
    let broken = write("broken.pem", "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n");
    let junk = write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let large = write("large.pem", &"#".repeat((1 << 20) + 1));
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = files.clone();
        change(&mut files);
        Tls::load(files).map(|_| ()).map_err(|error: TlsError| error.to_string())
    };
    for (result, named, why) in [
        (with(&|files| files.certificates = nowhere.clone()), &nowhere, "cannot be read"),
        (with(&|files| files.certificates = empty.clone()), &empty, "has no certificate"),
        (with(&|files| files.certificates = broken.clone()), &broken, "is not PEM"),
        (with(&|files| files.certificates = junk.clone()), &junk, "are of no use"),
        (with(&|files| files.key = empty.clone()), &empty, "has no private key"),
        (with(&|files| files.key = other_key.clone()), &other_key, "does not belong to the first certificate"),
        (with(&|files| files.key = large.clone()), &large, "more than 1048576 bytes"),
        (with(&|files| files.client_ca = Some(empty.clone())), &empty, "has no certificate"),
        (with(&|files| files.client_ca = Some(junk.clone())), &junk, "cannot vouch for clients"),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(&named.display().to_string()) && error.contains(why), "{error}");
    }
    assert_eq!(with(&|_| {}), Ok(()));
}
