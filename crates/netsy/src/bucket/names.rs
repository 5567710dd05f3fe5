//! Every object name in the bucket, and how to read one back. Nothing else in the house spells one.
//!
//! Names are relative to the cluster's prefix. Revisions are written with 19 digits, so that the order of
//! names is the order of Revisions.

use object_store::path::Path;
use rules::revision::Revision;

const CHUNKS: &str = "chunks";
const SNAPSHOTS: &str = "snapshots";
const NODES: &str = "nodes";
const DATAFILE: &str = ".netsy";
const JSON: &str = ".json";
const DIGITS: usize = 19;

/// A small JSON object that is only ever changed by a conditional write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Document {
    /// `members.json`: the member ids; its existence marks an initialised cluster.
    Members,
    /// `nodes/{node_id}.json`: one Node's registration. See [`is_node_id`] for what a node_id may be.
    Node(String),
    /// `leader/elector.json`: the Elector lock.
    Elector,
    /// `leader/primary.json`: the register.
    Primary,
    /// `selftest/{probe}.json`: a probe of the self-test, gone when it is over.
    Probe(String),
}

impl Document {
    /// Where it lies.
    #[must_use]
    pub fn location(&self) -> Path {
        match self {
            Document::Members => Path::from("members.json"),
            Document::Node(node_id) => Path::from(NODES).join(format!("{node_id}{JSON}")),
            Document::Elector => Path::from("leader/elector.json"),
            Document::Primary => Path::from("leader/primary.json"),
            Document::Probe(probe) => Path::from("selftest").join(format!("{probe}{JSON}")),
        }
    }
}

/// Whether `node_id` can name an object: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a
/// letter or digit.
#[must_use]
pub fn is_node_id(node_id: &str) -> bool {
    node_id.len() <= 63
        && node_id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && node_id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The folder of registrations.
#[must_use]
pub fn nodes() -> Path {
    Path::from(NODES)
}

/// The node_id of a registration, `None` if `location` is none.
#[must_use]
pub fn parse_node(location: &Path) -> Option<String> {
    let node_id = file_in(location, NODES)?.strip_suffix(JSON)?;
    is_node_id(node_id).then(|| node_id.to_owned())
}

/// The folder of Chunks.
#[must_use]
pub fn chunks() -> Path {
    Path::from(CHUNKS)
}

/// The Chunk whose first Record is at `first`.
#[must_use]
pub fn chunk(first: Revision) -> Path {
    chunks().join(numbered(first))
}

/// The first Revision of a Chunk, `None` if `location` is none.
#[must_use]
pub fn parse_chunk(location: &Path) -> Option<Revision> {
    parse_numbered(location, CHUNKS)
}

/// The folder of Snapshots.
#[must_use]
pub fn snapshots() -> Path {
    Path::from(SNAPSHOTS)
}

/// The Snapshot as of `revision`.
#[must_use]
pub fn snapshot(revision: Revision) -> Path {
    snapshots().join(numbered(revision))
}

/// The Revision of a Snapshot, `None` if `location` is none.
#[must_use]
pub fn parse_snapshot(location: &Path) -> Option<Revision> {
    parse_numbered(location, SNAPSHOTS)
}

/// The Snapshot an operator seeds a brand-new cluster with.
#[must_use]
pub fn bootstrap() -> Path {
    Path::from("bootstrap.netsy")
}

fn numbered(revision: Revision) -> String {
    format!("{:0DIGITS$}{DATAFILE}", revision.0)
}

fn parse_numbered(location: &Path, folder: &str) -> Option<Revision> {
    let digits = file_in(location, folder)?.strip_suffix(DATAFILE)?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let revision = digits.parse().ok()?;
    (1..=i64::MAX as u64)
        .contains(&revision)
        .then_some(Revision(revision))
}

/// The file name of an object that lies directly in `folder`.
fn file_in<'a>(location: &'a Path, folder: &str) -> Option<&'a str> {
    let file = location.as_ref().strip_prefix(folder)?.strip_prefix('/')?;
    (!file.contains('/')).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        assert_eq!(Document::Members.location().as_ref(), "members.json");
        assert_eq!(
            Document::Node("node-1.a".into()).location().as_ref(),
            "nodes/node-1.a.json"
        );
        assert_eq!(Document::Elector.location().as_ref(), "leader/elector.json");
        assert_eq!(Document::Primary.location().as_ref(), "leader/primary.json");
        assert_eq!(
            chunk(Revision(42)).as_ref(),
            "chunks/0000000000000000042.netsy"
        );
        assert_eq!(
            snapshot(Revision(7)).as_ref(),
            "snapshots/0000000000000000007.netsy"
        );
        assert_eq!(bootstrap().as_ref(), "bootstrap.netsy");
    }

    #[test]
    fn what_is_named_is_read_back() {
        for number in [1, 9, 10, 999, i64::MAX as u64] {
            assert_eq!(
                parse_chunk(&chunk(Revision(number))),
                Some(Revision(number))
            );
            assert_eq!(
                parse_snapshot(&snapshot(Revision(number))),
                Some(Revision(number))
            );
        }
        let node = Document::Node("a.b-c_9".into());
        assert_eq!(parse_node(&node.location()).as_deref(), Some("a.b-c_9"));
    }

    #[test]
    fn strangers_are_not_read() {
        for name in [
            "chunks/42.netsy",
            "chunks/0000000000000000000.netsy",
            "chunks/+000000000000000042.netsy",
            "chunks/9999999999999999999.netsy",
            "chunks/0000000000000000042.netsy.tmp",
            "chunks/old/0000000000000000042.netsy",
            "snapshots/0000000000000000042.netsy",
            "chunks0000000000000000042.netsy",
        ] {
            assert_eq!(parse_chunk(&Path::from(name)), None, "{name}");
        }
        for name in [
            "nodes/.json",
            "nodes/a/b.json",
            "nodes/a.txt",
            "nodes/a%2Fb.json",
        ] {
            assert_eq!(
                parse_node(&Path::parse(name).expect("a path")),
                None,
                "{name}"
            );
        }
    }

    #[test]
    fn a_node_id_cannot_leave_its_folder() {
        assert!(!is_node_id("../members"));
        assert!(!is_node_id(""));
        assert!(!is_node_id(&"a".repeat(64)));
        let outside = Document::Node("../members".into()).location();
        assert_eq!(outside.parts().count(), 2);
    }
}
