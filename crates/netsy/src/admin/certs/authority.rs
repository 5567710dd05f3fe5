//! The authority of a cluster: made once, kept in its directory, and the signer of every other certificate.

use std::fs::DirBuilder;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{Made, Order, Pair, Wish};
use crate::exit::RunError;
use crate::tls::provider;

/// How long the authority is valid.
const CA_DAYS: u32 = 3650;
/// Certificates are valid from a little before now: clocks differ.
const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Who signs, and for how long.
pub(super) struct Authority<'a> {
    wish: &'a Wish,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pem: Vec<u8>,
    now: SystemTime,
}

impl<'a> Authority<'a> {
    /// The authority of the directory, made if it is not there.
    pub(super) fn of(
        wish: &'a Wish,
        now: SystemTime,
        made: &mut Made,
    ) -> Result<Authority<'a>, RunError> {
        let pair = Pair::of(&wish.dir, "ca");
        let params = Authority::params(wish, now);
        let (issuer, pem) = if pair.exists()? {
            let pem = String::from_utf8_lossy(&read(&pair.key)?).into_owned();
            let key = KeyPair::from_pem(&pem).map_err(|error| {
                let attempted = format!("use the key of the authority `{}`", pair.key.display());
                let remedy = "choose another `--dir` to make a new authority";
                RunError::setup(attempted, error, remedy)
            })?;
            made.kept.push(pair.cert.clone());
            (Issuer::new(params, key), read(&pair.cert)?)
        } else {
            make_directory(&wish.dir)?;
            let key = KeyPair::generate().map_err(failed_to_sign)?;
            let certificate = params.self_signed(&key).map_err(failed_to_sign)?;
            pair.write(&certificate, &key, made)?;
            (Issuer::new(params, key), certificate.pem().into_bytes())
        };
        Ok(Authority {
            wish,
            issuer,
            pem,
            now,
        })
    }

    fn params(wish: &Wish, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "netsy CA");
        name.push(DnType::OrganizationName, wish.cluster_id.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - SKEW).into();
        params.not_after = (now + DAY * CA_DAYS).into();
        params
    }

    /// A certificate as ordered, with a new key.
    ///
    /// # Errors
    /// Those who trust this authority would refuse it: the authority is another cluster's, or not ours.
    pub(super) fn sign(&self, order: &Order) -> Result<(Certificate, KeyPair), RunError> {
        let mut params = CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, order.subject.as_str());
        name.push(DnType::OrganizationName, self.wish.cluster_id.as_str());
        params.subject_alt_names.clone_from(&order.names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clone_from(&order.purposes);
        params.use_authority_key_identifier_extension = true;
        params.not_before = (self.now - SKEW).into();
        params.not_after = (self.now + DAY * self.wish.days).into();
        let key = KeyPair::generate().map_err(failed_to_sign)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(failed_to_sign)?;
        for purpose in &order.purposes {
            let usage = match purpose {
                ExtendedKeyUsagePurpose::ServerAuth => KeyUsage::server_auth(),
                _ => KeyUsage::client_auth(),
            };
            self.check(&certificate, usage).map_err(|why| {
                let (cluster, dir) = (&self.wish.cluster_id, self.wish.dir.display());
                RunError::setup(
                    format!("sign for cluster `{cluster}` with the authority in `{dir}`"),
                    why,
                    "the authority is of another cluster or not made by `netsy certs`; choose another `--dir`",
                )
            })?;
        }
        Ok((certificate, key))
    }

    /// Whether those who trust this authority take the certificate.
    fn check(&self, certificate: &Certificate, usage: KeyUsage) -> Result<(), String> {
        let mut roots = Vec::new();
        for root in CertificateDer::pem_slice_iter(&self.pem) {
            roots.push(root.map_err(|error| error.to_string())?);
        }
        let anchors: Result<Vec<_>, _> = roots.iter().map(anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(|error| error.to_string())?;
        let since = self.now.duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
        let algorithms = provider().signature_verification_algorithms.all;
        let parsed =
            EndEntityCert::try_from(certificate.der()).map_err(|error| error.to_string())?;
        let verified = parsed.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None);
        verified.map(drop).map_err(|error| error.to_string())
    }
}

fn read(file: &Path) -> Result<Vec<u8>, RunError> {
    std::fs::read(file).map_err(|error| {
        let attempted = format!("read `{}`", file.display());
        let remedy = "make it readable, or choose another `--dir`";
        RunError::setup(attempted, error, remedy)
    })
}

fn make_directory(dir: &Path) -> Result<(), RunError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| {
        let attempted = format!("make the directory `{}`", dir.display());
        RunError::setup(attempted, error, "choose another `--dir`")
    })
}

/// A host name or an IP address, as an alternative name.
pub(super) fn host_name(host: &str) -> Result<SanType, RunError> {
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
            format!("`{host}` is no host of a certificate"),
            "it wants a host name such as `netsy-1.example` or an IP address, without a port",
        )
    })
}

/// A URI, as an alternative name.
pub(super) fn uri(text: String) -> Result<SanType, RunError> {
    Ok(SanType::URI(text.try_into().map_err(failed_to_sign)?))
}

fn failed_to_sign(error: rcgen::Error) -> RunError {
    RunError::failed(
        "make a certificate",
        error,
        "this should not happen; please report it",
    )
}
