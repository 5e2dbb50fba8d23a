//! The engine's way to other people's web servers: POST, once, with a deadline. No redirect is followed, and nothing is
//! sent without TLS but to this machine.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::engine::port::{Post, Posted, Web, WebError};

/// Everything from the name look-up to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: usize = 64 * 1024;

/// Real web servers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outbound;

#[async_trait]
impl Web for Outbound {
    async fn post(&self, post: &Post) -> Result<Posted, WebError> {
        tokio::time::timeout(DEADLINE, send(post)).await.unwrap_or_else(|_| Err(failed(&"no answer within 10 seconds")))
    }
}

fn failed(why: &dyn std::fmt::Display) -> WebError {
    WebError(why.to_string())
}

/// The machine's own authorities, or those of the text alone.
fn tls(authority: &str) -> Result<ClientConfig, WebError> {
    let mut roots = RootCertStore::empty();
    if authority.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
    } else {
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            let certificate = certificate.map_err(|_| failed(&"ca_cert is no PEM"))?;
            roots.add(certificate).map_err(|e| failed(&format!("ca_cert: {e}")))?;
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|e| failed(&e))?.with_root_certificates(roots).with_no_client_auth())
}

async fn send(post: &Post) -> Result<Posted, WebError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls(&post.authority)?);
    let connector = connector.https_or_http().enable_http1().build();
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let mut request = http::Request::post(&post.url).header("content-type", "application/json");
    for (name, value) in &post.headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(post.body.clone()))).map_err(|e| failed(&e))?;
    // What this says names the server at most, never what was sent.
    let answer = client.request(request).await.map_err(|e| {
        let cause = std::error::Error::source(&e).map(ToString::to_string);
        failed(&cause.unwrap_or_else(|| e.to_string()))
    })?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|_| failed(&"its answer broke off or is too long"))?;
    Ok(Posted { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
}
