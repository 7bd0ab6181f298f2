//! Rules of the tree that the compiler does not check: who may import whom and what, how a module opens, what stays out.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder with one of these endings.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    fn walk(folder: &Path, endings: &[&str], out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    walk(&path, endings, out);
                }
            } else if path.extension().is_some_and(|e| endings.iter().any(|x| e == *x)) {
                out.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root().join(folder), endings, &mut paths);
    paths.sort();
    let read = |p: PathBuf| {
        let name = p.strip_prefix(root()).unwrap().display().to_string();
        (name, std::fs::read_to_string(p).unwrap())
    };
    paths.into_iter().map(read).collect()
}

fn sources() -> Vec<(String, String)> {
    let all: Vec<_> = ["src", "tests", "benches", "examples"].iter().flat_map(|f| files(f, &["rs"])).collect();
    assert!(all.len() > 100, "{} sources found", all.len());
    all
}

/// Code without what stands in comments; texts stay.
fn code(text: &str) -> String {
    text.lines().map(|l| l.find("//").map_or(l, |at| &l[..at])).collect::<Vec<_>>().join("\n")
}

/// Is it compiled for tests only, by its place?
fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs") || name.ends_with("twin.rs")
}

/// A source without the tests that close it.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

/// The layers, from below.
const LAYERS: [&str; 7] = ["model", "persistence", "storage", "cache", "core", "query", "gateway"];

#[test]
fn layers_import_downwards_only() {
    for (i, layer) in LAYERS.iter().enumerate() {
        let manifest = std::fs::read_to_string(root().join("src").join(layer).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
        for (k, other) in LAYERS.iter().enumerate() {
            let named = dependencies.lines().any(|l| l.starts_with(&format!("quiver-{other}")));
            assert!(!named || k < i, "{layer} depends on {other}, which is not below it");
        }
    }
}

#[test]
fn libraries_stay_in_their_layer() {
    let homes: [(&str, &[&str]); 8] = [
        ("datafusion", &["query"]),
        ("axum", &["gateway"]),
        ("tonic", &["gateway"]),
        ("opentelemetry-proto", &["gateway"]),
        ("memmap2", &["persistence"]),
        ("rustix", &["persistence"]),
        ("object_store", &["persistence"]),
        ("parquet", &["storage", "gateway"]),
    ];
    for (library, layers) in homes {
        for layer in LAYERS {
            let manifest = std::fs::read_to_string(root().join("src").join(layer).join("Cargo.toml")).unwrap();
            let uses = manifest
                .lines()
                .take_while(|l| *l != "[dev-dependencies]")
                .any(|l| l.split(['.', ' ', '=']).next() == Some(library));
            assert!(!uses || layers.contains(&layer), "{layer} uses {library}, whose home is {layers:?}");
        }
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let own = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    for library in ["datafusion", "axum", "tonic", "memmap2", "parquet"] {
        assert!(!own.lines().any(|l| l.split(['.', ' ']).next() == Some(library)), "the server uses {library} itself");
    }
}

#[test]
fn only_persistence_opens_files() {
    for (name, text) in sources() {
        if name.starts_with("src/persistence/")
            || !name.starts_with("src/")
            || is_test(&name)
            || name.ends_with("build.rs")
        {
            continue;
        }
        let text = code(without_tests(&text));
        for word in ["std::fs", "tokio::fs", "File::open", "File::create", "OpenOptions::new().read"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for (name, text) in sources() {
        if name.ends_with("math_table.rs") {
            continue;
        }
        let first = text.lines().next().unwrap_or("");
        assert!(first.starts_with("//! ") && first.len() > 15, "{name} opens with {first:?}");
    }
}

#[test]
fn nothing_unfinished_is_left() {
    // Put together, so that this file has none of them.
    let words = [
        ["dbg", "!("],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["FIX", "ME"],
        ["TO", "DO"],
        ["XX", "X"],
        ["#[ig", "nore"],
    ];
    for (name, text) in sources() {
        for word in &words {
            let word = word.concat();
            assert!(!text.contains(&word), "{name} has {word}");
        }
    }
}

#[test]
fn lines_are_not_too_long() {
    for (name, text) in sources() {
        if name.ends_with("math_table.rs") {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 160, "{name}:{} has {} characters", i + 1, line.chars().count());
            assert!(!line.contains('\t'), "{name}:{} has a tab", i + 1);
        }
    }
}

#[test]
fn unsafe_code_is_argued_and_where_it_belongs() {
    for (name, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let has = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|w| code.contains(w));
            if has && !name.ends_with("tidy.rs") {
                let argued =
                    lines[i.saturating_sub(8)..=i].iter().any(|l| l.contains("SAFETY") || l.contains("# Safety"));
                assert!(argued, "{name}:{} has unsafe code without a SAFETY comment", i + 1);
            }
        }
    }
}

#[test]
fn every_limit_stands_in_the_readme() {
    let limits = std::fs::read_to_string(root().join("src/model/limits.rs")).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let body = limits.split("pub struct Limits {").nth(1).unwrap().split("\n}").next().unwrap();
    let names: Vec<_> =
        body.lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split(':').next()).map(str::to_owned).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("`{name}`")), "README.md has no line for the limit {name}");
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for (name, text) in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "src/ARCHITECTURE.md", "src/BENCHMARKS.md"]
        .iter()
        .map(|n| (*n, std::fs::read_to_string(root().join(n)).unwrap_or_else(|e| panic!("{n}: {e}"))))
    {
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let path = link.split('#').next().unwrap();
            assert!(folder.join(path).exists(), "{name} links to {link}, which is not there");
        }
        for word in text.split(['`', ' ', '\n']).filter(|w| w.starts_with("tests/") || w.starts_with("examples/")) {
            let path = word.trim_end_matches([':', ',', '.', ';']);
            assert!(root().join(path).exists(), "{name} names {path}, which is not there");
        }
    }
}

#[test]
fn every_format_on_disk_has_its_document() {
    for path in ["src/persistence/FORMAT.md", "src/storage/FORMAT.md", "src/core/FORMAT.md"] {
        assert!(root().join(path).exists(), "{path}");
    }
}

/// Phrases that a reader takes in at the second attempt, and what to write instead.
const HARD_PHRASES: [(&str, &str); 11] = [
    ("anew", "again"),
    ("nobody", "no client, no query, …"),
    ("whoever", "a client that, a caller that"),
    ("where there is none", "if it is missing"),
    ("that there is none", "that it is missing"),
    ("what there is", "name the thing"),
    ("what is to come", "name the thing"),
    ("set aside", "moved to quarantine"),
    ("stays behind", "cannot be removed"),
    ("is there already", "already exists"),
    ("has no room", "not enough space"),
];

/// Texts of a Rust source that users read: literals outside of tests; in the command line and the settings also the
/// documentation of flags, which is their help.
fn texts_for_users(name: &str, source: &str) -> Vec<String> {
    let is_help = name.starts_with("src/cli/") || name.starts_with("src/config/");
    let mut out = Vec::new();
    for line in without_tests(source).lines() {
        let line = line.trim_start();
        if let Some(doc) = line.strip_prefix("///") {
            if is_help {
                out.push(doc.to_owned());
            }
        } else if !line.starts_with("//") && !line.contains("assert") {
            out.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    out
}

#[test]
fn users_read_plain_words() {
    let documents = ["README.md", "CHANGELOG.md", "src/ARCHITECTURE.md"]
        .map(|n| (n.to_owned(), std::fs::read_to_string(root().join(n)).unwrap()));
    let mut texts: Vec<(String, String)> = documents
        .into_iter()
        .flat_map(|(n, t)| t.lines().map(|l| (n.clone(), l.to_owned())).collect::<Vec<_>>())
        .collect();
    for (name, source) in sources() {
        if name.starts_with("src/") && !is_test(&name) {
            texts.extend(texts_for_users(&name, &source).into_iter().map(|t| (name.clone(), t)));
        }
    }
    assert!(texts.len() > 2000, "{} texts found", texts.len());
    let hits: Vec<String> = texts
        .iter()
        .flat_map(|(name, text)| {
            let low = text.to_lowercase();
            let words = move |phrase: &str| {
                low.match_indices(phrase).any(|(at, _)| {
                    let before = low[..at].chars().next_back();
                    let after = low[at + phrase.len()..].chars().next();
                    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
                })
            };
            HARD_PHRASES
                .iter()
                .filter(move |(phrase, _)| words(phrase))
                .map(move |(phrase, better)| format!("{name}: {phrase:?} (better: {better}) in {text:?}"))
        })
        .collect();
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}
