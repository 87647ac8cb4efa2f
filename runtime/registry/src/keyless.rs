//! Signatures of images without a key of the signer's own ("keyless", sigstore).
//!
//! ```text
//!  authorities ─▶ certificate ─▶ signature ─▶ what was signed
//!                  │  for minutes, for an identity: who, and who vouched for that
//!                  ▼
//!  log's key ─▶ entry in the log: this certificate made this signature of that, when
//! ```
//!
//! The signer's key lives for minutes, and so does its certificate. That the signature was
//! made in these minutes says the transparency log (Rekor), with its own key: its entry
//! names all three, and when it was taken in. The certificate's authority (Fulcio) says
//! whose key it was. All of it lies beside the signature as annotations, and nobody but the
//! registry is asked.
//!
//! Not looked at is the promise of the log of certificates (an SCT in the certificate): the
//! authorities are the operator's to choose, and are believed. What is between an authority
//! and a certificate must be for signatures of code, too, as Fulcio's is.
//!
//! Source: the sigstore project's cosign, specs/SIGNATURE_SPEC.md; fulcio,
//! docs/oid-info.md and docs/certificate-specification.md; rekor, types/hashedrekord.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bulkhead_image::Digest;
use p256::ecdsa::{DerSignature, VerifyingKey, signature::Verifier as _};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring as algorithms};
use x509_cert::{
    Certificate,
    der::{
        Decode as _, Tag, Tagged as _,
        asn1::{AnyRef, ObjectIdentifier},
        referenced::OwnedToRef as _,
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::signature::SigningKey;

const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";
/// Longest chain that comes with a signature.
const CHAIN_MAX: usize = 8;
/// Who vouched for the identity, as a UTF8String; and, in older certificates, bare.
const ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");
const ISSUER_BARE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
/// The extended key usage id-kp-codeSigning (RFC 5280, 4.2.1.12), as DER without its header.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// Whose signatures count, and who is believed.
#[derive(Clone)]
pub struct Keyless {
    authorities: Vec<TrustAnchor<'static>>,
    logs: Vec<SigningKey>,
    identities: Vec<Identity>,
}

impl fmt::Debug for Keyless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Keyless");
        shown
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Who vouches for the subject: the URL of an OpenID Connect provider.
    pub issuer: String,
    /// An e-mail address, or the URI of a workload or a workflow; whole.
    pub subject: String,
}

/// Why a signature does not count.
type Doubt = String;

impl Keyless {
    /// Believes the certificates in a PEM text, and logs with these keys.
    ///
    /// # Errors
    /// There is no certificate in the text, or one that can't be an authority.
    pub fn new(
        authorities: &[u8],
        logs: Vec<SigningKey>,
        identities: Vec<Identity>,
    ) -> Result<Self, String> {
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(authorities) {
            let certificate = certificate.map_err(|error| format!("not in PEM: {error}"))?;
            let anchor = anchor_from_trusted_cert(&certificate)
                .map_err(|error| format!("no certificate of an authority: {error}"))?;
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() {
            return Err("no certificate (\"BEGIN CERTIFICATE\")".to_owned());
        }
        Ok(Self {
            authorities: anchors,
            logs,
            identities,
        })
    }

    /// Whether one of the identities made this signature of `payload`.
    pub(crate) fn accepts(
        &self,
        payload: &[u8],
        signature: &DerSignature,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), Doubt> {
        let annotation = |name: &str| {
            let text = annotations.get(name).map(String::as_str);
            text.ok_or_else(|| format!("it has no annotation {name}"))
        };
        let der = CertificateDer::from_pem_slice(annotation(CERTIFICATE)?.as_bytes())
            .map_err(|_| "its certificate is not in PEM".to_owned())?;
        let entry = logged(annotation(BUNDLE)?, &self.logs)?;
        entry.is_of(payload, signature, &der)?;
        self.vouched(&der, annotation(CHAIN).unwrap_or_default(), entry.time)?;

        let certificate = Certificate::from_der(&der)
            .map_err(|_| "its certificate can't be understood".to_owned())?;
        let (issuer, subjects) = (issuer(&certificate)?, subjects(&certificate)?);
        let is_wanted =
            |identity: &Identity| identity.issuer == issuer && subjects.contains(&identity.subject);
        if !self.identities.iter().any(is_wanted) {
            return Err(format!("{} ({issuer}) signed it", subjects.join(", ")));
        }
        let key = certificate.tbs_certificate.subject_public_key_info;
        VerifyingKey::try_from(key.owned_to_ref())
            .map_err(|_| "its certificate is not for a key of ECDSA over P-256".to_owned())?
            .verify(payload, signature)
            .map_err(|_| "its certificate's key did not sign it".to_owned())
    }

    /// Whether an authority made a certificate, for signatures, that counted at a time.
    fn vouched(&self, der: &CertificateDer<'_>, chain: &str, time: UnixTime) -> Result<(), Doubt> {
        let between: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .take(CHAIN_MAX)
            .collect::<Result<_, _>>()
            .map_err(|_| "the chain of its certificate is not in PEM".to_owned())?;
        let certificate = EndEntityCert::try_from(der)
            .map_err(|error| format!("its certificate can't be understood: {error}"))?;
        let verified = certificate.verify_for_usage(
            &[
                algorithms::ECDSA_P256_SHA256,
                algorithms::ECDSA_P256_SHA384,
                algorithms::ECDSA_P384_SHA256,
                algorithms::ECDSA_P384_SHA384,
            ],
            &self.authorities,
            &between,
            time,
            KeyUsage::required(CODE_SIGNING),
            None,
            None,
        );
        verified
            .map(|_| ())
            .map_err(|error| format!("no authority vouches for its certificate: {error}"))
    }
}

/// What lies beside a signature of its log.
#[derive(Deserialize)]
struct Bundle {
    /// The log's signature.
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    payload: Logged,
}

/// What the log signs: this, as JSON without spaces, its names sorted (RFC 8785).
#[derive(Deserialize, Serialize)]
struct Logged {
    body: String,
    #[serde(rename = "integratedTime")]
    time: u64,
    #[serde(rename = "logID")]
    id: String,
    #[serde(rename = "logIndex")]
    index: u64,
}

#[derive(Deserialize)]
struct Record {
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    data: Data,
    signature: Signature,
}

#[derive(Deserialize)]
struct Data {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

#[derive(Deserialize)]
struct Signature {
    content: String,
    #[serde(rename = "publicKey")]
    public_key: PublicKey,
}

#[derive(Deserialize)]
struct PublicKey {
    content: String,
}

/// An entry that the log has taken in.
struct Entry {
    record: Record,
    time: UnixTime,
}

fn logged(bundle: &str, logs: &[SigningKey]) -> Result<Entry, Doubt> {
    let wrong = || "its entry in the log can't be understood".to_owned();
    let Bundle { promise, payload } = serde_json::from_str(bundle).map_err(|_| wrong())?;
    let promise = STANDARD.decode(promise).map_err(|_| wrong())?;
    let promise = DerSignature::try_from(&promise[..]).map_err(|_| wrong())?;
    let signed = serde_json::to_vec(&payload).map_err(|_| wrong())?;
    if !logs.iter().any(|log| log.signed(&signed, &promise)) {
        return Err("its entry is not of a log that is believed".to_owned());
    }
    let record = STANDARD.decode(&payload.body).map_err(|_| wrong())?;
    Ok(Entry {
        record: serde_json::from_slice(&record).map_err(|_| wrong())?,
        time: UnixTime::since_unix_epoch(Duration::from_secs(payload.time)),
    })
}

impl Entry {
    /// Whether it is of this signature, by this certificate, of this text.
    fn is_of(
        &self,
        payload: &[u8],
        signature: &DerSignature,
        certificate: &CertificateDer<'_>,
    ) -> Result<(), Doubt> {
        let Spec {
            data,
            signature: logged,
        } = &self.record.spec;
        let its_signature = STANDARD.decode(&logged.content);
        let its_certificate = STANDARD.decode(&logged.public_key.content).ok();
        let its_certificate =
            its_certificate.and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
        let is_it = self.record.kind == "hashedrekord"
            && data.hash.algorithm == "sha256"
            && data.hash.value == Digest::of(payload).hex()
            && its_signature.is_ok_and(|its| its == signature.as_bytes())
            && its_certificate.is_some_and(|its| its == *certificate);
        match is_it {
            true => Ok(()),
            false => Err("its entry in the log is of something else".to_owned()),
        }
    }
}

/// Who vouched for the certificate's subject.
fn issuer(certificate: &Certificate) -> Result<String, Doubt> {
    let value = |id| {
        let all = certificate.tbs_certificate.extensions.iter().flatten();
        all.clone()
            .find(|extension| extension.extn_id == id)
            .map(|extension| extension.extn_value.as_bytes())
    };
    let text = match (value(ISSUER), value(ISSUER_BARE)) {
        (Some(der), _) => AnyRef::from_der(der)
            .ok()
            .filter(|any| any.tag() == Tag::Utf8String)
            .map(|any| any.value().to_vec()),
        (None, Some(bare)) => Some(bare.to_vec()),
        (None, None) => None,
    };
    text.and_then(|text| String::from_utf8(text).ok())
        .ok_or_else(|| "its certificate does not say who vouched for its subject".to_owned())
}

/// Who the certificate is for.
fn subjects(certificate: &Certificate) -> Result<Vec<String>, Doubt> {
    let names = certificate
        .tbs_certificate
        .get::<SubjectAltName>()
        .map_err(|_| "the names in its certificate can't be understood".to_owned())?;
    let names = names.map(|(_, names)| names.0).unwrap_or_default();
    let name = |name: &GeneralName| match name {
        GeneralName::Rfc822Name(address) => Some(address.as_str().to_owned()),
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_owned()),
        _ => None,
    };
    let names: Vec<_> = names.iter().filter_map(name).collect();
    match names.is_empty() {
        false => Ok(names),
        true => Err("its certificate is for nobody".to_owned()),
    }
}

/// What is read before anything is believed, and an entry as if its log were.
pub(crate) fn fuzz(input: &[u8]) {
    if let Ok(bundle) = serde_json::from_slice::<Bundle>(input) {
        // It is signed in this form; and the form is the same again.
        let signed = serde_json::to_vec(&bundle.payload).unwrap_or_default();
        let again: Option<Logged> = serde_json::from_slice(&signed).ok();
        assert!(again.is_some_and(|it| serde_json::to_vec(&it).is_ok_and(|it| it == signed)));
    }
    let _ = serde_json::from_slice::<Record>(input);
    let _ = CertificateDer::pem_slice_iter(input)
        .take(CHAIN_MAX)
        .count();
    let _ = EndEntityCert::try_from(&CertificateDer::from(input));
    if let Ok(certificate) = Certificate::from_der(input) {
        let _ = (issuer(&certificate), subjects(&certificate));
    }
}

#[cfg(test)]
mod tests;
