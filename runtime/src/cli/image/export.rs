//! `bulkhead image export`: to a file, or to standard output.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use bulkhead_cri_api::operator::{ExportImagesRequest, ExportedBytes};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;

use super::super::client::{Daemon, in_words};
use super::super::quantity::human_bytes;

/// Writes images to a file, which is there whole or not at all.
pub(super) async fn export(
    daemon: &mut Daemon,
    images: &[String],
    file: Option<&Path>,
    quiet: bool,
) -> Result<()> {
    let mut out = Out::open(file)?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let written = tokio::select! {
        written = transfer(daemon, images, &mut out, quiet) => written?,
        // What is half written goes with `out`.
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    out.finish()?;
    if let Some(file) = file.filter(|_| !quiet) {
        let bytes = human_bytes(written);
        writeln!(io::stderr(), "{}: {bytes}", file.display())?;
    }
    Ok(())
}

async fn transfer(
    daemon: &mut Daemon,
    images: &[String],
    out: &mut Out<'_>,
    quiet: bool,
) -> Result<u64> {
    let mut request = ExportImagesRequest::default();
    for image in images {
        request.images.push(super::find(daemon, image).await?);
    }
    let answer = daemon.operator.export_images(request).await;
    let messages = answer.map_err(|status| in_words(&status))?.into_inner();
    copy(messages, out, quiet).await
}

async fn copy(
    mut messages: Streaming<ExportedBytes>,
    out: &mut Out<'_>,
    quiet: bool,
) -> Result<u64> {
    let bar = match quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new(0), // of its own accord on terminals only
    };
    let style = ProgressStyle::with_template("[{bar:30}] {bytes:>10} of {total_bytes:<10} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut written, mut total) = (0, None);
    while let Some(message) = messages
        .message()
        .await
        .map_err(|status| in_words(&status))?
    {
        out.write(&message.chunk)?;
        written += message.chunk.len() as u64;
        total = Some(message.total);
        bar.set_length(message.total);
        bar.set_position(written);
    }
    bar.finish_and_clear();
    match total {
        Some(total) if total == written => Ok(written),
        _ => {
            let total = total.map_or_else(|| "an archive".to_owned(), |total| total.to_string());
            bail!("the daemon hung up after {written} bytes of {total}; its log says why")
        }
    }
}

/// Where the archive goes.
enum Out<'a> {
    Stdout(io::Stdout),
    /// Beside the file that it will be.
    New(NamedTempFile, &'a Path),
    /// A pipe, a device, or what a link leads to.
    There(File, &'a Path),
}

impl<'a> Out<'a> {
    fn open(file: Option<&'a Path>) -> Result<Self> {
        let Some(path) = file.filter(|path| *path != Path::new("-")) else {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                bail!("an archive is not for a terminal: name a file with -o, or redirect");
            }
            return Ok(Self::Stdout(stdout));
        };
        let failed = || format!("cannot write {}", path.display());
        // The name itself: what a link leads to must not be put in the link's place.
        if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) {
            let file = File::create(path);
            return Ok(Self::There(file.with_context(failed)?, path));
        }
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let file = NamedTempFile::new_in(parent.unwrap_or(Path::new(".")));
        Ok(Self::New(file.with_context(failed)?, path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes).context("cannot write the archive"),
            Self::New(file, path) => file
                .write_all(bytes)
                .with_context(|| format!("cannot write {}", path.display())),
            Self::There(file, path) => file
                .write_all(bytes)
                .with_context(|| format!("cannot write {}", path.display())),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Stdout(mut stdout) => stdout.flush().context("cannot write the archive"),
            Self::New(file, path) => {
                let persisted = file.as_file().sync_all().map_err(anyhow::Error::from);
                persisted
                    .and_then(|()| Ok(file.persist(path)?))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(())
            }
            Self::There(..) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, "old").unwrap();
        let mut out = Out::open(Some(&path)).unwrap();
        out.write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(out);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut out = Out::open(Some(&path)).unwrap();
        out.write(b"new").unwrap();
        out.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn devices_stay_what_they_are() {
        let mut out = Out::open(Some(Path::new("/dev/null"))).unwrap();
        out.write(b"gone").unwrap();
        out.finish().unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn links_stay_and_lead_where_they_did() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.tar"), dir.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for text in ["first and long", "second"] {
            let mut out = Out::open(Some(&link)).unwrap();
            out.write(text.as_bytes()).unwrap();
            out.finish().unwrap();
            assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn where_nothing_can_be_written_is_said() {
        let error = Out::open(Some(Path::new("/nonexistent/a.tar"))).err();
        let said = format!("{:#}", error.unwrap());
        assert!(said.contains("cannot write /nonexistent/a.tar: "), "{said}");
    }
}
