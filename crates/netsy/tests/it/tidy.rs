//! The house rules as tests: what STYLE.md says and a machine can see.
//!
//! Every Rust file of the repository is read as [`Source`]: its text with comments and literals blanked
//! out, and the literals apart. Each test is one rule, and its failure lists every breach with file and
//! line. A rule that is in the way is changed in STYLE.md and here together, or not at all.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines a function may have, from its signature to its closing brace.
const FUNCTION_LINES: usize = 70;
/// The same for a test, which may be one long table.
const TEST_LINES: usize = 100;
/// Lines a file may have, inline tests not counted.
const FILE_LINES: usize = 500;
/// Lines of the story a file opens with.
const STORY_LINES: std::ops::RangeInclusive<usize> = 1..=12;
/// Names that say nothing about what a room is for.
const EMPTY_NAMES: &[&str] = &[
    "common", "core", "handler", "handlers", "helper", "helpers", "manager", "misc", "service",
    "services", "types", "util", "utils",
];
/// What the crate `rules` may depend on.
const RULES_MAY_USE: &[&str] = &["bytes", "serde", "thiserror"];
/// Words that promise work instead of doing it.
const PROMISES: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];
/// A room of crate netsy, and the rooms it must not know.
const BORDERS: &[(&str, &[&str])] = &[
    ("api", &["peer", "store", "bucket", "datafile", "driver"]),
    ("peer", &["api", "store", "bucket", "driver"]),
    ("store", &["api", "peer", "bucket", "view", "driver"]),
    ("bucket", &["api", "peer", "store", "view", "driver"]),
    (
        "view",
        &["api", "peer", "store", "bucket", "datafile", "driver"],
    ),
    (
        "datafile",
        &["api", "peer", "store", "bucket", "view", "driver"],
    ),
];
/// How the names of the bucket's objects begin; only `bucket/names.rs` may spell them.
const OBJECT_NAMES: &[&str] = &[
    "members.json",
    "nodes/",
    "leader/",
    "chunks/",
    "snapshots/",
    "bootstrap.netsy",
];

/// One Rust file, taken apart.
struct Source {
    /// Path from the repository's root, with `/`.
    path: String,
    text: String,
    /// The text with comments and the insides of literals replaced by spaces; lines stay where they are.
    code: String,
    /// String literals: the line they start on, counted from 0, and what is between the quotes.
    literals: Vec<(usize, String)>,
    /// Lines of `#[cfg(test)]` modules, counted from 0.
    tests: std::ops::Range<usize>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Every Rust file under `crates`, `bench` and `fuzz`.
fn sources() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    for top in ["crates", "bench", "fuzz"] {
        collect(&root.join(top), &mut paths);
    }
    assert!(
        paths.len() > 10,
        "the repository's Rust files were not found under {}",
        root.display()
    );
    paths.sort();
    paths.iter().map(|path| Source::read(&root, path)).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            paths.push(path);
        }
    }
}

impl Source {
    fn read(root: &Path, path: &Path) -> Source {
        let text = fs::read_to_string(path).unwrap();
        let path = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        let (code, literals) = blank(&text);
        let tests = test_lines(&code);
        Source {
            path,
            text,
            code,
            literals,
            tests,
        }
    }

    /// Whether the whole file is test code: by where it is, or as a room's `tests` or `twins`.
    fn is_test(&self) -> bool {
        let named = |name: &str| self.path.ends_with(name);
        self.path.contains("/tests/") || named("/tests.rs") || named("/twins.rs")
    }

    /// Lines of code that are not tests, with their numbers counted from 0.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .filter(|(line, _)| !self.tests.contains(line))
    }
}

/// Blanks comments and literals; returns the rest and the string literals.
fn blank(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut literals = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (end, kind) = token(bytes, at);
        if kind == Token::Code {
            code.extend_from_slice(&bytes[at..end]);
        } else {
            if kind == Token::Literal {
                let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
                let inside = text[at..end]
                    .trim_start_matches(['b', 'r', '#'])
                    .trim_end_matches('#');
                literals.push((line, inside.trim_matches('"').to_owned()));
            }
            code.extend(
                bytes[at..end]
                    .iter()
                    .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
        }
        at = end;
    }
    (String::from_utf8(code).unwrap(), literals)
}

#[derive(PartialEq)]
enum Token {
    Code,
    Comment,
    Literal,
    Character,
}

/// Where the token that starts at `at` ends, and what it is.
fn token(bytes: &[u8], at: usize) -> (usize, Token) {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        return (at + length, Token::Comment);
    }
    if rest.starts_with(b"/*") {
        let length = rest
            .windows(2)
            .position(|pair| pair == b"*/")
            .map_or(rest.len(), |end| end + 2);
        return (at + length, Token::Comment);
    }
    if !word_before && let Some(length) = raw_string(rest) {
        return (at + length, Token::Literal);
    }
    if rest[0] == b'"' {
        return (at + quoted(rest, b'"'), Token::Literal);
    }
    let character =
        rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\''));
    if character {
        return (at + quoted(rest, b'\''), Token::Character);
    }
    let length = (1..=rest.len()).find(|length| std::str::from_utf8(&rest[..*length]).is_ok());
    (at + length.unwrap_or(1), Token::Code)
}

/// Length of the literal that opens `rest` with `quote`, backslashes heeded.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of the raw string that opens `rest`, if one does.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let start = if rest.starts_with(b"br") { 2 } else { 1 };
    if !(rest.starts_with(b"r") || rest.starts_with(b"br")) {
        return None;
    }
    let hashes = rest[start..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let open = start + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let inside = rest[open + 1..]
        .windows(close.len())
        .position(|window| window == close)?;
    Some(open + 1 + inside + close.len())
}

/// Lines from the first `#[cfg(test)]` that opens a block to that block's end.
fn test_lines(code: &str) -> std::ops::Range<usize> {
    let lines: Vec<&str> = code.lines().collect();
    let opens = |start: usize| {
        lines[start..]
            .iter()
            .take(4)
            .any(|line| line.contains("mod "))
    };
    let start = (0..lines.len()).find(|at| lines[*at].contains("#[cfg(test)]") && opens(*at));
    start.map_or(0..0, |start| start..block_end(&lines, start) + 1)
}

/// The line on which the first block opened at or after `start` closes; a `;` before any block ends it.
fn block_end(lines: &[&str], start: usize) -> usize {
    let mut depth = 0_i32;
    for (at, line) in lines.iter().enumerate().skip(start) {
        for byte in line.bytes() {
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 1 => return at,
                b'}' => depth -= 1,
                b';' if depth == 0 => return at,
                _ => {}
            }
        }
    }
    lines.len().saturating_sub(1)
}

/// Fails with every breach listed.
fn none(rule: &str, breaches: &[String]) {
    assert!(
        breaches.is_empty(),
        "{rule}:\n  {}\n",
        breaches.join("\n  ")
    );
}

/// Whether `line` contains `word` as a whole identifier.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .any(|part| part == word)
}

#[test]
fn every_file_opens_with_its_story() {
    let mut breaches = Vec::new();
    for source in sources() {
        let story = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .count();
        if !STORY_LINES.contains(&story) {
            breaches.push(format!("{}: its story has {story} lines", source.path));
        }
    }
    none(
        "a file opens with `//!`, its story in 1 to 12 lines",
        &breaches,
    );
}

#[test]
fn functions_stay_short() {
    let mut breaches = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.code.lines().collect();
        for (at, line) in source.product_lines() {
            let named = line
                .split("fn ")
                .nth(1)
                .and_then(|rest| rest.split(['(', '<']).next());
            let Some(name) = named.filter(|name| !name.is_empty() && has_word(line, "fn")) else {
                continue;
            };
            let length = block_end(&lines, at) - at + 1;
            let is_test = source.is_test();
            if length > if is_test { TEST_LINES } else { FUNCTION_LINES } {
                breaches.push(format!(
                    "{}:{}: fn {name} has {length} lines",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    none(
        &format!("a function has at most {FUNCTION_LINES} lines, a test {TEST_LINES}"),
        &breaches,
    );
}

#[test]
fn files_stay_short() {
    let mut breaches = Vec::new();
    for source in sources() {
        let lines = source.product_lines().count();
        if lines > FILE_LINES && !source.is_test() {
            breaches.push(format!("{}: {lines} lines", source.path));
        }
    }
    none(
        &format!("a file has at most {FILE_LINES} lines, inline tests not counted"),
        &breaches,
    );
}

#[test]
fn rooms_keep_their_borders() {
    let mut breaches = Vec::new();
    for source in sources() {
        let Some(inside) = source.path.strip_prefix("crates/netsy/src/") else {
            continue;
        };
        let room = inside.split(['/', '.']).next().unwrap();
        let Some((_, strangers)) = BORDERS.iter().find(|(name, _)| *name == room) else {
            continue;
        };
        for (at, line) in source.product_lines() {
            for stranger in strangers.iter().filter(|stranger| imports(line, stranger)) {
                breaches.push(format!(
                    "{}:{}: {room} uses {stranger}",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    none(
        "api, peer, store and bucket never import one another; view and datafile know no room",
        &breaches,
    );
}

/// Whether the line names the room `room` by path: `crate::room` or `crate::{.., room::..`.
fn imports(line: &str, room: &str) -> bool {
    let listed = |rest: &str| {
        rest.strip_prefix('{').is_some_and(|list| {
            list.split(',')
                .any(|part| part.trim().split("::").next() == Some(room))
        })
    };
    line.split("crate::").skip(1).any(|rest| {
        let first = rest
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .next();
        first == Some(room) || listed(rest)
    })
}

#[test]
fn rules_has_no_clock_disk_or_network() {
    let root = root();
    let library = fs::read_to_string(root.join("crates/rules/src/lib.rs")).unwrap();
    assert!(
        library.contains("#![no_std]"),
        "crates/rules is `#![no_std]`: the compiler guards its border"
    );
    let extra: Vec<String> = dependencies(&root.join("crates/rules/Cargo.toml"))
        .into_iter()
        .filter(|name| !RULES_MAY_USE.contains(&name.as_str()))
        .collect();
    none(
        "crates/rules depends on nothing but bytes, serde and thiserror",
        &extra,
    );
    let simulated = dependencies(&root.join("crates/netsy/Cargo.toml"));
    assert!(
        !simulated.contains(&"sim".to_owned()),
        "sim is never a dependency of the product"
    );
}

/// Names under `[dependencies]` of a Cargo.toml.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).unwrap();
    text.lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim().to_owned()))
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

#[test]
fn rooms_are_named_for_what_they_are() {
    let breaches: Vec<String> = sources()
        .into_iter()
        .filter(|source| {
            source
                .path
                .split(['/', '.'])
                .any(|part| EMPTY_NAMES.contains(&part))
        })
        .map(|source| source.path)
        .collect();
    none("a room's name says what it is for", &breaches);
}

#[test]
fn object_names_are_spelled_in_one_place() {
    let mut breaches = Vec::new();
    for source in sources() {
        let product = source.path.starts_with("crates/netsy/src/");
        if !product || source.path.ends_with("bucket/names.rs") || source.is_test() {
            continue;
        }
        for (line, literal) in source
            .literals
            .iter()
            .filter(|(line, _)| !source.tests.contains(line))
        {
            if OBJECT_NAMES.iter().any(|name| literal.starts_with(name)) {
                breaches.push(format!("{}:{}: \"{literal}\"", source.path, line + 1));
            }
        }
    }
    none(
        "the bucket's object names are spelled in bucket/names.rs only",
        &breaches,
    );
}

#[test]
fn nothing_is_promised_for_later() {
    let mut breaches = Vec::new();
    for source in sources()
        .into_iter()
        .filter(|source| !source.path.ends_with("tests/it/tidy.rs"))
    {
        for (at, line) in source.text.lines().enumerate() {
            if PROMISES.iter().any(|word| has_word(line, word)) {
                breaches.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none("an open end is an issue, not a comment", &breaches);
}

#[test]
fn the_reader_of_sources_reads() {
    let text = "fn a() { // {\n  let s = \"}\\\"{\"; let c = '{'; let r = r#\"chunks/\"#; let l: &'a u8;\n}\n";
    let (code, literals) = blank(text);
    assert_eq!(code.matches('{').count(), 1);
    assert_eq!(
        literals
            .iter()
            .map(|(_, literal)| literal.as_str())
            .next_back(),
        Some("chunks/")
    );
    assert_eq!(block_end(&code.lines().collect::<Vec<_>>(), 0), 2);
    assert!(imports("use crate::{api, store::Store};", "store"));
    assert!(imports("let x = crate::bucket::Bucket::new();", "bucket"));
    assert!(!imports("use crate::bucket_names;", "bucket"));
}
