//! Who runs which case, when several runs share the work.
//!
//! Each run may be in a test host of its own; what they have in common is one
//! directory. A case is taken by making the directory `CASE` in it, which only one
//! can do; how it ended is told by a file `passed` or `failed` in there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The cases that are taken; without a directory, every case is this run's.
pub(crate) struct Claims(Option<PathBuf>);

impl Claims {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self(directory)
    }

    /// Whether the case is this run's from now on.
    pub(crate) fn take(&self, case: &str) -> Result<bool> {
        let Some(directory) = &self.0 else {
            return Ok(true);
        };
        let claim = claim(directory, case);
        match fs::create_dir(&claim) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("claim {}", claim.display())),
        }
    }

    /// Marks a case of this run's that has ended.
    pub(crate) fn ended(&self, case: &str, passed: bool) -> Result<()> {
        let Some(directory) = &self.0 else {
            return Ok(());
        };
        let mark = claim(directory, case).join(if passed { "passed" } else { "failed" });
        fs::write(&mark, []).with_context(|| format!("write {}", mark.display()))
    }
}

fn claim(directory: &Path, case: &str) -> PathBuf {
    directory.join(case.replace("::", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let runs = [(); 2].map(|()| Claims::new(Some(directory.path().to_owned())));
        assert!(runs[0].take("crash::vmm_killed").unwrap());
        assert!(!runs[1].take("crash::vmm_killed").unwrap());
        assert!(runs[1].take("crash::another").unwrap());
        runs[0].ended("crash::vmm_killed", true).unwrap();
        runs[1].ended("crash::another", false).unwrap();
        assert!(directory.path().join("crash.vmm_killed/passed").exists());
        assert!(!directory.path().join("crash.another/passed").exists());
        assert!(directory.path().join("crash.another/failed").exists());
    }

    #[test]
    fn without_a_directory_every_case_is_taken() {
        let claims = Claims::new(None);
        assert!(claims.take("a::b").unwrap() && claims.take("a::b").unwrap());
        claims.ended("a::b", true).unwrap();
    }

    #[test]
    fn a_directory_that_is_missing_is_told() {
        let claims = Claims::new(Some("/nonexistent".into()));
        assert!(claims.take("a::b").is_err());
    }
}
