//! A signature that counts, and each thing about it that may be wrong.

use p256::{
    ecdsa::{SigningKey as Private, signature::Signer as _},
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, date_time_ymd,
};
use serde_json::json;

use super::*;

const PAYLOAD: &[u8] = b"what is signed";
const WHO: &str = "builder@team.example";
const VOUCHER: &str = "https://issuer.example";
/// 2026-01-15, the middle of the certificates' time.
const NOW: u64 = 1_768_435_200;

/// All that goes into a signature; tests change one thing each.
struct Signing {
    signer: Private,
    signs: Private,
    authority: Private,
    log: Private,
    subject: Option<SanType>,
    issuer: Vec<CustomExtension>,
    usage: ExtendedKeyUsagePurpose,
    time: u64,
    kind: &'static str,
    algorithm: &'static str,
    logged: Vec<u8>,
    promised: bool,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            signer: key(1),
            signs: key(1),
            authority: key(2),
            log: key(3),
            subject: Some(SanType::Rfc822Name(WHO.try_into().unwrap())),
            issuer: vec![voucher(VOUCHER)],
            usage: ExtendedKeyUsagePurpose::CodeSigning,
            time: NOW,
            kind: "hashedrekord",
            algorithm: "sha256",
            logged: PAYLOAD.to_vec(),
            promised: true,
        }
    }
}

fn key(byte: u8) -> Private {
    Private::from_slice(&[byte; 32]).unwrap()
}

fn pair(key: &Private) -> KeyPair {
    KeyPair::from_pem(&key.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap()
}

fn public(key: &Private) -> SigningKey {
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF);
    SigningKey::parse(&pem.unwrap()).unwrap()
}

/// The extension that says who vouched: a UTF8String.
fn voucher(text: &str) -> CustomExtension {
    let length = u8::try_from(text.len()).unwrap();
    let der = [&[0x0c, length], text.as_bytes()].concat();
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], der)
}

fn within(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2026, 1, 31);
    params
}

/// An authority's certificate.
fn authority(key: &Private) -> (CertificateParams, String) {
    let mut params = within(CertificateParams::new(Vec::<String>::new()).unwrap());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&pair(key)).unwrap();
    (params, certificate.pem())
}

fn signed_by(key: &Private, text: &[u8]) -> DerSignature {
    key.sign(text)
}

impl Signing {
    fn certificate(&self) -> String {
        let mut params = within(CertificateParams::new(Vec::<String>::new()).unwrap());
        params.extended_key_usages = vec![self.usage.clone()];
        params.subject_alt_names = self.subject.clone().into_iter().collect();
        params.custom_extensions = self.issuer.clone();
        let issuer = Issuer::new(authority(&self.authority).0, pair(&self.authority));
        params
            .signed_by(&pair(&self.signer), &issuer)
            .unwrap()
            .pem()
    }

    /// The signature, and what lies beside it.
    fn made(&self) -> (DerSignature, BTreeMap<String, String>) {
        let signature = signed_by(&self.signs, PAYLOAD);
        let certificate = self.certificate();
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": self.kind,
            "spec": {
                "data": { "hash": {
                    "algorithm": self.algorithm, "value": Digest::of(&self.logged).hex(),
                } },
                "signature": {
                    "content": STANDARD.encode(signature.as_bytes()),
                    "publicKey": { "content": STANDARD.encode(&certificate) },
                },
            },
        });
        let body = STANDARD.encode(body.to_string());
        let (time, id) = (self.time, "c0d2");
        // As the log writes it, letter by letter.
        let signed =
            format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{id}","logIndex":7}}"#);
        let promised = match self.promised {
            true => signed.clone(),
            false => signed.replace("\"logIndex\":7", "\"logIndex\":8"),
        };
        let promise = signed_by(&self.log, promised.as_bytes());
        let promise = STANDARD.encode(promise.as_bytes());
        let bundle = format!(r#"{{"SignedEntryTimestamp":"{promise}","Payload":{signed}}}"#);
        let annotations = [(CERTIFICATE, certificate), (BUNDLE, bundle)];
        let annotations = annotations.map(|(name, text)| (name.to_owned(), text));
        (signature, annotations.into())
    }

    fn accepted(&self) -> Result<(), Doubt> {
        let (signature, annotations) = self.made();
        trusted().accepts(PAYLOAD, &signature, &annotations)
    }
}

/// The authority of key 2 and the log of key 3, about one identity.
fn trusted() -> Keyless {
    let identity = Identity {
        issuer: VOUCHER.to_owned(),
        subject: WHO.to_owned(),
    };
    let (_, pem) = authority(&key(2));
    Keyless::new(pem.as_bytes(), vec![public(&key(3))], vec![identity]).unwrap()
}

#[test]
fn a_signature_of_the_identity_counts() {
    Signing::default().accepted().unwrap();
}

#[test]
fn older_certificates_say_who_vouched_without_a_type() {
    let bare = |text: &str| {
        let id = &[1, 3, 6, 1, 4, 1, 57264, 1, 1];
        CustomExtension::from_oid_content(id, text.as_bytes().to_vec())
    };
    let signing = |issuer| Signing {
        issuer,
        ..Signing::default()
    };
    signing(vec![bare(VOUCHER)]).accepted().unwrap();
    // The newer form counts where there are both.
    let both = signing(vec![bare(VOUCHER), voucher("https://other.example")]);
    assert!(both.accepted().unwrap_err().contains("other.example"));
}

#[test]
fn workflows_are_identities_too() {
    let uri = "https://forge.example/team/app/build.yml@refs/heads/main";
    let signing = Signing {
        subject: Some(SanType::URI(uri.try_into().unwrap())),
        ..Signing::default()
    };
    let why = signing.accepted().unwrap_err();
    assert!(why.contains(uri) && why.contains(VOUCHER), "{why}");
    let (signature, annotations) = signing.made();
    let mut trusted = trusted();
    trusted.identities[0].subject = uri.to_owned();
    trusted.accepts(PAYLOAD, &signature, &annotations).unwrap();
    // All of it, not a part.
    trusted.identities[0].subject = "https://forge.example/team".to_owned();
    let why = trusted.accepts(PAYLOAD, &signature, &annotations);
    assert!(why.unwrap_err().contains("signed it"));
}

#[test]
fn what_is_wrong_with_a_signature_is_noticed() {
    type Change = fn(&mut Signing);
    let changes: [(Change, &str); 13] = [
        (|it| it.signs = key(9), "key did not sign it"),
        (|it| it.authority = key(9), "no authority vouches"),
        (|it| it.log = key(9), "not of a log that is believed"),
        (|it| it.promised = false, "not of a log that is believed"),
        (|it| it.logged = b"other".to_vec(), "of something else"),
        (|it| it.kind = "intoto", "of something else"),
        (|it| it.algorithm = "sha512", "of something else"),
        (|it| it.time = NOW + 30 * 86_400, "no authority vouches"),
        (|it| it.time = NOW - 30 * 86_400, "no authority vouches"),
        (
            |it| it.usage = ExtendedKeyUsagePurpose::ServerAuth,
            "no authority vouches",
        ),
        (
            |it| {
                it.subject = Some(SanType::Rfc822Name(
                    "mallory@team.example".try_into().unwrap(),
                ))
            },
            "mallory@team.example",
        ),
        (|it| it.subject = None, "for nobody"),
        (|it| it.issuer.clear(), "who vouched"),
    ];
    for (number, (change, words)) in changes.into_iter().enumerate() {
        let mut signing = Signing::default();
        change(&mut signing);
        let why = signing.accepted().unwrap_err();
        assert!(why.contains(words), "{number}: {why}");
    }
    // Names that anyone may have in a certificate are not who it is for.
    let signing = Signing {
        subject: Some(SanType::DnsName(WHO.replace('@', ".").try_into().unwrap())),
        ..Signing::default()
    };
    assert!(signing.accepted().unwrap_err().contains("for nobody"));
}

#[test]
fn an_entry_of_another_signature_does_not_count() {
    let (_, annotations) = Signing::default().made();
    // ECDSA may sign one text in more than one way.
    let other = Signing {
        signer: key(4),
        signs: key(4),
        ..Signing::default()
    };
    let (signature, others) = other.made();
    let why = trusted().accepts(PAYLOAD, &signature, &annotations);
    assert!(why.unwrap_err().contains("of something else"));
    // Nor the certificate of one with the entry of another.
    let mixed = [(CERTIFICATE, &others), (BUNDLE, &annotations)];
    let mixed = mixed.map(|(name, from)| (name.to_owned(), from[name].clone()));
    let why = trusted().accepts(PAYLOAD, &signature, &mixed.into());
    assert!(why.unwrap_err().contains("of something else"));
}

#[test]
fn an_entry_of_another_certificate_does_not_count() {
    // Of the same key, for another: what was taken in for one must not serve the other.
    let first = Signing::default();
    let second = Signing {
        subject: Some(SanType::Rfc822Name(
            "mallory@team.example".try_into().unwrap(),
        )),
        ..Signing::default()
    };
    let (signature, annotations) = second.made();
    let (same, others) = first.made();
    assert_eq!(signature.as_bytes(), same.as_bytes());
    let mixed = [(CERTIFICATE, &others), (BUNDLE, &annotations)];
    let mixed = mixed.map(|(name, from)| (name.to_owned(), from[name].clone()));
    let why = trusted().accepts(PAYLOAD, &signature, &mixed.into());
    assert!(why.unwrap_err().contains("of something else"));
}

#[test]
fn what_is_missing_or_mangled_is_named() {
    let (signature, annotations) = Signing::default().made();
    for name in [CERTIFICATE, BUNDLE] {
        let mut without = annotations.clone();
        without.remove(name);
        let why = trusted().accepts(PAYLOAD, &signature, &without);
        assert!(why.unwrap_err().contains(name));
        for text in [
            "",
            "{}",
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        ] {
            let mut mangled = annotations.clone();
            mangled.insert(name.to_owned(), text.to_owned());
            assert!(trusted().accepts(PAYLOAD, &signature, &mangled).is_err());
        }
    }
    let mut mangled = annotations;
    let broken = "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n";
    mangled.insert(CHAIN.to_owned(), broken.to_owned());
    let why = trusted().accepts(PAYLOAD, &signature, &mangled);
    assert!(why.unwrap_err().contains("the chain"));
}

#[test]
fn authorities_between_come_with_the_signature() {
    // The root's, and one that it made.
    let (mut root, _) = authority(&key(5));
    root.distinguished_name.push(DnType::CommonName, "root");
    let root_pem = root.self_signed(&pair(&key(5))).unwrap().pem();
    let (mut params, _) = authority(&key(2));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = Issuer::new(root, pair(&key(5)));
    let between = params.signed_by(&pair(&key(2)), &issuer).unwrap().pem();
    let identity = trusted().identities;
    let trusted = Keyless::new(root_pem.as_bytes(), vec![public(&key(3))], identity).unwrap();
    let (signature, mut annotations) = Signing::default().made();
    let why = trusted.accepts(PAYLOAD, &signature, &annotations);
    assert!(why.unwrap_err().contains("no authority vouches"));
    annotations.insert(CHAIN.to_owned(), between);
    trusted.accepts(PAYLOAD, &signature, &annotations).unwrap();
}

#[test]
fn authorities_are_certificates() {
    let made = |pem: &str| Keyless::new(pem.as_bytes(), vec![public(&key(3))], Vec::new());
    for (pem, words) in [
        ("", "no certificate"),
        ("nonsense", "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
            "of an authority",
        ),
    ] {
        let why = made(pem).unwrap_err();
        assert!(why.contains(words), "{pem}: {why}");
    }
}
