//! Signatures of images, as cosign makes them: with a key, or in the name of an identity
//! ([`crate::keyless`]).
//!
//! ```text
//! repository:sha256-HEX.sig ─▶ manifest ─▶ layers: one a signature
//!                                            blob        what was signed: JSON that names
//!                                                        the image's digest
//!                                            annotation  the signature, in base64
//! ```
//!
//! Source: the sigstore project's cosign, specs/SIGNATURE_SPEC.md; the blob is the
//! "simple signing" of containers/image, docs/containers-signature.5.md. Whoever is
//! asked may be hostile: what counts is that one of the signers signed exactly this digest.

use std::{collections::BTreeMap, fmt, path::Path};

use base64::Engine as _;
use bulkhead_image::Digest;
use p256::{
    ecdsa::{DerSignature, VerifyingKey, signature::Verifier as _},
    pkcs8::DecodePublicKey as _,
};
use serde::Deserialize;

use crate::{
    client::Repository,
    error::{Kind, Result},
    keyless::Keyless,
};

const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The longest manifest of signatures, in bytes: as of all manifests. Without a key, a
/// signature and what lies beside it take about 9 KiB of it.
const MANIFEST_MAX: u64 = 4 << 20;
/// The longest text that is signed, in bytes.
const PAYLOAD_MAX: u64 = 256 << 10;
/// The most signatures that are looked at. Each time that an image is signed adds one.
const SIGNATURES_MAX: usize = 64;
/// The largest file with a key, in bytes.
const KEY_MAX: u64 = 64 << 10;

/// A public key that images may be signed with.
#[derive(Clone)]
pub struct SigningKey(VerifyingKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// Reads a key as `cosign generate-key-pair` writes it: ECDSA over P-256, in PEM.
    ///
    /// # Errors
    /// The file can't be read, or holds another kind of key.
    pub fn read(path: &Path) -> std::result::Result<Self, String> {
        use std::io::Read as _;
        let wrong = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
        let read = file.take(KEY_MAX).read_to_string(&mut text);
        read.map_err(|error| wrong(&error))?;
        Self::parse(&text).map_err(|error| wrong(&error))
    }

    /// Whether it made a signature of `text`.
    pub(crate) fn signed(&self, text: &[u8], signature: &DerSignature) -> bool {
        self.0.verify(text, signature).is_ok()
    }

    pub(crate) fn parse(pem: &str) -> std::result::Result<Self, String> {
        let key = VerifyingKey::from_public_key_pem(pem.trim());
        key.map(Self).map_err(|_| {
            "not a public key of ECDSA over P-256 in PEM (\"BEGIN PUBLIC KEY\")".to_owned()
        })
    }
}

/// Whose signatures count: any one of them.
#[derive(Debug, Clone, Default)]
pub struct Signers {
    /// Who has one of these keys.
    pub keys: Vec<SigningKey>,
    /// Who is one of these.
    pub identities: Option<Keyless>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// Looks for a signature of a manifest or an index by one of the signers. Returns why there
/// is none that counts, if so.
///
/// # Errors
/// The servers can't be asked; that there is no signature is not an error.
pub(crate) async fn verify(
    repository: &Repository,
    digest: &Digest,
    signers: &Signers,
) -> Result<std::result::Result<(), String>> {
    let tag = format!("sha256-{}.sig", digest.hex());
    let manifest = match repository.tagged(&tag, MANIFEST_MAX).await {
        Ok(manifest) => manifest.bytes,
        Err(error) if error.kind() == Kind::NotFound => {
            return Ok(Err(format!(
                "it has no signature of cosign's older form, a manifest with the tag {tag}"
            )));
        }
        Err(error) => return Err(error),
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else {
        return Ok(Err(format!("{tag} is no manifest of signatures")));
    };
    let mut reason = format!("{tag} holds no signature");
    // cosign appends: the newest come first.
    let layers = manifest.layers.iter().rev();
    for layer in layers
        .filter(|layer| layer.media_type == MEDIA_TYPE)
        .take(SIGNATURES_MAX)
    {
        let Some(signature) = layer.annotations.get(ANNOTATION) else {
            continue;
        };
        if layer.size > PAYLOAD_MAX {
            reason = format!("what is signed is longer than {PAYLOAD_MAX} bytes");
            continue;
        }
        let mut blob = repository.blob(&layer.digest, layer.size);
        let mut payload = Vec::new();
        while let Some(chunk) = blob.chunk().await? {
            payload.extend_from_slice(&chunk);
        }
        match counts(&payload, signature, &layer.annotations, digest, signers) {
            Ok(()) => return Ok(Ok(())),
            Err(why) => reason = why,
        }
    }
    Ok(Err(reason))
}

/// Whether a signature is of this digest, by one of the signers.
fn counts(
    payload: &[u8],
    signature: &str,
    annotations: &BTreeMap<String, String>,
    digest: &Digest,
    signers: &Signers,
) -> std::result::Result<(), String> {
    let signature = base64::engine::general_purpose::STANDARD
        .decode(signature.trim())
        .map_err(|_| "its signature is not base64".to_owned())?;
    let signature = DerSignature::try_from(&signature[..])
        .map_err(|_| "its signature is none of ECDSA".to_owned())?;
    // Before anything is made of what was signed.
    let by_key = signers
        .keys
        .iter()
        .any(|key| key.signed(payload, &signature));
    if !by_key {
        let keyless = match &signers.identities {
            None => Err("none of the keys signed it".to_owned()),
            Some(keyless) => keyless.accepts(payload, &signature, annotations),
        };
        keyless.map_err(
            |why| match signers.keys.is_empty() || signers.identities.is_none() {
                true => why,
                false => format!("none of the keys signed it, and none of the identities: {why}"),
            },
        )?;
    }
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|_| "what is signed is not what cosign signs".to_owned())?;
    if payload.critical.image.digest != *digest {
        return Err("another image was signed".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use p256::{
        ecdsa::{SigningKey as Private, signature::Signer as _},
        pkcs8::{EncodePublicKey as _, LineEnding},
    };

    use super::*;

    fn pair(byte: u8) -> (Private, SigningKey) {
        let private = Private::from_slice(&[byte; 32]).unwrap();
        let pem = private
            .verifying_key()
            .to_public_key_pem(LineEnding::LF)
            .unwrap();
        (private, SigningKey::parse(&pem).unwrap())
    }

    fn signed(private: &Private, payload: &str) -> String {
        let signature: DerSignature = private.sign(payload.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(signature.as_bytes())
    }

    fn payload(digest: &Digest) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r/a"}},"image":
            {{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},
            "optional":null}}"#
        )
    }

    #[test]
    fn only_this_image_by_one_of_the_keys() {
        let (private, key) = pair(1);
        let (stranger, other) = pair(2);
        let (image, another) = (Digest::of(b"image"), Digest::of(b"another"));
        let text = payload(&image);
        let check = |payload: &str, signature: &str, keys: &[SigningKey]| {
            let signers = Signers {
                keys: keys.to_vec(),
                identities: None,
            };
            let annotations = BTreeMap::new();
            counts(
                payload.as_bytes(),
                signature,
                &annotations,
                &image,
                &signers,
            )
        };
        let good = signed(&private, &text);
        let both = [other, key];
        check(&text, &good, &both).unwrap();
        for (payload_text, signature, keys, words) in [
            (text.as_str(), good.as_str(), &both[..1], "none of the keys"),
            (&text, &good, &[], "none of the keys"),
            (
                &text,
                &signed(&stranger, &text),
                &both[1..],
                "none of the keys",
            ),
            (&payload(&another), &good, &both, "none of the keys"),
            (
                &payload(&another),
                &signed(&private, &payload(&another)),
                &both,
                "another image",
            ),
            (
                "{}",
                &signed(&private, "{}"),
                &both,
                "not what cosign signs",
            ),
            (&text, "%", &both, "base64"),
            (&text, "AAAA", &both, "ECDSA"),
        ] {
            let why = check(payload_text, signature, keys).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn keys_are_what_they_say() {
        assert!(SigningKey::parse("").is_err());
        assert!(
            SigningKey::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")
                .is_err()
        );
        let missing = SigningKey::read(Path::new("/nonexistent/key.pub")).unwrap_err();
        assert!(missing.contains("/nonexistent/key.pub"), "{missing}");
    }
}
