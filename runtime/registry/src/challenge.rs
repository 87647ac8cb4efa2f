//! `WWW-Authenticate`: how a registry wants to be authenticated to.
//!
//! Source: RFC 9110, sections 11.2 to 11.6.1; the parameters of `Bearer` are the
//! distribution project's (spec/auth/token.md). A header may hold several
//! challenges, separated by the same commas that separate their parameters.

/// A challenge of a scheme that this client answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// What the token server knows the registry by.
        service: Option<String>,
        /// What the token is to allow, as `repository:NAME:pull`.
        scope: Option<String>,
    },
}

/// Longest header that is looked at.
const HEADER_MAX: usize = 4096;

/// The challenges of a header that can be answered, in its order.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = header.get(..HEADER_MAX).unwrap_or(header);
    let mut challenges = Vec::new();
    while let Some((scheme, parameters, behind)) = challenge(rest) {
        let of = |name: &str| {
            let mut named = parameters.iter().filter(|(key, _)| *key == name);
            named.next().map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = of("realm")
        {
            challenges.push(Challenge::Bearer {
                realm,
                service: of("service"),
                scope: of("scope"),
            });
        }
        rest = behind;
    }
    challenges
}

type Parameters = Vec<(String, String)>;

/// One challenge: its scheme, its parameters, and what follows.
fn challenge(text: &str) -> Option<(&str, Parameters, &str)> {
    let (scheme, mut rest) = token(separators(text))?;
    let mut parameters = Vec::new();
    while let Some((name, value, behind)) = parameter(separators(rest)) {
        parameters.push((name.to_ascii_lowercase(), value));
        rest = behind;
    }
    Some((scheme, parameters, rest))
}

/// `name=value` or `name="value"`; none where the next challenge begins.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = spaces(spaces(rest).strip_prefix('=')?);
    match rest.strip_prefix('"') {
        Some(rest) => {
            let (value, behind) = quoted(rest)?;
            Some((name, value, behind))
        }
        None => {
            let (value, behind) = token(rest)?;
            Some((name, value.to_owned(), behind))
        }
    }
}

/// The rest of a quoted string, without its escapes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// RFC 9110, section 5.6.2; a token68, too, but for its `=` at the end.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/:".contains(&byte);
    let end = text.bytes().position(|byte| !is_token(byte));
    let (token, rest) = text.split_at(end.unwrap_or(text.len()));
    (!token.is_empty()).then_some((token, rest))
}

fn spaces(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// What stands between challenges and parameters; also the end of a token68, which
/// some schemes have in place of parameters.
fn separators(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', ',', '='])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn what_registries_say() {
        let hub = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",\
                   scope=\"repository:library/busybox:pull\"";
        assert_eq!(
            parse(hub),
            [bearer(
                "https://auth.example/token",
                Some("registry.example"),
                Some("repository:library/busybox:pull")
            )]
        );
        assert_eq!(parse("Basic realm=\"a registry\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
    }

    #[test]
    fn several_in_one_header() {
        let both = "Negotiate YWJj==, Basic realm=\"x, y\", charset=UTF-8 , BEARER Realm = https://t/ , \
                    scope=\"a \\\"b\\\"\"";
        assert_eq!(
            parse(both),
            [
                Challenge::Basic,
                bearer("https://t/", None, Some("a \"b\""))
            ]
        );
    }

    #[test]
    fn what_cannot_be_answered_is_left_out() {
        for header in [
            "",
            "Bearer",
            "Bearer service=x",
            "Digest realm=\"x\"",
            ",,,",
            "=\"\"",
        ] {
            assert_eq!(parse(header), [], "{header:?}");
        }
        // Cut off: what came whole counts.
        assert_eq!(parse("Basic realm=\"x"), [Challenge::Basic]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(header in "\\PC{0,200}") {
            let _ = parse(&header);
        }
    }
}
