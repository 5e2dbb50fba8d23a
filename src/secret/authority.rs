//! A certificate authority: read from PEM, and used to sign client certificates.
//!
//! The structures are written here rather than by a library that models names: what a certificate says of its issuer
//! must be the very bytes of the authority's own subject, whatever attributes and string types are in it.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;
use x509_parser::public_key::PublicKey;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, Tag, construct_der};

use super::key::{self, Curve, Hash, KeyError, PrivateKey, SignatureKind};
use crate::secret::{Secret, password};

/// Certificates begin this long before they are made: the server's clock may be behind. The built-in engine's figure.
const SKEW: Duration = Duration::from_secs(30);

/// The longest common name (`ub-common-name`, RFC 5280), in characters.
const LONGEST_COMMON_NAME: usize = 64;

/// Why a certificate and a key are no authority. The texts are the built-in engine's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is text where a PEM block should be.
    #[error("no data found in PEM block")]
    NoPem,
    /// More than one private key.
    #[error("more than one private key given; provide only one private key in the bundle")]
    TwoKeys,
    /// The key is not that of the certificate.
    #[error("verification of parsed bundle failed: public key of certificate does not match private key")]
    OtherKey,
    /// A further certificate, by its position, is no authority.
    #[error(
        "verification of parsed bundle failed: certificate {0} of certificate chain is not a certificate authority"
    )]
    ChainEnd(usize),
    /// A further certificate, by its position, is not the one that signed the one before.
    #[error(
        "verification of parsed bundle failed: certificate {place} of certificate chain ca trust path is incorrect \
         ({below:?}/{above:?}) ({wanted}/{found})"
    )]
    ChainBroken {
        /// Its position.
        place: usize,
        /// Common name of the certificate before it.
        below: String,
        /// Its own.
        above: String,
        /// The key that signed the one before, by its identifier.
        wanted: String,
        /// The identifier of its key.
        found: String,
    },
    /// No private key.
    #[error("private key not found in the PEM bundle")]
    NoKey,
    /// The certificate's key is of a kind that we cannot use.
    #[error("the key of ca_cert is not supported: RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 are")]
    UnsupportedKey,
    /// No certificate.
    #[error("certificate not found in the PEM bundle")]
    NoCertificate,
    /// The certificate is none of an authority.
    #[error("the given certificate is not marked for CA use")]
    NoAuthority,
    /// The certificate's key must not sign certificates.
    #[error("the given certificate may not sign certificates: its key usage lacks keyCertSign")]
    KeyUsage,
    /// The key is where it would be shown.
    #[error("ca_cert holds a private key, which belongs in ca_private_key")]
    KeyInCertificate,
}

/// Why a certificate was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// No name, or one that no certificate may hold.
    #[error("the common name has {0} characters, or control characters among them: it takes 1 to 64")]
    CommonName(usize),
    /// The authority's own certificate ends first, and with it every certificate that it signed.
    #[error("the certificate of the CA ends at {0}, before the lease would")]
    Authority(Timestamp),
    /// A time that no certificate can hold.
    #[error("the time lies outside any calendar")]
    Time,
    /// The library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No random serial number.
    #[error(transparent)]
    NoRandomness(#[from] password::NoRandomness),
}

/// A certificate authority that can sign.
#[derive(Debug)]
pub struct Authority {
    /// The whole `Name`, DER.
    subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    not_after: SystemTime,
    key: PrivateKey,
    hash: Hash,
}

/// A certificate to issue.
#[derive(Debug)]
pub struct Leaf<'a> {
    /// `CN`, the whole of the subject.
    pub common_name: &'a str,
    /// Whose public half is certified.
    pub key: &'a PrivateKey,
    /// When it is issued.
    pub now: SystemTime,
    /// Its end. Fractions of a second are cut off.
    pub not_after: SystemTime,
}

impl Authority {
    /// Reads certificate and key. As in the built-in engine both texts are one bundle of PEM blocks, whose first
    /// certificate is the authority's; others may follow, each the issuer of the one before. `hash` is for RSA keys.
    ///
    /// # Errors
    /// In the order of [`AuthorityError`]. No text of either input is in them, but for common names.
    pub fn read(certificate: &str, private_key: &Secret, hash: Hash) -> Result<Self, AuthorityError> {
        let mut keys = Vec::new();
        let mut certificates = Vec::new();
        let mut key_in_certificate = certificate.contains("PRIVATE KEY-----");
        // Text between blocks is skipped, text after the last one is an error: so the two are read as one.
        let bundle = Secret::new(format!("{certificate}\n{}", private_key.expose()));
        let mut rest = bundle.expose().trim().as_bytes();
        let whole = rest.len();
        let leading = bundle.expose().len() - bundle.expose().trim_start().len();
        while !rest.is_empty() {
            let (after, block) = parse_x509_pem(rest).map_err(|_| AuthorityError::NoPem)?;
            rest = after;
            let contents = zeroize::Zeroizing::new(block.contents);
            if let Some(key) = PrivateKey::read(&contents) {
                if !keys.is_empty() {
                    return Err(AuthorityError::TwoKeys);
                }
                keys.push(key);
                let end = leading + whole - rest.len();
                key_in_certificate |= end <= certificate.len() + 1;
            } else if x509_parser::parse_x509_certificate(&contents).is_ok() {
                certificates.push(contents);
            }
        }
        let parsed: Vec<X509Certificate<'_>> = certificates
            .iter()
            .filter_map(|der| x509_parser::parse_x509_certificate(der).ok())
            .map(|(_, certificate)| certificate)
            .collect();
        let fits = |key: &PrivateKey, own: &X509Certificate<'_>| {
            own.public_key().subject_public_key.data.as_ref() == key.public_bits()
        };
        if keys.first().zip(parsed.first()).is_some_and(|(key, own)| !fits(key, own)) {
            return Err(AuthorityError::OtherKey);
        }
        chain(&parsed)?;
        let (key, own) = match (keys.pop(), parsed.first()) {
            (Some(key), Some(own)) => (key, own),
            (None, Some(own)) if !supported(own) => return Err(AuthorityError::UnsupportedKey),
            (None, _) => return Err(AuthorityError::NoKey),
            (_, None) => return Err(AuthorityError::NoCertificate),
        };
        if !own.is_ca() {
            return Err(AuthorityError::NoAuthority);
        }
        if own.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(AuthorityError::KeyUsage);
        }
        if key_in_certificate {
            return Err(AuthorityError::KeyInCertificate);
        }
        let not_after = u64::try_from(own.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            subject: own.subject().as_raw().to_vec(),
            key_identifier: subject_key(own).map(<[u8]>::to_vec),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after),
            key,
            hash,
        })
    }

    /// Signs a certificate for the use by a TLS client, and for nothing else. PEM.
    ///
    /// # Errors
    /// [`IssueError`]: the name or the time is wrong, or the authority itself ends before the certificate would.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Result<String, IssueError> {
        let characters = leaf.common_name.chars().count();
        if !(1..=LONGEST_COMMON_NAME).contains(&characters) || leaf.common_name.chars().any(char::is_control) {
            return Err(IssueError::CommonName(characters));
        }
        if leaf.not_after > self.not_after {
            return Err(IssueError::Authority(Timestamp::try_from(self.not_after).map_err(|_| IssueError::Time)?));
        }
        let not_before = time(leaf.now.checked_sub(SKEW).ok_or(IssueError::Time)?)?;
        let not_after = time(leaf.not_after)?;
        let public = leaf.key.public_der()?;
        let mut serial = *password::bytes::<16>()?;
        // Positive, and never cut by a zero in front.
        serial[0] = serial[0] & 0x7f | 0x40;
        let kind = self.key.signature_kind(self.hash);

        let body = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_bigint_bytes(&serial, true);
                algorithm(writer.next(), kind);
                writer.next().write_der(&self.subject);
                writer.next().write_sequence(|writer| {
                    for (tag, text) in [&not_before, &not_after] {
                        writer.next().write_tagged_implicit(*tag, |writer| writer.write_bytes(text.as_bytes()));
                    }
                });
                subject(writer.next(), leaf.common_name);
                writer.next().write_der(&public);
                writer.next().write_tagged(Tag::context(3), |writer| self.extensions(writer, leaf.key));
            });
        });
        let signature = self.key.sign(self.hash, &body)?;
        let der = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                algorithm(writer.next(), kind);
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(key::pem("CERTIFICATE", &der))
    }

    fn extensions(&self, writer: DERWriter<'_>, key: &PrivateKey) {
        const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
        const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
        const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
        const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
        const SUBJECT_KEY: &[u64] = &[2, 5, 29, 14];
        const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
        let digest = Sha256::digest(key.public_bits());
        let mut all = vec![
            // No authority: the flag's default is false, and left out.
            (BASIC_CONSTRAINTS, true, construct_der(|writer| writer.write_sequence(|_| ()))),
            // Bit 0: digitalSignature.
            (KEY_USAGE, true, construct_der(|writer| writer.write_bitvec_bytes(&[0x80], 1))),
            (
                EXTENDED_KEY_USAGE,
                false,
                construct_der(|writer| {
                    writer.write_sequence(|writer| {
                        writer.next().write_oid(&ObjectIdentifier::from_slice(CLIENT_AUTH));
                    });
                }),
            ),
            (SUBJECT_KEY, false, construct_der(|writer| writer.write_bytes(&digest[..20]))),
        ];
        if let Some(identifier) = &self.key_identifier {
            let value = construct_der(|writer| {
                writer.write_sequence(|writer| {
                    writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(identifier));
                });
            });
            all.push((AUTHORITY_KEY, false, value));
        }
        writer.write_sequence(|writer| {
            for (oid, critical, value) in all {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
                    if critical {
                        writer.next().write_bool(true);
                    }
                    writer.next().write_bytes(&value);
                });
            }
        });
    }
}

/// `CN=name`.
fn subject(writer: DERWriter<'_>, common_name: &str) {
    const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
    writer.write_sequence(|writer| {
        writer.next().write_set(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(COMMON_NAME));
                writer.next().write_utf8_string(common_name);
            });
        });
    });
}

/// The `AlgorithmIdentifier` of a signature (RFC 4055, 5758, 8410).
fn algorithm(writer: DERWriter<'_>, kind: SignatureKind) {
    let oid: &[u64] = match kind {
        SignatureKind::Rsa(Hash::Sha256) => &[1, 2, 840, 113_549, 1, 1, 11],
        SignatureKind::Rsa(Hash::Sha384) => &[1, 2, 840, 113_549, 1, 1, 12],
        SignatureKind::Rsa(Hash::Sha512) => &[1, 2, 840, 113_549, 1, 1, 13],
        SignatureKind::Ec(Curve::P256) => &[1, 2, 840, 10045, 4, 3, 2],
        SignatureKind::Ec(Curve::P384) => &[1, 2, 840, 10045, 4, 3, 3],
        SignatureKind::Ec(Curve::P521) => &[1, 2, 840, 10045, 4, 3, 4],
        SignatureKind::Ed25519 => &[1, 3, 101, 112],
    };
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if matches!(kind, SignatureKind::Rsa(_)) {
            writer.next().write_null();
        }
    });
}

/// A `Time`: two digits of the year until 2049, four from then on.
fn time(at: SystemTime) -> Result<(Tag, String), IssueError> {
    let at = Timestamp::try_from(at).map_err(|_| IssueError::Time)?;
    let year = at.to_zoned(jiff::tz::TimeZone::UTC).year();
    match year {
        1950..2050 => Ok((TAG_UTCTIME, at.strftime("%y%m%d%H%M%SZ").to_string())),
        2050..=9999 => Ok((TAG_GENERALIZEDTIME, at.strftime("%Y%m%d%H%M%SZ").to_string())),
        _ => Err(IssueError::Time),
    }
}

/// Each certificate after the first must be the authority of the one before.
fn chain(certificates: &[X509Certificate<'_>]) -> Result<(), AuthorityError> {
    for (index, pair) in certificates.windows(2).enumerate() {
        let [below, above] = pair else { continue };
        if !above.is_ca() {
            return Err(AuthorityError::ChainEnd(index + 1));
        }
        let (wanted, found) = (authority_key(below), subject_key(above));
        if wanted.unwrap_or_default() != found.unwrap_or_default() {
            return Err(AuthorityError::ChainBroken {
                place: index + 1,
                below: common_name(below),
                above: common_name(above),
                wanted: hex(wanted),
                found: hex(found),
            });
        }
    }
    Ok(())
}

/// True if [`PrivateKey::read`] takes keys of the certificate's kind.
fn supported(certificate: &X509Certificate<'_>) -> bool {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => (2048..=8192).contains(&key.key_size()),
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384 | 521 | 528),
        Ok(PublicKey::Unknown(_)) => true,
        _ => false,
    }
}

fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => Some(identifier.key_identifier.as_ref()?.0),
        _ => None,
    })
}

fn common_name(certificate: &X509Certificate<'_>) -> String {
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.unwrap_or_default().to_owned()
}

fn hex(bytes: Option<&[u8]>) -> String {
    bytes.unwrap_or_default().iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests;
