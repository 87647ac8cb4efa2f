//! CRI v1 and the operator service, as tonic types.
//!
//! [`v1`] is the Container Runtime Interface: what kubelet and crictl speak. Its
//! definition, `proto/runtime/v1/api.proto`, is this project's own text and is
//! wire-compatible with Kubernetes'; `tests/debian.rs` holds it to that.
//! [`operator`] is what `bulkhead`'s own command line asks of the daemon beyond
//! it. Both are served on the same socket; servers and clients are here.
//!
//! CRI messages also derive serde: records in the state database hold the
//! configurations as they came, and verbose answers show them. Unknown fields are
//! ignored and absent ones default, so records outlive a change of daemon.
//! Environment values are bytes, and stay so.
#![forbid(unsafe_code)]
// Tests fail by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::fmt;

/// The Container Runtime Interface, package `runtime.v1`.
pub mod v1 {
    // Generated: the definition's own comments are the documentation, and not
    // every field has one; the generator's style isn't ours.
    #![allow(
        missing_docs,
        unreachable_pub,
        rustdoc::all,
        clippy::all,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )]
    tonic::include_proto!("runtime.v1");
}

/// The operator service, package `bulkhead.v1`.
pub mod operator {
    // Generated, as above.
    #![allow(
        missing_docs,
        unreachable_pub,
        rustdoc::all,
        clippy::all,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )]
    tonic::include_proto!("bulkhead.v1");
}

/// The name of this interface's version in `VersionResponse::runtime_api_version`.
pub const RUNTIME_API_VERSION: &str = "v1";

/// Largest message that a peer of this interface accepts, bytes: kubelet's own
/// limit in both directions.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

// Not derived: passwords and tokens must not reach a log.
impl fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |text: &str| if text.is_empty() { "" } else { "<redacted>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &secret(&self.password))
            .field("auth", &secret(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &secret(&self.identity_token))
            .field("registry_token", &secret(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_show_in_debug_output() {
        let request = v1::PullImageRequest {
            auth: Some(v1::AuthConfig {
                username: "someone".into(),
                password: "hunter2".into(),
                auth: "c29tZW9uZTpodW50ZXIy".into(),
                identity_token: "idtok".into(),
                registry_token: "regtok".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = format!("{request:?}");
        for secret in ["hunter2", "c29tZW9uZTpodW50ZXIy", "idtok", "regtok"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("someone") && text.contains("<redacted>"));
    }

    #[test]
    fn records_keep_what_is_not_utf_8_and_tolerate_other_versions() {
        let config = v1::ContainerConfig {
            envs: vec![v1::KeyValue {
                key: "BIN".into(),
                value: vec![0xff, 0, b'x'].into(),
            }],
            ..Default::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<v1::ContainerConfig>(&text).unwrap(),
            config
        );
        // Fields of a newer daemon are ignored, fields that an older one lacked default.
        let other: v1::ContainerMetadata =
            serde_json::from_str(r#"{"name":"a","later":[1]}"#).unwrap();
        assert_eq!((other.name.as_str(), other.attempt), ("a", 0));
    }
}
