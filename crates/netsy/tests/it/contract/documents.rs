//! docs/BUCKET.md and docs/DATAFILE.md are read, and every row of their tables is held against the code:
//! object names, the fields of each document, field numbers and types of the files, the example's bytes.
//! And whatever Rust file ARCHITECTURE.md or a decision names has to be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use netsy::bucket::{Bucket, Document, names};
use netsy::datafile::{Encoded, chunk};
use netsy::driver::{Members, Registration};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use rules::register::{Identity, Lock, Phase, Register, Voter};
use rules::revision::{Epoch, Revision};
use serde::Serialize;
use serde_json::Value;

const BUCKET: &str = include_str!("../../../../../docs/BUCKET.md");
const DATAFILE: &str = include_str!("../../../../../docs/DATAFILE.md");
const PROTO: &str = include_str!("../../../../../proto/datafile.proto");

/// The rows of the table behind the mark `name`, cell by cell, without back quotes.
fn rows(page: &str, name: &str) -> Vec<Vec<String>> {
    let (_, table) = page.split_once(&format!("<!-- {name} -->\n")).unwrap();
    let table = table.split("<!-- end -->").next().unwrap();
    let lines: Vec<_> = table.lines().collect();
    let width = lines[0].split('|').count();
    let cells = |line: &str| {
        let cells: Vec<_> = line
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        assert_eq!(
            cells.len(),
            width,
            "as many cells as the table's head in: {line}"
        );
        assert!(
            cells[1..width - 1].iter().all(|cell| !cell.is_empty()),
            "no empty cell in: {line}"
        );
        cells[1..width - 1].to_vec()
    };
    lines[2..].iter().map(|line| cells(line)).collect()
}

fn first_cells(page: &str, name: &str) -> BTreeSet<String> {
    rows(page, name)
        .into_iter()
        .map(|row| row[0].clone())
        .collect()
}

#[test]
fn the_page_lists_every_object() {
    let of = |document: Document| document.location().to_string();
    // A number and two names that stand for the page's placeholders.
    let numbered = |path: String, name: &str| path.replace(&format!("{:019}", 7), name);
    let ours = [
        of(Document::Members),
        of(Document::Node("NODE".into())).replace("NODE", "{node_id}"),
        of(Document::Elector),
        of(Document::Primary),
        of(Document::Probe("PROBE".into())).replace("PROBE", "{probe}"),
        numbered(names::chunk(Revision(7)).to_string(), "{first:019}"),
        numbered(names::snapshot(Revision(7)).to_string(), "{revision:019}"),
    ];
    assert_eq!(first_cells(BUCKET, "objects"), BTreeSet::from(ours));
    assert!(BUCKET.contains(&format!("`{}`", names::bootstrap())));
}

/// The names of `value`'s fields, those of objects within as `outer.inner`; `map` is one that has no fields.
fn fields(value: &Value, prefix: &str, map: &str, found: &mut BTreeSet<String>) {
    let Value::Object(object) = value else { return };
    for (name, value) in object {
        let name = format!("{prefix}{name}");
        let inner = if let Value::Array(list) = value {
            &list[0]
        } else {
            value
        };
        if name != map {
            fields(inner, &format!("{name}."), map, found);
        }
        found.insert(name);
    }
}

fn is_described(table: &str, document: &impl Serialize, map: &str) {
    let mut found = BTreeSet::new();
    fields(
        &serde_json::to_value(document).unwrap(),
        "",
        map,
        &mut found,
    );
    assert_eq!(first_cells(BUCKET, table), found, "the table of `{table}`");
}

#[test]
fn the_page_lists_every_field_of_every_document() {
    let text = String::new;
    let identity = || Identity {
        node_id: text(),
        incarnation: text(),
        boot: text(),
    };
    let register = Register {
        seq: 1,
        mark: text(),
        epoch: Epoch(1),
        primary: Some(identity()),
        phase: Phase::Claimed,
        voters: vec![Voter {
            node_id: text(),
            incarnation: text(),
        }],
        quorum: 0,
        lease: 0,
    };
    is_described("register", &register, "");
    let phases = [Phase::Claimed, Phase::Starting, Phase::Active];
    let phases = phases.map(|phase| serde_json::to_string(&phase).unwrap().replace('"', ""));
    let row = rows(BUCKET, "register")
        .into_iter()
        .find(|row| row[0] == "phase")
        .unwrap();
    assert_eq!(row[1], phases.join(", "));
    let elector = Some(identity());
    let lock = Lock {
        seq: 1,
        mark: text(),
        elector_epoch: 1,
        elector,
        peer_address: text(),
    };
    is_described("lock", &lock, "");
    is_described("members", &Members::default(), "members");
    let registration = Registration {
        seq: 1,
        mark: text(),
        node_id: text(),
        incarnation: text(),
        boot_seq: 1,
        version: text(),
        client_urls: vec![text()],
        peer_urls: vec![text()],
    };
    is_described("registration", &registration, "");
}

#[test]
fn numbers_of_documents_leave_room_to_count_on() {
    let lock = |number: &str| {
        let body = format!(
            r#"{{"seq":{number},"mark":"m","elector_epoch":1,"elector":null,"peer_address":""}}"#
        );
        serde_json::from_str::<Lock>(&body)
    };
    assert_eq!(lock("9223372036854775807").unwrap().seq, i64::MAX as u64);
    let refused = lock("9223372036854775808").unwrap_err().to_string();
    assert!(refused.contains("a number is not below 2^63"), "{refused}");
}

#[tokio::test]
async fn what_newer_programs_add_is_ignored_and_what_they_change_is_refused() {
    let store = Arc::new(InMemory::new());
    let bucket = Bucket::over(
        Arc::clone(&store) as Arc<dyn ObjectStore>,
        "the bucket",
        "c",
    );
    let put = async |document: &Document, body: &str| {
        let body = body.to_owned().into_bytes().into();
        store.put(&document.location(), body).await.unwrap();
    };
    let register = r#""seq":1,"mark":"m","epoch":2,"primary":null,"phase":"claimed","voters":[],"quorum":-1,"lease":0"#;
    let lock = r#""seq":1,"mark":"m","elector_epoch":1,"elector":null,"peer_address":"""#;
    let members = r#""seq":1,"mark":"m","cluster_id":"c","members":{"n":1}"#;
    let node = r#""seq":1,"mark":"m","node_id":"n","incarnation":"i","boot_seq":3"#;
    let more = r#""weather":{"wind":[1,2]},"format":1"#;
    let documents = [
        (Document::Primary, register),
        (Document::Elector, lock),
        (Document::Members, members),
        (Document::Node("n".into()), node),
    ];
    for (document, body) in &documents {
        put(document, &format!("{{{body},{more}}}")).await;
    }
    let read = bucket.read_as::<Register>(&documents[0].0).await;
    assert_eq!(read.unwrap().unwrap().1.epoch, Epoch(2));
    let read = bucket.read_as::<Lock>(&documents[1].0).await;
    assert_eq!(read.unwrap().unwrap().1.elector_epoch, 1);
    let read = bucket.read_as::<Members>(&documents[2].0).await;
    assert_eq!(read.unwrap().unwrap().1.members["n"], 1);
    let read = bucket.read_as::<Registration>(&documents[3].0).await;
    assert_eq!(read.unwrap().unwrap().1.boot_seq, 3);
    for (document, body) in &documents {
        put(document, &format!("{{{body},\"format\":2}}")).await;
        let refused = bucket.read(document).await.unwrap_err().to_string();
        let why = "it is of format 2, and this version reads up to 1; upgrade this node";
        assert!(refused.contains(why), "{refused}");
        assert!(refused.contains(document.location().as_ref()), "{refused}");
    }
    // A phase that only newer programs know is no phase: the document is refused, not guessed at.
    let unknown = register.replace("claimed", "paused");
    put(&documents[0].0, &format!("{{{unknown}}}")).await;
    let read = bucket.read_as::<Register>(&documents[0].0).await;
    let refused = read.unwrap_err().to_string();
    assert!(refused.contains("unknown variant `paused`"), "{refused}");
}

/// (field, number, type) of a message in the .proto file.
fn message(name: &str) -> Vec<Vec<String>> {
    let (_, body) = PROTO.split_once(&format!("message {name} {{\n")).unwrap();
    let body = body.split("\n}").next().unwrap();
    let field = |line: &str| {
        let (typed, number) = line.trim().trim_end_matches(';').split_once(" = ").unwrap();
        let (kind, name) = typed.split_once(' ').unwrap();
        vec![name.to_owned(), number.to_owned(), kind.to_owned()]
    };
    body.lines().map(field).collect()
}

#[test]
fn the_page_lists_every_field_of_a_file() {
    for name in ["FileHeader", "Record", "FileFooter"] {
        let described: Vec<_> = rows(DATAFILE, name)
            .iter()
            .map(|row| row[..3].to_vec())
            .collect();
        assert_eq!(described, message(name), "the table of {name}");
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = (0..hex.len())
        .step_by(2)
        .map(|at| &hex[at..at + 2])
        .collect();
    digits
        .iter()
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn the_page_shows_a_chunk_as_it_is_written() {
    let mut file = Vec::new();
    for row in rows(DATAFILE, "golden") {
        assert_eq!(row[0], file.len().to_string(), "where `{}` stands", row[1]);
        file.extend(bytes_of(&row[1]));
    }
    let file = Bytes::from(file);
    let name = names::chunk(Revision(1));
    let read = chunk::decode(name.as_ref(), &file, "blue").unwrap();
    let records: Vec<_> = read
        .records
        .into_iter()
        .map(|one| Encoded::new(one.record))
        .collect();
    assert_eq!(chunk::encode(&read.origin, &records), file);
}

/// Every file below `folder` whose name ends in `ending`.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

#[test]
fn every_rust_file_the_map_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("ARCHITECTURE.md")];
    files(&root.join("docs"), ".md", &mut pages);
    let mut sources = Vec::new();
    files(&root.join("crates"), ".rs", &mut sources);
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for named in text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.ends_with(".rs"))
        {
            let there = sources.iter().any(|source| source.ends_with(named));
            assert!(
                there,
                "{} names `{named}`, which is not there",
                page.display()
            );
        }
    }
}
