//! `netsy certs`: a certificate authority for one cluster, certificates for its Nodes, and one per client.
//!
//! What is there already is kept and used, nothing is ever overwritten, and every file is for its owner only. A
//! client's certificate names it as `netsy://{cluster_id}/client/{name}`, which is how Nodes know their clients; a
//! Node's for the peer port as `netsy://{cluster_id}/peer/{node_id}`, which is how Nodes know one another.

mod authority;
mod steps;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use rcgen::{Certificate, ExtendedKeyUsagePurpose, KeyPair, SanType};

use crate::config::identifier;
use crate::exit::RunError;
use crate::tls::holder::{client_uri, peer_uri};

use authority::{Authority, host_name, uri};
pub use steps::next_steps;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where the files are. Made if it is not there.
    pub dir: PathBuf,
    /// The cluster's name.
    pub cluster_id: String,
    /// Nodes: each gets a certificate for the peer port, and one for its client port.
    pub nodes: Vec<NodeWish>,
    /// Host names and IP addresses of a server certificate for every Node, beside loopback. None asked for: an
    /// existing one will do, and with `nodes` none is needed.
    pub hosts: Vec<String>,
    /// Names of clients. None asked for: one called `client`, if it is not there yet.
    pub clients: Vec<String>,
    /// How long all certificates but the authority's are valid.
    pub days: u32,
}

/// A Node that wants certificates: `NODE` or `NODE=HOST,HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeWish {
    /// Its `node_id`.
    pub node_id: String,
    /// Host names and IP addresses by which clients reach it, beside loopback.
    pub hosts: Vec<String>,
}

impl FromStr for NodeWish {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<NodeWish, Self::Err> {
        let (node_id, hosts) = text.split_once('=').unwrap_or((text, ""));
        let hosts = hosts.split(',').map(str::trim);
        Ok(NodeWish {
            node_id: node_id.trim().to_owned(),
            hosts: hosts
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Files that were written.
    pub made: Vec<PathBuf>,
    /// Certificates that were there already.
    pub kept: Vec<PathBuf>,
}

/// One certificate and its key in the directory.
#[derive(Clone, Debug)]
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn of(dir: &Path, name: &str) -> Pair {
        Pair {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        }
    }

    /// Whether it is there. Half a pair is an error.
    fn exists(&self) -> Result<bool, RunError> {
        match (self.cert.exists(), self.key.exists()) {
            (false, false) => Ok(false),
            (true, true) => Ok(true),
            (true, false) => Err(half(&self.key, &self.cert)),
            (false, true) => Err(half(&self.cert, &self.key)),
        }
    }

    fn write(
        &self,
        certificate: &Certificate,
        key: &KeyPair,
        made: &mut Made,
    ) -> Result<(), RunError> {
        write_new(&self.key, &key.serialize_pem())?;
        write_new(&self.cert, &certificate.pem())?;
        made.made.extend([self.cert.clone(), self.key.clone()]);
        Ok(())
    }
}

/// One certificate to be made.
struct Order {
    pair: Pair,
    /// Whether it was asked for by name: then it must not be there yet.
    asked_for: bool,
    /// The common name, for people.
    subject: String,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    names: Vec<SanType>,
}

/// Makes what is wanted and not there yet.
///
/// # Errors
/// A name that cannot be, a certificate asked for by name that is there already, half a pair, an authority of
/// another cluster, or a file that cannot be written. Nothing is overwritten in any case.
pub fn make(wish: &Wish, now: SystemTime) -> Result<Made, RunError> {
    let mut made = Made::default();
    let mut missing = Vec::new();
    for order in orders(wish)? {
        if !kept(&order.pair, order.asked_for, &mut made)? {
            missing.push(order);
        }
    }
    if missing.is_empty() {
        return Ok(made);
    }
    let authority = Authority::of(wish, now, &mut made)?;
    let mut signed = Vec::new();
    for order in &missing {
        signed.push((order, authority.sign(order)?));
    }
    for (order, (certificate, key)) in signed {
        order.pair.write(&certificate, &key, &mut made)?;
    }
    Ok(made)
}

/// Every certificate of the wish, when every name of it can be.
fn orders(wish: &Wish) -> Result<Vec<Order>, RunError> {
    check_names(wish)?;
    let mut orders = Vec::new();
    if wish.nodes.is_empty() || !wish.hosts.is_empty() {
        let asked_for = !wish.hosts.is_empty();
        orders.push(server(
            wish,
            "server",
            "netsy server",
            &wish.hosts,
            asked_for,
        )?);
    }
    for NodeWish { node_id, hosts } in &wish.nodes {
        orders.push(Order {
            pair: Pair::of(&wish.dir, &format!("peer-{node_id}")),
            asked_for: true,
            subject: node_id.clone(),
            purposes: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            names: vec![uri(peer_uri(&wish.cluster_id, node_id))?],
        });
        orders.push(server(
            wish,
            &format!("server-{node_id}"),
            node_id,
            hosts,
            true,
        )?);
    }
    let default = ["client".to_owned()];
    let asked_for = !wish.clients.is_empty();
    for name in if asked_for {
        &wish.clients[..]
    } else {
        &default
    } {
        orders.push(Order {
            pair: Pair::of(&wish.dir, name),
            asked_for,
            subject: name.clone(),
            purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
            names: vec![uri(client_uri(&wish.cluster_id, name))?],
        });
    }
    Ok(orders)
}

/// A certificate for a client port that is reached by `hosts`, and by loopback.
fn server(
    wish: &Wish,
    file: &str,
    subject: &str,
    hosts: &[String],
    asked_for: bool,
) -> Result<Order, RunError> {
    let loopback = ["localhost", "127.0.0.1", "::1"];
    let hosts = loopback.into_iter().chain(hosts.iter().map(String::as_str));
    Ok(Order {
        pair: Pair::of(&wish.dir, file),
        asked_for,
        subject: subject.to_owned(),
        purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
        names: hosts.map(host_name).collect::<Result<_, _>>()?,
    })
}

fn check_names(wish: &Wish) -> Result<(), RunError> {
    let wrong = |flag: &str, name: &str, wants: &str| {
        RunError::setup(
            "make certificates",
            format!("`{name}` cannot be used for `{flag}`"),
            format!("it wants {wants}"),
        )
    };
    identifier(&wish.cluster_id).map_err(|wants| wrong("--cluster-id", &wish.cluster_id, wants))?;
    let nodes = wish.nodes.iter().map(|node| ("--node", &node.node_id));
    let clients = wish.clients.iter().map(|name| ("--client", name));
    let mut seen = HashSet::new();
    for (flag, name) in nodes.chain(clients) {
        identifier(name).map_err(|wants| wrong(flag, name, wants))?;
        if !seen.insert((flag, name)) {
            return Err(wrong(flag, name, "each name once"));
        }
        let taken = ["ca", "server"].contains(&name.as_str())
            || ["server-", "peer-"]
                .iter()
                .any(|taken| name.starts_with(taken));
        if flag == "--client" && taken {
            let wants = "another name: that file has its own meaning";
            return Err(wrong(flag, name, wants));
        }
    }
    Ok(())
}

/// Whether `pair` is there and may stay. If it was asked for by name, it may not.
fn kept(pair: &Pair, asked_for: bool, made: &mut Made) -> Result<bool, RunError> {
    if !pair.exists()? {
        return Ok(false);
    }
    if asked_for {
        return Err(RunError::setup(
            format!("make `{}`", pair.cert.display()),
            "it is there already, and certificates are never overwritten",
            "move it and its key away first, or choose another `--dir`",
        ));
    }
    made.kept.push(pair.cert.clone());
    Ok(true)
}

fn write_new(file: &Path, text: &str) -> Result<(), RunError> {
    let attempt = || -> std::io::Result<()> {
        let mut open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()
    };
    attempt().map_err(|error| {
        let attempted = format!("write `{}`", file.display());
        RunError::failed(
            attempted,
            error,
            "files already written stay; run the command again when it is repaired",
        )
    })
}

fn half(missing: &Path, there: &Path) -> RunError {
    RunError::setup(
        format!("use `{}`", there.display()),
        format!("`{}` is missing", missing.display()),
        "restore it, or move the other away to make both anew",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wish(dir: &Path) -> Wish {
        Wish {
            dir: dir.join("certs"),
            cluster_id: "prod".into(),
            nodes: Vec::new(),
            hosts: Vec::new(),
            clients: Vec::new(),
            days: 365,
        }
    }

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn files_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let wish = wish(dir.path());
        let made = make(&wish, SystemTime::now()).unwrap();
        let all = [
            "ca.crt",
            "ca.key",
            "server.crt",
            "server.key",
            "client.crt",
            "client.key",
        ];
        assert_eq!(names(&made.made), all);
        for file in &made.made {
            assert_eq!(
                file.metadata().unwrap().permissions().mode() & 0o777,
                0o600,
                "{file:?}"
            );
        }
        assert_eq!(
            wish.dir.metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        let before = std::fs::read(wish.dir.join("server.crt")).unwrap();

        let again = make(&wish, SystemTime::now()).unwrap();
        assert!(again.made.is_empty());
        assert_eq!(names(&again.kept), ["server.crt", "client.crt"]);
        let more = Wish {
            clients: vec!["alice".into()],
            ..wish.clone()
        };
        assert_eq!(
            names(&make(&more, SystemTime::now()).unwrap().made),
            ["alice.crt", "alice.key"]
        );
        assert_eq!(std::fs::read(wish.dir.join("server.crt")).unwrap(), before);

        let hosts = Wish {
            hosts: vec!["n1.example".into()],
            ..wish.clone()
        };
        let refused = make(&hosts, SystemTime::now()).unwrap_err().to_string();
        assert!(refused.contains("never overwritten"), "{refused}");
    }

    #[test]
    fn one_wish_makes_everything_for_all_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = ["node-1=n1.example,10.0.0.1", "node-2"].map(|node| node.parse().unwrap());
        let wish = Wish {
            nodes: nodes.to_vec(),
            ..wish(dir.path())
        };
        assert_eq!(wish.nodes[0].hosts, ["n1.example", "10.0.0.1"]);
        let made = make(&wish, SystemTime::now()).unwrap();
        let expected = [
            "ca",
            "peer-node-1",
            "server-node-1",
            "peer-node-2",
            "server-node-2",
            "client",
        ];
        let expected = expected.map(|name| [format!("{name}.crt"), format!("{name}.key")]);
        assert_eq!(names(&made.made), expected.concat());

        let refused = make(&wish, SystemTime::now()).unwrap_err().to_string();
        assert!(refused.contains("never overwritten"), "{refused}");
        let more = Wish {
            nodes: vec!["node-3".parse().unwrap()],
            ..wish
        };
        let made = make(&more, SystemTime::now()).unwrap();
        assert_eq!(names(&made.kept), ["client.crt", "ca.crt"]);
        assert_eq!(made.made.len(), 4);
    }

    #[test]
    fn an_authority_of_another_cluster_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let first = wish(dir.path());
        make(&first, SystemTime::now()).unwrap();
        let other = Wish {
            cluster_id: "test".into(),
            clients: vec!["alice".into()],
            ..first
        };
        let refused = make(&other, SystemTime::now()).unwrap_err().to_string();
        assert!(
            refused.contains("the authority is of another cluster"),
            "{refused}"
        );
        assert!(!other.dir.join("alice.key").exists());
    }

    #[test]
    fn names_that_cannot_be_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let good = wish(dir.path());
        let bad = [
            Wish {
                cluster_id: "Prod".into(),
                ..good.clone()
            },
            Wish {
                clients: vec!["../x".into()],
                ..good.clone()
            },
            Wish {
                clients: vec!["ca".into()],
                ..good.clone()
            },
            Wish {
                clients: vec!["peer-x".into()],
                ..good.clone()
            },
            Wish {
                nodes: vec!["Node=n1".parse().unwrap()],
                ..good.clone()
            },
            Wish {
                nodes: vec!["n1=a:1".parse().unwrap()],
                ..good.clone()
            },
            Wish {
                nodes: vec!["n1".parse().unwrap(), "n1=b".parse().unwrap()],
                ..good.clone()
            },
            Wish {
                hosts: vec!["https://x:1".into()],
                ..good.clone()
            },
        ];
        for wish in bad {
            assert!(make(&wish, SystemTime::now()).is_err(), "{wish:?}");
        }
        assert!(!good.dir.exists());
    }
}
