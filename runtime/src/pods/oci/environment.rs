//! The environment of a container's program.

use bulkhead_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use bulkhead_image::ImageConfig;

use crate::error::{Error, Result};

/// Where programs are looked for when neither image nor client says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables, each as "NAME=value", each name once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Environment {
    /// Those that are text: they go into the OCI specification, which is JSON.
    pub(super) text: Vec<String>,
    /// Those whose value is not UTF-8.
    pub(super) raw: Vec<Vec<u8>>,
}

/// Later ones replace earlier ones in place: built-in, image, client.
pub(super) fn environment(
    pod: &PodSandboxConfig,
    config: &ContainerConfig,
    image: &ImageConfig,
) -> Result<Environment> {
    let mut all = vec![entry("PATH", DEFAULT_PATH.as_bytes())];
    if !pod.hostname.is_empty() {
        all.push(entry("HOSTNAME", pod.hostname.as_bytes()));
    }
    if config.tty {
        all.push(entry("TERM", b"xterm"));
    }
    let mut set = |name: &str, value: &[u8]| {
        let is_it = |it: &&mut Vec<u8>| {
            it.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"="))
        };
        match all.iter_mut().find(is_it) {
            Some(known) => *known = entry(name, value),
            None => all.push(entry(name, value)),
        }
    };
    for variable in &image.env {
        // One without a value would reach the program as it stands and mean nothing
        // there.
        let (name, value) = variable.split_once('=').unwrap_or((variable.as_str(), ""));
        set(name, value.as_bytes());
    }
    for variable in &config.envs {
        let name = &variable.key;
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(format!(
                "environment variable {name:?}: a name is not empty and has no \"=\" or NUL in it"
            )));
        }
        if variable.value.contains(&0) {
            return Err(Error::invalid(format!(
                "environment variable {name}: a NUL in its value"
            )));
        }
        set(name, &variable.value);
    }
    let mut environment = Environment {
        text: Vec::new(),
        raw: Vec::new(),
    };
    for variable in all {
        match String::from_utf8(variable) {
            Ok(text) => environment.text.push(text),
            Err(raw) => environment.raw.push(raw.into_bytes()),
        }
    }
    Ok(environment)
}

fn entry(name: &str, value: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b"=", value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cri_api::v1::KeyValue;

    fn of(image: &[&str], client: &[(&str, &[u8])]) -> Result<Environment> {
        let image = ImageConfig {
            env: image.iter().map(|it| (*it).to_owned()).collect(),
            ..Default::default()
        };
        let envs = client
            .iter()
            .map(|(key, value)| KeyValue {
                key: (*key).to_owned(),
                value: value.to_vec().into(),
            })
            .collect();
        let config = ContainerConfig {
            envs,
            ..Default::default()
        };
        environment(&PodSandboxConfig::default(), &config, &image)
    }

    #[test]
    fn values_are_bytes() {
        let made = of(
            &["A=image", "B=image", "EMPTY"],
            &[("A", b"\xff\xfe=x"), ("C", "\u{e9}".as_bytes())],
        )
        .unwrap();
        assert_eq!(made.raw, [b"A=\xff\xfe=x"]);
        assert_eq!(made.text[1..], ["B=image", "EMPTY=", "C=\u{e9}"]);
        // What was bytes can be replaced by text.
        let made = of(&[], &[("A", b"\xff"), ("A", b"1")]).unwrap();
        assert_eq!((made.text.len(), made.raw.len()), (2, 0));
    }

    #[test]
    fn names_and_zero_bytes_are_checked() {
        for (name, value) in [("", &b"x"[..]), ("A=B", b"x"), ("A\0", b"x"), ("A", b"\0")] {
            assert!(of(&[], &[(name, value)]).is_err(), "{name:?}");
        }
    }
}
