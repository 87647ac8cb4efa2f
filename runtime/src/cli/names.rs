//! Finding what the user means: a name, an id, or the beginning of an id.

use anyhow::{Result, bail};

/// What can be meant.
pub(super) struct Candidate<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
}

/// The one that is meant by `wanted`: an exact id or name, else the one whose id
/// begins so. Returns its index.
///
/// # Errors
/// None or several are meant; the message lists them.
pub(super) fn resolve(kind: &str, wanted: &str, candidates: &[Candidate<'_>]) -> Result<usize> {
    let matching = |test: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<usize> {
        let found = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| test(candidate));
        found.map(|(index, _)| index).collect()
    };
    if wanted.is_empty() {
        bail!("the name of a {kind} is empty");
    }
    for found in [
        matching(&|candidate| candidate.id == wanted),
        matching(&|candidate| candidate.name == wanted),
        matching(&|candidate| candidate.id.starts_with(wanted)),
    ] {
        match found.as_slice() {
            [] => {}
            [one] => return Ok(*one),
            several => {
                let list: Vec<String> = several
                    .iter()
                    .filter_map(|index| candidates.get(*index))
                    .map(|candidate| format!("{} ({})", short_id(candidate.id), candidate.name))
                    .collect();
                bail!(
                    "{wanted:?} is the name of several: {}; give more of the id",
                    list.join(", ")
                );
            }
        }
    }
    bail!("there is no {kind} {wanted:?}; `bulkhead ps -a` lists all")
}

/// An id as it is shown: long enough to be unique, short enough for a column.
#[must_use]
pub(super) fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Candidate<'_>; 4] = [
        Candidate {
            id: "abc111",
            name: "web",
        },
        Candidate {
            id: "abc222",
            name: "web",
        },
        Candidate {
            id: "def333",
            name: "db",
        },
        Candidate {
            id: "db4444",
            name: "abc111x",
        },
    ];

    #[test]
    fn ids_come_before_names_before_prefixes() {
        assert_eq!(resolve("container", "abc111", &ALL).unwrap(), 0);
        assert_eq!(resolve("container", "db", &ALL).unwrap(), 2);
        assert_eq!(resolve("container", "def", &ALL).unwrap(), 2);
    }

    #[test]
    fn what_is_not_clear_is_an_error_with_the_choices() {
        let error = resolve("container", "web", &ALL).unwrap_err().to_string();
        assert!(
            error.contains("abc111") && error.contains("abc222"),
            "{error}"
        );
        let error = resolve("container", "abc", &ALL).unwrap_err().to_string();
        assert!(error.contains("give more of the id"), "{error}");
        let error = resolve("container", "nope", &ALL).unwrap_err().to_string();
        assert!(error.contains("bulkhead ps -a"), "{error}");
        assert!(resolve("container", "", &ALL).is_err());
    }

    #[test]
    fn short_ids_drop_the_algorithm() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("short"), "short");
    }
}
