//! The layer table in the crate's documentation is what the imports say.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Layer by module, from the table in src/lib.rs.
fn layers() -> BTreeMap<String, u32> {
    let page = fs::read_to_string("src/lib.rs").unwrap();
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! | ")?.split(" | ");
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    });
    let names = |cell: String| {
        cell.split(", ")
            .map(|name| name.trim_matches(['[', ']', '`']).to_owned())
            .collect::<Vec<_>>()
    };
    rows.flat_map(|(layer, cell): (u32, String)| names(cell).into_iter().map(move |name| (name, layer)))
        .collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    found
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn module_of(path: &Path) -> String {
    let first = path
        .strip_prefix("src")
        .unwrap()
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The text without comments, and without what is compiled for tests alone.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every module that `crate::…` paths of this text name, also in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect::<String>()
    };
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => drop(found.insert(word(rest))),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (index, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        letter if start && !letter.is_whitespace() => {
                            found.insert(word(&list[index..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let layers = layers();
    let mut wrong = Vec::new();
    for path in sources(Path::new("src")) {
        let module = module_of(&path);
        // Tests may stand on anything.
        let is_test = path.file_stem().unwrap().to_string_lossy().ends_with("tests");
        if is_test || ["lib", "main", "bin"].contains(&module.as_str()) || path.ends_with("netns/holder/main.rs") {
            continue;
        }
        let own = *layers
            .get(&module)
            .unwrap_or_else(|| panic!("{module} is not in the table of src/lib.rs"));
        for import in imports(&code(&fs::read_to_string(&path).unwrap())) {
            let Some(layer) = layers.get(&import) else { continue };
            if import != module && *layer >= own {
                wrong.push(format!(
                    "{}: {module} (layer {own}) imports {import} (layer {layer})",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_names_every_module_once() {
    let page = fs::read_to_string("src/lib.rs").unwrap();
    let declared: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("pub mod ")).collect();
    let declared: BTreeSet<_> = declared
        .into_iter()
        .map(|name| name.trim_end_matches(';').to_owned())
        .collect();
    assert_eq!(layers().into_keys().collect::<BTreeSet<_>>(), declared);
}

#[test]
fn the_command_line_speaks_to_the_socket_only() {
    for path in sources(Path::new("src/cli")) {
        let imports = imports(&code(&fs::read_to_string(&path).unwrap()));
        let allowed = ["proto", "cli", "model", "config"];
        assert!(
            imports.iter().all(|import| allowed.contains(&import.as_str())),
            "{}: {imports:?}",
            path.display()
        );
    }
}

#[test]
fn the_pure_layers_know_no_runtime_and_no_kernel() {
    for directory in ["src/model", "src/oci"] {
        for path in sources(Path::new(directory)) {
            if path.file_stem().unwrap().to_string_lossy().ends_with("tests") {
                continue;
            }
            let code = code(&fs::read_to_string(&path).unwrap());
            for library in ["tokio", "tonic", "nix::", "prost"] {
                assert!(!code.contains(library), "{} knows {library}", path.display());
            }
        }
    }
}

#[test]
fn the_shim_knows_no_tokio() {
    for directory in ["src/shim", "src/ttrpc"] {
        for path in sources(Path::new(directory)) {
            let code = code(&fs::read_to_string(&path).unwrap());
            for library in ["tokio", "tonic"] {
                assert!(!code.contains(library), "{} knows {library}", path.display());
            }
        }
    }
}

#[test]
fn only_the_faces_the_adapter_and_the_shim_know_protobuf() {
    for path in sources(Path::new("src")) {
        if ["api", "cri", "containerd", "proto", "cli", "shim", "ttrpc"].contains(&module_of(&path).as_str()) {
            continue;
        }
        let code = code(&fs::read_to_string(&path).unwrap());
        assert!(!code.contains("prost"), "{} knows protobuf", path.display());
    }
}
