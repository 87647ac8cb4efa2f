//! Terminal sizes: JSON objects one after the other, cut anywhere.

use serde::Deserialize;

use crate::backend::WindowSize;

/// Most bytes of an object that has begun. Real ones have about 30.
const OBJECT_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u64,
    height: u64,
}

/// Reads sizes from pieces.
#[derive(Debug, Default)]
pub struct Sizes {
    begun: Vec<u8>,
}

/// No sizes; what follows is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a terminal size that is no JSON object with Width and Height")]
pub struct Fault;

impl Sizes {
    /// Takes a piece; returns the last whole size in it, which is what counts, each
    /// number brought to 1..=65535.
    ///
    /// # Errors
    /// [`Fault`] for what is no size.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<WindowSize>, Fault> {
        let mut last = None;
        // In parts, so that no more than an object and a part is ever kept.
        for part in piece.chunks(OBJECT_MAX) {
            self.begun.extend_from_slice(part);
            let mut objects = serde_json::Deserializer::from_slice(&self.begun).into_iter::<Size>();
            let mut whole = 0;
            loop {
                match objects.next() {
                    Some(Ok(size)) => {
                        last = Some(bounded(&size));
                        whole = objects.byte_offset();
                    }
                    Some(Err(error)) if !error.is_eof() => return Err(Fault),
                    Some(Err(_)) | None => break,
                }
            }
            self.begun.drain(..whole);
            if self.begun.len() > OBJECT_MAX {
                return Err(Fault);
            }
        }
        Ok(last)
    }
}

fn bounded(size: &Size) -> WindowSize {
    let number = |value: u64| u16::try_from(value.max(1)).unwrap_or(u16::MAX);
    WindowSize {
        columns: number(size.width),
        rows: number(size.height),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(columns: u16, rows: u16) -> Option<WindowSize> {
        Some(WindowSize { columns, rows })
    }

    #[test]
    fn sizes_come_whole_or_in_parts() {
        let mut sizes = Sizes::default();
        assert_eq!(
            sizes.push(b"{\"Width\":80,\"Height\":24}\n").unwrap(),
            size(80, 24)
        );
        assert_eq!(sizes.push(b"{\"Width\":100,").unwrap(), None);
        assert_eq!(
            sizes
                .push(b"\"Height\":30}{\"Width\":1,\"Height\":2}{")
                .unwrap(),
            size(1, 2)
        );
        assert_eq!(
            sizes.push(b"\"Width\":0,\"Height\":99999999}").unwrap(),
            size(1, u16::MAX)
        );
    }

    #[test]
    fn what_is_no_size_is_refused_and_nothing_piles_up() {
        assert_eq!(Sizes::default().push(b"80x24"), Err(Fault));
        assert_eq!(Sizes::default().push(b"{\"Width\":-1}"), Err(Fault));
        assert_eq!(Sizes::default().push(&[b' '; 10_000]), Err(Fault));
        let mut open = b"{\"Width\":1,\"Height\":".to_vec();
        open.extend([b'1'; 10_000]);
        assert_eq!(Sizes::default().push(&open), Err(Fault));
        let many = b"{\"Width\":1,\"Height\":2}".repeat(10_000);
        assert_eq!(Sizes::default().push(&many).unwrap(), size(1, 2));
    }

    proptest! {
        #[test]
        fn arbitrary_pieces_never_panic(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
        ) {
            let mut sizes = Sizes::default();
            for piece in pieces {
                let _ = sizes.push(&piece);
            }
        }
    }
}
