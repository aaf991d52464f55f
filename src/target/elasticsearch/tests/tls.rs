//! Certificates: an authority of one's own, a client's certificate, and neither.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use super::*;

/// An authority, a node's certificate by it, and files as the rule file names them.
struct Certificates {
    folder: tempfile::TempDir,
    acceptor: TlsAcceptor,
}

impl Certificates {
    /// A server that takes only clients with a certificate of the same authority.
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let sign = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (params.signed_by(&key, &authority).unwrap(), key)
        };
        let folder = tempfile::tempdir().unwrap();
        let (client, client_key) = sign("client");
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        fs::write(folder.path().join("client.pem"), client.pem()).unwrap();
        fs::write(folder.path().join("client.key"), client_key.serialize_pem()).unwrap();

        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let (node, node_key) = sign("127.0.0.1");
        let key = PrivateKeyDer::from_pem_slice(node_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![node.der().clone()], key)
            .unwrap();
        Self { folder, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> Tls {
        let client = Some((self.path("client.pem"), self.path("client.key")));
        Tls { ca: Some(self.path("ca.pem")), client, insecure: false }
    }
}

#[tokio::test]
async fn certificates_of_both_sides_are_used() {
    let certificates = Certificates::new();
    let node = PlayedNode::start_with(Some(certificates.acceptor.clone()), healthy).await;
    let with = |tls| target(&Engine { tls, ..settings(&[&node.url]) });
    let full = certificates.settings();
    let insecure = Tls { ca: None, insecure: true, ..full.clone() };
    for tls in [full.clone(), insecure] {
        let target = with(tls);
        target.prepare().await.unwrap();
        assert_eq!(target.send(&request(&target)).await, Ok(vec![Outcome::Applied]));
    }
    let unknown = with(Tls { ca: None, ..full.clone() }).prepare().await.unwrap_err();
    assert_eq!(unknown.reason, "network");
    assert!(unknown.message.contains("certificate"), "{}", unknown.message);
    with(Tls { client: None, ..full }).prepare().await.unwrap_err();
}

#[test]
fn files_that_can_not_be_used_are_named() {
    let certificates = Certificates::new();
    let good = certificates.settings();
    let refusal = |tls: Tls| {
        let settings = Engine { tls, ..settings(&["https://127.0.0.1"]) };
        EngineTarget::new(&settings, "shop", Duration::ZERO, Vec::new()).unwrap_err()
    };
    let missing = certificates.path("none.pem");
    let error = refusal(Tls { ca: Some(missing.clone()), ..good.clone() });
    assert_eq!(error.to_string(), format!("{} can't be read", missing.display()));

    let key = certificates.path("client.key");
    let error = refusal(Tls { ca: Some(key.clone()), ..good.clone() });
    let words = "does not hold certificates in PEM form";
    assert_eq!(error.to_string(), format!("{} {words}", key.display()));

    let certificate = certificates.path("client.pem");
    let swapped = Some((certificate.clone(), certificate.clone()));
    let error = refusal(Tls { client: swapped, ..good });
    let words = "does not hold a private key without a passphrase in PEM form";
    assert_eq!(error.to_string(), format!("{} {words}", certificate.display()));
}
