//! Why a configuration can't be used, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::validate::Fault;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error(
        "cannot read configuration {}: {source}; `bulkhead config default` prints one to begin with",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}{place}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// What is wrong, and what instead.
        message: String,
    },
}

/// A place in a text, counted from 1; columns are in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this line and column.
    At {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// Nowhere in particular.
    Unknown,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { line, column } => write!(out, ", line {line}, column {column}"),
            Self::Unknown => Ok(()),
        }
    }
}

impl ConfigError {
    /// What the TOML reader has to say.
    pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let place = error
            .span()
            .map_or(Place::Unknown, |span| place(text, span.start));
        // Some messages explain themselves on further lines.
        let mut message = error.message().trim().replace('\n', ", ");
        if let Some(key) = error.span().and_then(|span| key_at(text, &span))
            && !message.contains(&key)
        {
            message = format!("{key}: {message}");
        }
        Self::Content {
            path: path.to_owned(),
            place,
            message,
        }
    }

    /// A value that can be read but not used.
    pub(super) fn value(path: &Path, text: &str, fault: Fault) -> Self {
        let place = key_span(text, fault.section, &fault.key)
            .or_else(|| section_span(text, fault.section))
            .map_or(Place::Unknown, |span| place(text, span.start));
        let message = format!("{}.{}: {}", fault.section, fault.key, fault.message);
        Self::Content {
            path: path.to_owned(),
            place,
            message,
        }
    }
}

fn place(text: &str, offset: usize) -> Place {
    let Some(before) = text.get(..offset) else {
        return Place::Unknown;
    };
    let line = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before
        .get(line_start..)
        .map_or(0, |start| start.chars().count())
        + 1;
    Place::At { line, column }
}

/// Where a key is written.
fn key_span(text: &str, section: &str, key: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let (_, table) = document
        .get_ref()
        .iter()
        .find(|(name, _)| name.get_ref() == section)?;
    let DeValue::Table(table) = table.get_ref() else {
        return None;
    };
    table
        .iter()
        .find(|(name, _)| name.get_ref() == key)
        .map(|(name, _)| name.span())
}

/// Where a section begins: for values that are wrong together with a default.
fn section_span(text: &str, section: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let table = document
        .get_ref()
        .iter()
        .find(|(name, _)| name.get_ref() == section);
    table.map(|(name, _)| name.span())
}

/// The name of the key whose value is written at a span.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    for (section, table) in document.get_ref() {
        if let DeValue::Table(table) = table.get_ref() {
            for (key, value) in table {
                if value.span() == *span {
                    return Some(format!("{}.{}", section.get_ref(), key.get_ref()));
                }
            }
        }
    }
    None
}
