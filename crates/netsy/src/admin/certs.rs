//! `netsy certs`: a certificate authority for one cluster, a certificate for its servers, and one per client.
//!
//! What is there already is kept and used, nothing is ever overwritten, and every file is for its owner only. A
//! client's certificate names it as `netsy://{cluster_id}/client/{name}`, which is how Nodes know their clients.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

use crate::config::identifier;
use crate::exit::RunError;

/// How long the authority is valid.
const CA_DAYS: u32 = 3650;
/// Certificates are valid from a little before now: clocks differ.
const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where the files are. Made if it is not there.
    pub dir: PathBuf,
    /// The cluster's name.
    pub cluster_id: String,
    /// Host names and IP addresses of the servers, beside loopback. None asked for: an existing server
    /// certificate will do.
    pub hosts: Vec<String>,
    /// Names of clients. None asked for: one called `client`, if it is not there yet.
    pub clients: Vec<String>,
    /// How long server and client certificates are valid.
    pub days: u32,
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

/// Makes what is wanted and not there yet.
///
/// # Errors
/// A name that cannot be, a certificate asked for by name that is there already, half a pair, an authority of
/// another cluster, or a file that cannot be written. Nothing is overwritten in any case.
pub fn make(wish: &Wish, now: SystemTime) -> Result<Made, RunError> {
    let clients = checked(wish)?;
    let mut made = Made::default();
    let server = Pair::of(&wish.dir, "server");
    let server_wanted = !kept(&server, !wish.hosts.is_empty(), &mut made)?;
    let mut client_pairs = Vec::new();
    for name in &clients {
        let pair = Pair::of(&wish.dir, name);
        if !kept(&pair, !wish.clients.is_empty(), &mut made)? {
            client_pairs.push((name, pair));
        }
    }
    if !server_wanted && client_pairs.is_empty() {
        return Ok(made);
    }
    let (issuer, ca) = authority(wish, now, &mut made)?;
    let until = now + DAY * wish.days;
    if server_wanted {
        let mut params = leaf(
            wish,
            "netsy server",
            ExtendedKeyUsagePurpose::ServerAuth,
            now,
            until,
        );
        for host in ["localhost", "127.0.0.1", "::1"]
            .iter()
            .copied()
            .chain(wish.hosts.iter().map(String::as_str))
        {
            params.subject_alt_names.push(host_name(host)?);
        }
        let (certificate, key) = sign(&params, &issuer)?;
        server.write(&certificate, &key, &mut made)?;
    }
    for (name, pair) in client_pairs {
        let mut params = leaf(wish, name, ExtendedKeyUsagePurpose::ClientAuth, now, until);
        let uri = format!("netsy://{}/client/{name}", wish.cluster_id);
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().map_err(failed_to_sign)?));
        let (certificate, key) = sign(&params, &issuer)?;
        fits(&certificate, &ca, wish, now)?;
        pair.write(&certificate, &key, &mut made)?;
    }
    Ok(made)
}

/// The names of the clients, when every name of the wish can be.
fn checked(wish: &Wish) -> Result<Vec<String>, RunError> {
    let attempted = "make certificates";
    let wrong = |flag: &str, name: &str, wants: &str| {
        RunError::setup(
            attempted,
            format!("`{name}` cannot be used for `{flag}`"),
            format!("it wants {wants}"),
        )
    };
    identifier(&wish.cluster_id).map_err(|wants| wrong("--cluster-id", &wish.cluster_id, wants))?;
    for name in &wish.clients {
        identifier(name).map_err(|wants| wrong("--client", name, wants))?;
        if ["ca", "server"].contains(&name.as_str()) {
            return Err(wrong(
                "--client",
                name,
                "another name: that file has its own meaning",
            ));
        }
    }
    for host in &wish.hosts {
        host_name(host)?;
    }
    Ok(if wish.clients.is_empty() {
        vec!["client".into()]
    } else {
        wish.clients.clone()
    })
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

type Authority = Issuer<'static, KeyPair>;

/// The authority of the directory, made if it is not there, and its certificate as PEM.
fn authority(
    wish: &Wish,
    now: SystemTime,
    made: &mut Made,
) -> Result<(Authority, Vec<u8>), RunError> {
    let pair = Pair::of(&wish.dir, "ca");
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "netsy CA");
    params
        .distinguished_name
        .push(DnType::OrganizationName, wish.cluster_id.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - SKEW).into();
    params.not_after = (now + DAY * CA_DAYS).into();
    if pair.exists()? {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|error| {
                let attempted = format!("read `{}`", file.display());
                RunError::setup(
                    attempted,
                    error,
                    "make it readable, or choose another `--dir`",
                )
            })
        };
        let pem = String::from_utf8_lossy(&read(&pair.key)?).into_owned();
        let key = KeyPair::from_pem(&pem).map_err(|error| {
            let attempted = format!("use the key of the authority `{}`", pair.key.display());
            RunError::setup(
                attempted,
                error,
                "choose another `--dir` to make a new authority",
            )
        })?;
        made.kept.push(pair.cert.clone());
        return Ok((Issuer::new(params, key), read(&pair.cert)?));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&wish.dir)
        .map_err(|error| {
            let attempted = format!("make the directory `{}`", wish.dir.display());
            RunError::setup(attempted, error, "choose another `--dir`")
        })?;
    let key = KeyPair::generate().map_err(failed_to_sign)?;
    let certificate = params.self_signed(&key).map_err(failed_to_sign)?;
    pair.write(&certificate, &key, made)?;
    Ok((Issuer::new(params, key), certificate.pem().into_bytes()))
}

fn leaf(
    wish: &Wish,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
    now: SystemTime,
    until: SystemTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, wish.cluster_id.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - SKEW).into();
    params.not_after = until.into();
    params
}

fn host_name(host: &str) -> Result<SanType, RunError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let letters = host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-.*".contains(&b));
    let name = host
        .to_owned()
        .try_into()
        .ok()
        .filter(|_| letters && !host.is_empty());
    name.map(SanType::DnsName).ok_or_else(|| {
        RunError::setup(
            "make certificates",
            format!("`{host}` cannot be used for `--host`"),
            "it wants a host name such as `netsy-1.example` or an IP address, without a port",
        )
    })
}

fn sign(
    params: &CertificateParams,
    issuer: &Authority,
) -> Result<(Certificate, KeyPair), RunError> {
    let key = KeyPair::generate().map_err(failed_to_sign)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed_to_sign)?;
    Ok((certificate, key))
}

/// Refuses a client certificate that servers which trust `ca` would refuse: the authority is not ours.
fn fits(
    certificate: &Certificate,
    ca: &[u8],
    wish: &Wish,
    now: SystemTime,
) -> Result<(), RunError> {
    let verdict = || -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(ca) {
            let root = root.map_err(|error| error.to_string())?;
            roots.add(root).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let verified =
            verifier.verify_client_cert(certificate.der(), &[], UnixTime::since_unix_epoch(since));
        verified.map(drop).map_err(|error| error.to_string())
    };
    verdict().map_err(|why| {
        RunError::setup(
            format!("sign for cluster `{}` with the authority in `{}`", wish.cluster_id, wish.dir.display()),
            why,
            "the authority is of another cluster or not made by `netsy certs`; choose another `--dir`",
        )
    })
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

fn failed_to_sign(error: rcgen::Error) -> RunError {
    RunError::failed(
        "make a certificate",
        error,
        "this should not happen; please report it",
    )
}

/// What to do with the files, for people.
#[must_use]
pub fn next_steps(wish: &Wish) -> String {
    let host = wish.hosts.first().map_or("127.0.0.1", String::as_str);
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let client = wish.clients.first().map_or("client", String::as_str);
    let path = |name: &str| wish.dir.join(name).display().to_string();
    let listen = if wish.hosts.is_empty() {
        "listen = \"127.0.0.1:2379\"".to_owned()
    } else {
        format!("listen = \"0.0.0.0:2379\"\n  advertise_urls = [\"https://{host}:2379\"]")
    };
    format!(
        "For the Node, in netsy.toml (its user must be able to read these files):\n\n\
         \x20 [client]\n\
         \x20 {listen}\n\
         \x20 cert_file = \"{}\"\n\
         \x20 key_file = \"{}\"\n\
         \x20 ca_file = \"{}\"\n\n\
         For the client `{client}`:\n\n\
         \x20 etcdctl --endpoints https://{host}:2379 --cacert {} --cert {} --key {} endpoint health\n\n\
         Another client later: netsy certs --dir {} --cluster-id {} --client NAME\n\
         Keep {} away from the Nodes: whoever has it can make certificates for anybody.\n",
        path("server.crt"),
        path("server.key"),
        path("ca.crt"),
        path("ca.crt"),
        path(&format!("{client}.crt")),
        path(&format!("{client}.key")),
        wish.dir.display(),
        wish.cluster_id,
        path("ca.key"),
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
