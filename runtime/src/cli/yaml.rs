//! JSON values as YAML, for `--output yaml`.
//!
//! The block style of YAML 1.2 with scalars as JSON writes them, where plain text
//! could be taken for something else. Enough for printing; nothing here reads YAML.

use std::fmt::Write;

use serde_json::Value;

/// Writes a value as a YAML document.
#[must_use]
pub(super) fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        Value::Object(entries) if !entries.is_empty() => mapping(&mut text, entries, 0),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

fn sequence(text: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(text, depth);
        text.push_str("- ");
        match item {
            // A block within an item goes on behind its dash.
            Value::Object(entries) if !entries.is_empty() => {
                let mut inner = String::new();
                mapping(&mut inner, entries, depth + 1);
                text.push_str(inner.trim_start_matches(' '));
            }
            Value::Array(inner_items) if !inner_items.is_empty() => {
                let mut inner = String::new();
                sequence(&mut inner, inner_items, depth + 1);
                text.push_str(inner.trim_start_matches(' '));
            }
            scalar => {
                text.push_str(&inline(scalar));
                text.push('\n');
            }
        }
    }
}

fn mapping(text: &mut String, entries: &serde_json::Map<String, Value>, depth: usize) {
    for (key, value) in entries {
        indent(text, depth);
        text.push_str(&string(key));
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                mapping(text, inner, depth + 1);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                sequence(text, items, depth);
            }
            scalar => {
                // Writing to a string can't fail.
                let _ = writeln!(text, " {}", inline(scalar));
            }
        }
    }
}

fn indent(text: &mut String, depth: usize) {
    text.push_str(&"  ".repeat(depth));
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

/// Plain if no YAML reader could take it for anything else, quoted as in JSON (of
/// which YAML is a superset) otherwise.
fn string(text: &str) -> String {
    let plain_start = text.starts_with(|character: char| character.is_ascii_alphabetic());
    let plain_rest = text
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || "-_./ ".contains(character));
    let meaning = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let has_meaning = meaning.contains(&text.to_ascii_lowercase().as_str());
    if plain_start && plain_rest && !has_meaning && !text.ends_with(' ') {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_nest() {
        let value = json!({
            "pods": [
                {"id": "abc", "containers": [{"name": "a"}, {"name": "b"}], "none": []},
                {"id": "def", "labels": {"x": "1"}}
            ],
            "count": 2
        });
        let expected = "\
count: 2
pods:
- containers:
  - name: a
  - name: b
  id: abc
  none: []
- id: def
  labels:
    x: \"1\"
";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn scalars_that_could_be_misread_are_quoted() {
        for text in [
            "true", "No", "1", "0x1", "-", "a: b", "#x", "", "a\nb", "~", "é", "1:2",
        ] {
            assert!(string(text).starts_with('"'), "{text:?}");
        }
        for text in ["abc", "a b", "docker.io/x", "a-b_c"] {
            assert_eq!(string(text), text);
        }
        assert_eq!(to_yaml(&json!([])), "[]\n");
        assert_eq!(to_yaml(&json!([[1, 2], []])), "- - 1\n  - 2\n- []\n");
    }
}
