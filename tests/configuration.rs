//! docs/configuration.md tells every key with its default, and no other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use berth::config::Config;

/// `section.key` and its default as TOML writes it, `unset` for one that has none.
fn documented() -> BTreeMap<String, String> {
    let page = include_str!("../docs/configuration.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line
            .strip_prefix("| `")?
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned());
        let (key, default, kind) = (cells.next()?, cells.next()?, cells.next()?);
        (!kind.is_empty() && cells.next().is_some()).then_some((key, default))
    });
    rows.collect()
}

fn flatten(prefix: &str, value: &serde_json::Value, flat: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(section) => {
            for (key, value) in section {
                let key = if prefix == "handlers" { "NAME" } else { key };
                let path = if prefix.is_empty() {
                    key.to_owned()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&path, value, flat);
            }
        }
        serde_json::Value::Null => {
            flat.insert(prefix.to_owned(), "unset".to_owned());
        }
        // Text, lists and numbers of this configuration are written alike in JSON and TOML.
        value => {
            flat.insert(prefix.to_owned(), value.to_string().replace("\",\"", "\", \""));
        }
    }
}

#[test]
fn every_key_is_documented_with_its_default() {
    let mut actual = BTreeMap::new();
    flatten("", &serde_json::to_value(Config::default()).unwrap(), &mut actual);
    assert_eq!(documented(), actual);
}
