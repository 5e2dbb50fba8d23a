//! Authorities made by another library, and certificates read and verified by a third.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyUsagePurpose};
use x509_parser::pem::Pem;

use super::*;
use crate::secret::key::KeyKind;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

/// Certificate and key of an authority, PEM.
fn authority(change: impl FnOnce(&mut CertificateParams)) -> (String, Secret) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::OrganizationName, "Beispiel AG");
    params.distinguished_name.push(DnType::CommonName, "unit authority");
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), Secret::new(key.serialize_pem()))
}

fn read(pair: &(String, Secret)) -> Result<Authority, AuthorityError> {
    Authority::read(&pair.0, &pair.1, Hash::Sha256)
}

fn leaf<'a>(key: &'a PrivateKey, common_name: &'a str) -> Leaf<'a> {
    Leaf { common_name, key, now: now(), not_after: now() + Duration::from_secs(65) }
}

fn block(pem: &str) -> Pem {
    Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap()
}

#[test]
fn a_certificate_says_what_it_should() {
    let pair = authority(|_| ());
    let authority = read(&pair).unwrap();
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    let pem = authority.issue(&leaf(&key, "v-token-ö")).unwrap();
    let (block, ca) = (block(&pem), block(&pair.0));
    let (certificate, ca) = (block.parse_x509().unwrap(), ca.parse_x509().unwrap());
    assert_eq!(certificate.issuer().as_raw(), ca.subject().as_raw());
    assert_eq!(certificate.subject().to_string(), "CN=v-token-ö");
    assert_eq!(certificate.public_key().raw, key.public_der().unwrap());
    assert_eq!(certificate.validity().not_before.timestamp(), 1_800_000_000 - 30);
    assert_eq!(certificate.validity().not_after.timestamp(), 1_800_000_065);
    assert!(!certificate.is_ca() && certificate.basic_constraints().unwrap().unwrap().critical);
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any && purposes.other.is_empty());
    assert_eq!(authority_key(&certificate), subject_key(&ca));
    assert!(!certificate.raw_serial().is_empty() && certificate.raw_serial()[0] & 0x80 == 0);

    let other = authority.issue(&leaf(&key, "v-token-ö")).unwrap();
    assert_ne!(super::tests::block(&other).parse_x509().unwrap().serial, certificate.serial);
}

/// Every kind of authority signs every kind of key so that the library of the host's own TLS accepts it.
#[test]
fn certificates_verify_whatever_signs_them() {
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    for kind in [KeyKind::Rsa2048, KeyKind::Ec(Curve::P256), KeyKind::Ec(Curve::P384), KeyKind::Ed25519] {
        for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let ca_key = PrivateKey::generate(kind).unwrap().pkcs8_pem().unwrap();
            let signer = rcgen::KeyPair::from_pem(ca_key.expose()).unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let ca = params.self_signed(&signer).unwrap();
            let authority = Authority::read(&ca.pem(), &ca_key, hash).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(std::sync::Arc::new(roots), provider).build().unwrap();
            for leaf_kind in [KeyKind::Ec(Curve::P521), KeyKind::Ed25519] {
                let key = PrivateKey::generate(leaf_kind).unwrap();
                let der = CertificateDer::from(block(&authority.issue(&leaf(&key, "u")).unwrap()).contents);
                let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
                let verified = |when| verifier.verify_client_cert(&der, &[], when);
                assert!(verified(at(1_800_000_000)).is_ok(), "{kind:?} {hash:?} {leaf_kind:?}");
                assert!(verified(at(1_800_000_066)).is_err(), "ended");
                assert!(verified(at(1_799_999_000)).is_err(), "not begun");
            }
        }
    }
}

#[test]
fn the_issuer_is_copied_byte_for_byte() {
    // Two attributes of one kind, which maps of names lose.
    let name = construct_der(|writer| {
        writer.write_sequence(|writer| {
            for part in ["example", "com"] {
                writer.next().write_set(|writer| {
                    writer.next().write_sequence(|writer| {
                        let dc = [0, 9, 2342, 19_200_300, 100, 1, 25];
                        writer.next().write_oid(&ObjectIdentifier::from_slice(&dc));
                        writer.next().write_ia5_string(part);
                    });
                });
            }
        });
    });
    let mut authority = read(&authority(|_| ())).unwrap();
    authority.subject.clone_from(&name);
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    let block = block(&authority.issue(&leaf(&key, "u")).unwrap());
    assert_eq!(block.parse_x509().unwrap().issuer().as_raw(), name);
}

#[test]
fn what_is_no_authority_is_refused() {
    let good = authority(|_| ());
    assert!(read(&good).is_ok());
    let refused = |certificate: &str, key: &str| {
        Authority::read(certificate, &Secret::new(key.to_owned()), Hash::Sha256).unwrap_err()
    };
    let (ca, key) = (good.0.as_str(), good.1.expose());
    let other = authority(|_| ());
    assert_eq!(refused(ca, other.1.expose()), AuthorityError::OtherKey);
    assert!(matches!(refused(ca, ca), AuthorityError::ChainBroken { place: 1, .. }));
    assert_eq!(refused(ca, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), AuthorityError::NoKey);
    assert_eq!(refused(key, ca), AuthorityError::KeyInCertificate);
    assert_eq!(
        refused(&format!("{ca}{key}"), ca),
        AuthorityError::ChainBroken {
            place: 1,
            below: "unit authority".into(),
            above: "unit authority".into(),
            wanted: String::new(),
            found: hex(subject_key(&block(ca).parse_x509().unwrap())),
        }
    );
    assert_eq!(refused("", key), AuthorityError::NoCertificate);
    assert_eq!(refused(ca, "nonsense"), AuthorityError::NoPem);
    assert_eq!(refused(ca, &format!("{key}{key}")), AuthorityError::TwoKeys);
    assert_eq!(read(&authority(|params| params.is_ca = IsCa::ExplicitNoCa)).unwrap_err(), AuthorityError::NoAuthority);
    let usage = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(read(&authority(usage)).unwrap_err(), AuthorityError::KeyUsage);
    assert!(Authority::read(&format!("{ca}text\n"), &good.1, Hash::Sha256).is_ok(), "text between blocks");
    // An extension that nobody knows is no obstacle: it is not ours to honour.
    let known = |params: &mut CertificateParams| {
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![4, 0])];
    };
    assert!(read(&authority(known)).is_ok());
}

#[test]
fn an_authority_that_ends_first_signs_nothing() {
    let ends = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2027, 1, 16);
    let authority = read(&authority(ends)).unwrap();
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    assert!(authority.issue(&leaf(&key, "u")).is_ok());
    let late = Leaf { not_after: now() + Duration::from_secs(86_400 * 2), ..leaf(&key, "u") };
    let why = authority.issue(&late).unwrap_err().to_string();
    assert_eq!(why, "the certificate of the CA ends at 2027-01-16T00:00:00Z, before the lease would");
}

#[test]
fn names_and_times_that_no_certificate_holds() {
    let authority = read(&authority(|_| ())).unwrap();
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    for bad in ["", "a\0b", "a\nb", "a\u{85}b", &"x".repeat(65)] {
        assert!(matches!(authority.issue(&leaf(&key, bad)), Err(IssueError::CommonName(_))), "{bad:?}");
    }
    assert!(authority.issue(&leaf(&key, &"ö".repeat(64))).is_ok());
    let y2050 = SystemTime::UNIX_EPOCH + Duration::from_secs(2_524_608_000);
    assert_eq!(time(y2050).unwrap(), (TAG_GENERALIZEDTIME, "20500101000000Z".into()));
    assert_eq!(time(y2050 - Duration::from_millis(1)).unwrap(), (TAG_UTCTIME, "491231235959Z".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One byte of a good bundle changed: an answer, never a panic.
    #[test]
    fn a_damaged_authority_is_read_or_refused(at in any::<prop::sample::Index>(), to in any::<u8>(), raw in any::<bool>()) {
        let pair = authority(|_| ());
        let certificate = if raw {
            let mut der = block(&pair.0).contents;
            let at = at.index(der.len());
            der[at] = to;
            key::pem("CERTIFICATE", &der)
        } else {
            let mut text = pair.0.clone().into_bytes();
            let at = at.index(text.len());
            text[at] = to & 0x7f;
            String::from_utf8(text).unwrap()
        };
        if let Ok(authority) = Authority::read(&certificate, &pair.1, Hash::Sha256) {
            let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
            let _ = authority.issue(&leaf(&key, "u"));
        }
    }
}
