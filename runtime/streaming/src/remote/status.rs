//! What the error stream says at the end of a session.

use serde::Serialize;

use crate::backend::Failure;

/// How the error stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A `Status` object of the Kubernetes API, also for success: v4 and later.
    Json,
    /// A sentence, or nothing for success: before v4.
    Text,
}

#[derive(Serialize)]
struct Status {
    metadata: Metadata,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

/// Writes how a process ended: exit status, or why it could not be said.
#[must_use]
pub fn write(form: Form, ended: &Result<i32, Failure>) -> Vec<u8> {
    let message = match ended {
        Ok(0) => None,
        Ok(code) => Some(format!(
            "command terminated with non-zero exit code: {code}"
        )),
        Err(failure) => Some(failure.to_string()),
    };
    if form == Form::Text {
        return message.unwrap_or_default().into_bytes();
    }
    let cause = |reason, message: String| {
        Some(Details {
            causes: vec![Cause { reason, message }],
        })
    };
    let (reason, details, code) = match ended {
        Ok(0) => (None, None, None),
        Ok(code) => (
            Some("NonZeroExitCode"),
            cause(Some("ExitCode"), code.to_string()),
            None,
        ),
        Err(failure) => (
            Some("InternalError"),
            cause(None, failure.to_string()),
            Some(500),
        ),
    };
    let status = Status {
        metadata: Metadata {},
        status: if message.is_none() {
            "Success"
        } else {
            "Failure"
        },
        message,
        reason,
        details,
        code,
    };
    // Strings and a number: nothing in it that JSON can't say.
    serde_json::to_vec(&status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(ended: Result<i32, Failure>) -> String {
        String::from_utf8(write(Form::Json, &ended)).unwrap()
    }

    #[test]
    fn statuses_are_what_clients_parse() {
        assert_eq!(json(Ok(0)), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            json(Ok(7)),
            concat!(
                r#"{"metadata":{},"status":"Failure","#,
                r#""message":"command terminated with non-zero exit code: 7","#,
                r#""reason":"NonZeroExitCode","#,
                r#""details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#
            )
        );
        assert_eq!(
            json(Err(Failure("no".to_owned()))),
            concat!(
                r#"{"metadata":{},"status":"Failure","message":"no","reason":"InternalError","#,
                r#""details":{"causes":[{"message":"no"}]},"code":500}"#
            )
        );
        assert!(write(Form::Text, &Ok(0)).is_empty());
        let text = write(Form::Text, &Ok(7));
        assert_eq!(text, b"command terminated with non-zero exit code: 7");
    }
}
