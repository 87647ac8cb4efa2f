//! What ttrpc's errors mean here, and bounds on texts from the other side.

use ttrpc::Code;

use crate::error::{Error, ErrorKind};

/// Most bytes of an error message taken from the other side.
const MAX_MESSAGE: usize = 1024;

/// Whether the connection failed, rather than the call.
#[must_use]
pub fn is_transport(e: &ttrpc::Error) -> bool {
    match e {
        ttrpc::Error::RpcStatus(_) => false,
        // The library has no kind for this of its own.
        ttrpc::Error::Others(text) => !is_deadline(text),
        _ => true,
    }
}

fn is_deadline(text: &str) -> bool {
    text.contains("deadline elapsed") || text.contains("timeout")
}

/// The error of a call to `peer` ("agent", "VMM").
#[must_use]
pub fn error(peer: &str, call: &str, e: &ttrpc::Error) -> Error {
    match e {
        ttrpc::Error::RpcStatus(status) => {
            let kind = match status.code.enum_value() {
                Ok(Code::NOT_FOUND) => ErrorKind::NotFound,
                Ok(Code::ALREADY_EXISTS) => ErrorKind::AlreadyExists,
                Ok(Code::FAILED_PRECONDITION) => ErrorKind::FailedPrecondition,
                Ok(Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE) => ErrorKind::InvalidArgument,
                Ok(Code::PERMISSION_DENIED | Code::UNAUTHENTICATED) => ErrorKind::PermissionDenied,
                Ok(Code::RESOURCE_EXHAUSTED) => ErrorKind::ResourceExhausted,
                Ok(Code::DEADLINE_EXCEEDED) => ErrorKind::DeadlineExceeded,
                Ok(Code::UNIMPLEMENTED) => ErrorKind::Unsupported,
                _ => ErrorKind::Internal,
            };
            let mut said = printable(&status.message);
            shorten(&mut said, MAX_MESSAGE);
            if said.is_empty() {
                said = format!("the {peer} refused {call} without saying why");
            }
            Error::new(kind, said)
        }
        ttrpc::Error::Others(text) if is_deadline(text) => Error::new(
            ErrorKind::DeadlineExceeded,
            format!("the {peer} did not answer {call} in time"),
        ),
        other => {
            let mut text = printable(&other.to_string());
            shorten(&mut text, MAX_MESSAGE);
            Error::new(
                ErrorKind::Internal,
                format!("calling {call} of the {peer} failed: {text}"),
            )
        }
    }
}

/// Cuts a text to at most `max` bytes.
pub fn shorten(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_MESSAGE)
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_its_kind_and_words_and_loses_its_escapes() {
        let status = ttrpc::get_status(Code::NOT_FOUND, "exec: \x1b]0;x\x07 no such file");
        let e = error("agent", "Exec", &ttrpc::Error::RpcStatus(status));
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(!e.to_string().contains('\x1b'));
        let status = ttrpc::get_status(Code::INTERNAL, "é".repeat(10_000));
        let e = error("agent", "Exec", &ttrpc::Error::RpcStatus(status));
        assert!(e.to_string().len() <= MAX_MESSAGE);
    }

    #[test]
    fn a_deadline_is_no_broken_connection() {
        let late = ttrpc::Error::Others("Request deadline elapsed".into());
        assert!(!is_transport(&late));
        assert_eq!(
            error("VMM", "Stop", &late).kind(),
            ErrorKind::DeadlineExceeded
        );
        assert!(is_transport(&ttrpc::Error::RemoteClosed));
        assert!(is_transport(&ttrpc::Error::Socket("broken pipe".into())));
    }
}
