//! `docs/HAZARDS.md` and `scripts/sabotages`, read: every hazard has its row, what the page names is there, and no
//! sabotage is stale.
//!
//! That a sabotage is noticed is seen by `scripts/sabotage`, which takes minutes; that it can still be done is seen here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is told as random weather, or by real processes; all other judges are scenarios.
const JUDGES: [&str; 2] = ["storms", "kill"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One row of the page.
struct Row {
    section: String,
    hazard: String,
    tests: Vec<String>,
    sabotages: Vec<String>,
}

/// One entry of `scripts/sabotages`.
struct Sabotage {
    name: String,
    judge: String,
    /// File, line, replacement.
    edits: Vec<(String, String, String)>,
}

fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut section = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut section);
        }
        let Some(inside) = line.strip_prefix("| ") else {
            continue;
        };
        let inside = inside.strip_suffix(" |").expect("a row ends with a bar");
        let cells: Vec<&str> = inside.split(" | ").collect();
        if cells[0] == "|" || inside.starts_with("| ") {
            continue;
        }
        let [hazard, wrong, rule, tests, sabotages] = cells[..] else {
            panic!("five cells: {line}");
        };
        assert!(!wrong.is_empty() && !rule.is_empty(), "{line}");
        rows.push(Row {
            section: section.clone(),
            hazard: hazard.to_owned(),
            tests: names(tests),
            sabotages: names(sabotages),
        });
    }
    rows
}

/// What stands between backquotes.
fn names(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

fn sabotages(text: &str) -> Vec<Sabotage> {
    let mut all: Vec<Sabotage> = Vec::new();
    let (mut file, mut line) = (String::new(), String::new());
    for text in text.lines() {
        let Some((kind, rest)) = text.split_at_checked(2) else {
            continue;
        };
        match kind {
            "= " => {
                let mut cells = rest.split('|').map(str::trim);
                let mut cell = || cells.next().expect("name, judge, meaning").to_owned();
                let (name, judge, meaning) = (cell(), cell(), cell());
                assert!(!meaning.is_empty(), "{name} says what it breaks");
                all.push(Sabotage {
                    name,
                    judge,
                    edits: Vec::new(),
                });
            }
            "@ " => rest.clone_into(&mut file),
            "- " => rest.clone_into(&mut line),
            "+ " => {
                let sabotage = all.last_mut().expect("an edit belongs to a sabotage");
                let edit = (file.clone(), line.clone(), rest.to_owned());
                sabotage.edits.push(edit);
            }
            _ => {}
        }
    }
    all
}

/// The names of the tests in a file.
fn tests_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines() {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ")
            && !line.starts_with(' ')
            && std::mem::take(&mut is_test)
        {
            let name = rest.split('(').next().expect("the first of a split");
            tests.insert(name.to_owned());
        }
    }
    tests
}

fn scenarios() -> BTreeSet<String> {
    let dir = root().join("crates/sim/tests/it/scenarios");
    let files = fs::read_dir(dir).expect("the scenarios are there");
    files
        .flat_map(|file| tests_of(&file.expect("a file").path()))
        .collect()
}

/// Whether a test of netsy, `room::file::name`, is there.
fn is_of_netsy(path: &str) -> bool {
    let Some((file, name)) = path.rsplit_once("::") else {
        return false;
    };
    let file = format!("crates/netsy/tests/it/{}.rs", file.replace("::", "/"));
    tests_of(&root().join(file)).contains(name)
}

fn hazards() -> BTreeMap<&'static str, Vec<String>> {
    let upto = |letter: char, last: u32| (1..=last).map(move |number| format!("{letter}{number}"));
    let protocol = upto('H', 15).chain(["H2b".to_owned()]);
    let ancestor = upto('H', 8)
        .chain(upto('L', 10))
        .chain(upto('S', 8))
        .chain(upto('B', 14));
    BTreeMap::from([
        ("The protocol's", protocol.collect()),
        ("The ancestor's", ancestor.collect()),
    ])
}

#[test]
fn every_hazard_has_one_row() {
    let rows = rows(&read("docs/HAZARDS.md"));
    for (section, wanted) in hazards() {
        let mut told: Vec<&str> = rows
            .iter()
            .filter(|row| row.section == section)
            .map(|row| row.hazard.as_str())
            .collect();
        let mut wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        told.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(told, wanted, "{section}");
    }
}

#[test]
fn what_the_page_of_hazards_names_is_there() {
    let scenarios = scenarios();
    let sabotages = sabotages(&read("scripts/sabotages"));
    for row in rows(&read("docs/HAZARDS.md")) {
        let place = format!("{}, {}", row.section, row.hazard);
        assert!(!row.tests.is_empty(), "{place}: no test");
        for test in &row.tests {
            let is_there = scenarios.contains(test) || is_of_netsy(test);
            assert!(is_there, "{place}: there is no test `{test}`");
        }
        for name in &row.sabotages {
            let mut all = sabotages.iter();
            assert!(
                all.any(|it| it.name == *name),
                "{place}: there is no sabotage `{name}`"
            );
        }
        let is_elsewhere = row.tests.iter().all(|test| is_of_netsy(test));
        assert!(
            is_elsewhere || !row.sabotages.is_empty(),
            "{place}: no sabotage"
        );
    }
}

#[test]
fn a_sabotage_stands_beside_the_scenario_that_judges_it() {
    let rows = rows(&read("docs/HAZARDS.md"));
    for sabotage in sabotages(&read("scripts/sabotages")) {
        let judge = sabotage.judge.as_str();
        let named: Vec<&Row> = rows
            .iter()
            .filter(|row| row.sabotages.contains(&sabotage.name))
            .collect();
        let is_beside = |row: &&Row| row.tests.iter().any(|test| test.starts_with(judge));
        assert!(
            named.is_empty() || JUDGES.contains(&judge) || named.iter().any(is_beside),
            "no row names `{}` and its judge {judge}",
            sabotage.name
        );
    }
}

#[test]
fn no_sabotage_is_stale() {
    let scenarios = scenarios();
    let sabotages = sabotages(&read("scripts/sabotages"));
    assert!(sabotages.len() > 50, "{} sabotages", sabotages.len());
    let mut known = BTreeSet::new();
    for sabotage in &sabotages {
        let name = &sabotage.name;
        assert!(known.insert(name), "{name} is there twice");
        let judged = JUDGES.contains(&sabotage.judge.as_str());
        let judges = scenarios
            .iter()
            .filter(|it| it.starts_with(&sabotage.judge));
        assert!(
            judged || judges.count() == 1,
            "{name}: no judge is called {}",
            sabotage.judge
        );
        assert!(!sabotage.edits.is_empty(), "{name} breaks nothing");
        let mut broken: BTreeMap<&str, String> = BTreeMap::new();
        for (file, line, replacement) in &sabotage.edits {
            let text = broken.entry(file).or_insert_with(|| read(file));
            let times = text.matches(line.as_str()).count();
            assert_eq!(times, 1, "{name}: {file} holds this line: {line}");
            *text = text.replace(line, replacement);
        }
    }
}

#[test]
fn the_reader_of_the_page_reads() {
    let page = "## One\n\n| | wrong | rule | test | sabotage |\n|---|---|---|---|---|\n\
                | H1 | a | b | `x`, `y::z` | - |\n## Two\n| S2 | a | b | `x` | `s`, `t` |\n";
    let rows = rows(page);
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                &*row.section,
                &*row.hazard,
                row.tests.len(),
                row.sabotages.len(),
            )
        })
        .collect();
    assert_eq!(told, [("One", "H1", 2, 0), ("Two", "S2", 1, 2)]);
    let text = "# words\n= a | storms | breaks\n@ f\n- one\n+ two\n- three\n+ four\n= b | x | c\n";
    let read = sabotages(text);
    assert_eq!(
        (read.len(), read[0].edits.len(), read[1].edits.len()),
        (2, 2, 0)
    );
    assert_eq!(
        read[0].edits[1],
        ("f".into(), "three".into(), "four".into())
    );
    assert!(is_of_netsy("tidy::files_stay_short") && !is_of_netsy("tidy::none"));
}
