//! The same over a real network and the real clock, where only what cannot be otherwise is checked.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fake::{Fake, Stream};
use super::run::{check, number, parse};
use crate::bench::bench;
use crate::caller::Caller;
use crate::error::BenchError;
use crate::plan::Plan;
use crate::tls;

/// Where a fake server listens, behind TLS if it is given an acceptor.
async fn listen(fake: &Fake, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fake = fake.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (fake, tls) = (fake.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => fake.serve(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            fake.serve(stream).await;
                        }
                    }
                }
            });
        }
    });
    port
}

async fn report(folder: &Path, arguments: &str) -> Result<Value, BenchError> {
    let file = folder.join("report.json");
    let arguments = format!("--endpoint completions --no-progress --output {} {arguments}", file.display());
    let arguments = parse(&arguments).unwrap();
    let plan = Plan::of(&arguments, None)?;
    let connector = tls::connector(plan.ca_cert.as_deref())?;
    let caller = Arc::new(Caller::new(connector, plan.urls.clone(), plan.headers.clone()));
    bench(&arguments, plan, &caller, pin!(std::future::pending())).await?;
    Ok(serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_over_tcp() {
    let fake = Fake::new(|_, body| Stream::of(20, 5, 20).steps(body));
    let port = listen(&fake, None).await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = "--max-concurrency 64 --num-requests 256 --goodput ttft:20 tpot:4.9";
    let report = report(folder.path(), &format!("--base-url http://127.0.0.1:{port}/v1 {arguments}")).await.unwrap();
    check(&report, &[("totals.completed", 256.0), ("totals.output_tokens", 5120.0), ("totals.peak_concurrency", 64.0)]);
    assert!(number(&report, "latency.ttft_ms.min") >= 20.0);
    assert!(number(&report, "latency.e2el_ms.min") >= 20.0 + 19.0 * 5.0);
    assert_eq!(report["goodput"]["within"], 0, "no token comes faster than it is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_a_certificate_that_is_trusted_and_with_none() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let fake = Fake::new(|_, body| Stream::of(1, 1, 3).steps(body));
    let port = listen(&fake, Some(TlsAcceptor::from(Arc::new(config)))).await;

    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("trusted.pem");
    std::fs::write(&trusted, cert.pem()).unwrap();
    let url = format!("--base-url https://localhost:{port} --num-requests 5");
    let all = report(folder.path(), &format!("{url} --ca-cert {}", trusted.display())).await.unwrap();
    check(&all, &[("totals.completed", 5.0)]);

    let error = report(folder.path(), &url).await.unwrap_err().to_string();
    assert!(error.contains("no connection") && error.contains("certificate"), "{error}");
    std::fs::write(&trusted, "no certificate").unwrap();
    let error = report(folder.path(), &format!("{url} --ca-cert {}", trusted.display())).await.unwrap_err();
    assert!(matches!(error, BenchError::NoCertificate(_)) && error.is_usage(), "{error}");
}
