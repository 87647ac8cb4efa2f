//! The CRI's log files: reading, joining, following.
//!
//! ```text
//! 2026-11-20T10:00:00.123456789Z stdout P the beginning of a long li
//! 2026-11-20T10:00:00.123456790Z stderr F something else in between
//! 2026-11-20T10:00:00.123456791Z stdout F ne
//! ```
//!
//! Time, stream, a tag, the content. `P` (partial) lines go on in the stream's next
//! one; `F` (full) ones end a line. The file is rotated by renaming it, whereupon the
//! runtime begins a new one of the same name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Lines of the runtime are far shorter; what is longer isn't a line of it.
const LINE_MAX: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// Which stream a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// A line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line<'a> {
    time: &'a [u8],
    stream: Stream,
    /// Whether the content ends a line.
    full: bool,
    content: &'a [u8],
}

/// Takes a line of the file, without its newline, apart.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = fields.next()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // More tags may come, with colons between; the first is P or F.
    let full = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line {
        time,
        stream,
        full,
        content: fields.next().unwrap_or_default(),
    })
}

/// Writes what containers wrote, from the lines of the file.
pub(super) struct Printer<O, E> {
    stdout: O,
    stderr: E,
    timestamps: bool,
    /// For each stream, whether the next content begins a line.
    fresh: [bool; 2],
}

impl<O: Write, E: Write> Printer<O, E> {
    pub(super) fn new(stdout: O, stderr: E, timestamps: bool) -> Self {
        Self {
            stdout,
            stderr,
            timestamps,
            fresh: [true; 2],
        }
    }

    /// Writes one line of the file.
    ///
    /// # Errors
    /// If it can't be written.
    pub(super) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(line) = parse(line) else {
            // Not of the runtime: as it is.
            self.stdout.write_all(line)?;
            return self.stdout.write_all(b"\n");
        };
        let out: &mut dyn Write = match line.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let [stdout_fresh, stderr_fresh] = &mut self.fresh;
        let fresh = match line.stream {
            Stream::Stdout => stdout_fresh,
            Stream::Stderr => stderr_fresh,
        };
        if *fresh && self.timestamps {
            out.write_all(line.time)?;
            out.write_all(b" ")?;
        }
        out.write_all(line.content)?;
        if line.full {
            out.write_all(b"\n")?;
        }
        *fresh = line.full;
        Ok(())
    }

    /// Makes sure that all is written.
    ///
    /// # Errors
    /// If it can't be.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }
}

/// Where the last `count` lines of what the container wrote begin in the file.
///
/// # Errors
/// If the file can't be read.
pub(super) fn tail_offset(path: &Path, count: usize) -> io::Result<u64> {
    let mut reader = Reader::open(path, 0)?;
    let mut begins = VecDeque::new();
    let mut fresh = [true; 2];
    let mut offset = 0_u64;
    let mut note = |line: &[u8]| {
        let (index, full) = match parse(line) {
            Some(line) => (usize::from(line.stream == Stream::Stderr), line.full),
            None => (0, true),
        };
        if let Some(fresh) = fresh.get_mut(index) {
            if *fresh {
                begins.push_back(offset);
                if begins.len() > count {
                    begins.pop_front();
                }
            }
            *fresh = full;
        }
        offset += line.len() as u64 + 1;
        Ok(())
    };
    reader.read(&mut note)?;
    Ok(if count == 0 {
        reader.position
    } else {
        begins.front().copied().unwrap_or(0)
    })
}

/// Reads a log file as it grows, over rotations.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    /// Bytes read of the file.
    position: u64,
    /// The beginning of a line whose end isn't written yet.
    pending: Vec<u8>,
}

impl Reader {
    /// Opens a log file and goes to a byte of it.
    ///
    /// # Errors
    /// If it can't be opened.
    pub(super) fn open(path: &Path, position: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(position))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            position,
            pending: Vec::new(),
        })
    }

    /// Passes on every whole line that there is now, and of files that took this
    /// one's place.
    ///
    /// # Errors
    /// If the file can't be read, or those of `each`.
    pub(super) fn read(&mut self, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        loop {
            // Looked for before the end is looked at: when a new file is there, the old
            // one is complete.
            let successor = self.successor()?;
            self.read_to_end(each)?;
            let Some(file) = successor else {
                return Ok(());
            };
            if !self.pending.is_empty() {
                each(&std::mem::take(&mut self.pending))?;
            }
            self.file = file;
            self.position = 0;
        }
    }

    fn read_to_end(&mut self, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.file.metadata()?.len() < self.position {
            // Emptied in place.
            self.file.seek(SeekFrom::Start(0))?;
            self.position = 0;
            self.pending.clear();
        }
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let length = self.file.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            self.position += length as u64;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                if self.pending.is_empty() {
                    each(line)?;
                } else {
                    self.pending.extend_from_slice(line);
                    each(&std::mem::take(&mut self.pending))?;
                }
                rest = after.get(1..).unwrap_or_default();
            }
            self.pending.extend_from_slice(rest);
            if self.pending.len() > LINE_MAX {
                each(&std::mem::take(&mut self.pending))?;
            }
        }
    }

    /// The file that has taken this one's name, if any.
    fn successor(&self) -> io::Result<Option<File>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            // Between the renaming and the new file, or after the pod's removal.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (ours, theirs) = (self.file.metadata()?, file.metadata()?);
        let same = ours.dev() == theirs.dev() && ours.ino() == theirs.ino();
        Ok((!same).then_some(file))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    const SAMPLE: &str = "\
2026-11-20T10:00:00.1Z stdout F one
2026-11-20T10:00:00.2Z stdout P tw
2026-11-20T10:00:00.3Z stderr F other
2026-11-20T10:00:00.4Z stdout F o
2026-11-20T10:00:00.5Z stdout F 
2026-11-20T10:00:00.6Z stdout F a b  c
";

    fn printed(text: &str, timestamps: bool) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, timestamps);
        for line in text.lines() {
            printer.line(line.as_bytes()).unwrap();
        }
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn read(reader: &mut Reader) -> Vec<String> {
        let mut lines = Vec::new();
        reader
            .read(&mut |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
        lines
    }

    #[test]
    fn partial_lines_are_joined_by_stream() {
        let (out, err) = printed(SAMPLE, false);
        assert_eq!(out, "one\ntwo\n\na b  c\n");
        assert_eq!(err, "other\n");
    }

    #[test]
    fn each_line_has_the_time_of_its_beginning() {
        let (out, err) = printed(SAMPLE, true);
        assert_eq!(
            out,
            "2026-11-20T10:00:00.1Z one\n2026-11-20T10:00:00.2Z two\n\
             2026-11-20T10:00:00.5Z \n2026-11-20T10:00:00.6Z a b  c\n"
        );
        assert_eq!(err, "2026-11-20T10:00:00.3Z other\n");
    }

    #[test]
    fn what_is_no_line_of_the_runtime_is_printed_as_it_is() {
        for text in ["", "x", "a b c d", "t stdout X y", "t stdout"] {
            assert_eq!(printed(&format!("{text}\n"), false).0, format!("{text}\n"));
        }
        assert_eq!(printed("t stdout F\n", false).0, "\n");
        assert_eq!(
            printed("t stdout P:later-tag a\nt stdout F:x b\n", false).0,
            "ab\n"
        );
    }

    #[test]
    fn the_tail_counts_lines_that_were_written_not_those_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(&path, SAMPLE);
        let tail = |count| {
            let mut reader = Reader::open(&path, tail_offset(&path, count).unwrap()).unwrap();
            read(&mut reader).len()
        };
        assert_eq!(tail(0), 0);
        assert_eq!(tail(1), 1);
        assert_eq!(
            tail(3),
            4,
            "the line in two parts, from where the other one begins"
        );
        assert_eq!(tail(4), 5);
        assert_eq!(tail(100), 6);
    }

    #[test]
    fn a_line_is_passed_on_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(&path, "one\ntw");
        let mut reader = Reader::open(&path, 0).unwrap();
        assert_eq!(read(&mut reader), ["one"]);
        assert!(read(&mut reader).is_empty());
        append(&path, "o\nthree\n");
        assert_eq!(read(&mut reader), ["two", "three"]);
    }

    #[test]
    fn rotation_loses_and_repeats_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(&path, "one\n");
        let mut reader = Reader::open(&path, 0).unwrap();
        assert_eq!(read(&mut reader), ["one"]);
        append(&path, "two\n");
        let rotated = directory.path().join("0.log.20261120");
        fs::rename(&path, &rotated).unwrap();
        append(&rotated, "three\n");
        assert_eq!(
            read(&mut reader),
            ["two", "three"],
            "the runtime hasn't noticed yet"
        );
        append(&rotated, "four\n");
        append(&path, "five\n");
        assert_eq!(read(&mut reader), ["four", "five"]);
        append(&path, "six\n");
        assert_eq!(read(&mut reader), ["six"]);
        // Two rotations between two looks: the one in the middle is gone by name.
        fs::rename(&path, directory.path().join("0.log.2")).unwrap();
        append(&path, "seven\n");
        assert_eq!(read(&mut reader), ["seven"]);
    }

    #[test]
    fn a_file_that_is_emptied_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(&path, "one\ntwo\n");
        let mut reader = Reader::open(&path, 0).unwrap();
        assert_eq!(read(&mut reader).len(), 2);
        fs::write(&path, "x\n").unwrap();
        assert_eq!(read(&mut reader), ["x"]);
    }
}
