//! Writing a configuration.

use toml::Table;

use super::Config;
use super::handlers;
use super::section::{Key, Section};
use super::sections::{
    HostPods, Limits, Logging, Monitoring, Network, Paths, Registries, Stats, Streaming, Vm,
};

/// The default configuration with everything explained: a file to begin with.
#[must_use]
pub fn default_text() -> String {
    let mut text = String::from(
        "# Configuration of Bulkhead, with its defaults.\n\
         # Delete what you don't change: absent keys have the values below.\n",
    );
    let table = to_table(&Config::default());
    write_section::<Paths>(&mut text, &table, true);
    write_section::<Vm>(&mut text, &table, true);
    write_handlers(&mut text, &table, true);
    write_section::<HostPods>(&mut text, &table, true);
    write_section::<Registries>(&mut text, &table, true);
    write_section::<Network>(&mut text, &table, true);
    write_section::<Streaming>(&mut text, &table, true);
    write_section::<Logging>(&mut text, &table, true);
    write_section::<Monitoring>(&mut text, &table, true);
    write_section::<Stats>(&mut text, &table, true);
    write_section::<Limits>(&mut text, &table, true);
    text
}

/// A configuration without explanations.
pub(super) fn effective_text(config: &Config) -> String {
    let mut text = String::new();
    let table = to_table(config);
    write_section::<Paths>(&mut text, &table, false);
    write_section::<Vm>(&mut text, &table, false);
    write_handlers(&mut text, &table, false);
    write_section::<HostPods>(&mut text, &table, false);
    write_section::<Registries>(&mut text, &table, false);
    write_section::<Network>(&mut text, &table, false);
    write_section::<Streaming>(&mut text, &table, false);
    write_section::<Logging>(&mut text, &table, false);
    write_section::<Monitoring>(&mut text, &table, false);
    write_section::<Stats>(&mut text, &table, false);
    write_section::<Limits>(&mut text, &table, false);
    text
}

/// All values are strings, numbers and booleans in tables, which TOML can hold; the
/// test that reads the printed default again would notice otherwise.
fn to_table(config: &Config) -> Table {
    Table::try_from(config).unwrap_or_default()
}

fn write_section<S: Section>(text: &mut String, values: &Table, explain: bool) {
    if !text.is_empty() {
        text.push('\n');
    }
    if explain {
        write_comment(text, S::COMMENT);
    }
    text.push_str(&format!("[{}]\n", S::NAME));
    let section = values.get(S::NAME).and_then(toml::Value::as_table);
    for (index, Key { name, comment }) in S::KEYS.iter().enumerate() {
        if explain {
            if index > 0 {
                text.push('\n');
            }
            write_comment(text, comment);
        }
        if let Some(value) = section.and_then(|section| section.get(*name)) {
            text.push_str(&format!("{name} = {value}\n"));
        }
    }
}

/// Sections with names of the operator's choice.
fn write_handlers(text: &mut String, values: &Table, explain: bool) {
    let all = values.get("handlers").and_then(toml::Value::as_table);
    for (index, (name, handler)) in all.into_iter().flatten().enumerate() {
        text.push('\n');
        if explain && index == 0 {
            write_comment(text, handlers::COMMENT);
        }
        text.push_str(&format!(
            "[handlers.{}]\n",
            toml::Value::from(name.as_str())
        ));
        for (key, value) in handler.as_table().into_iter().flatten() {
            if explain {
                write_comment(text, &[handlers::KIND_COMMENT]);
            }
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
}

fn write_comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        // Documentation comments keep the blank after their slashes.
        text.push('#');
        text.push_str(line);
        text.push('\n');
    }
}
