//! What a configuration must fulfil as a whole: what is missing, and what does not go together.
//! Each rule that does not hold is one sentence, at the place of the setting that broke it.

use std::net::SocketAddr;
use std::path::Path;

use url::Url;

use super::settings::Setting;
use super::{Draft, Place, Sse};

/// Adds a mistake for each rule that does not hold.
pub(super) fn check(draft: &mut Draft) {
    for key in ["cluster_id", "node_id", "bucket.url"] {
        if let (false, Some(setting)) = (draft.has(key), Setting::find(key)) {
            let (variable, flag) = (setting.variable(), setting.flag());
            let why = format!(
                "`{key}` is missing; set it in the file, or as `{variable}`, or with `--{flag}`"
            );
            draft.mistake(Place::Nowhere, why);
        }
    }
    if draft.has("bucket.url") {
        bucket(draft);
    }
    tls(draft);
    advertised(draft);
    peer_tls(draft);
    peer_advertised(draft);
    ports(draft);
    timing(draft);
    sizes(draft);
}

fn bucket(draft: &mut Draft) {
    let place = draft.place("bucket.url");
    let url = match Url::parse(&draft.config.bucket.url) {
        Ok(url) => url,
        Err(_) => {
            let why = format!(
                "`bucket.url` wants a URL such as `s3://bucket/prefix`, not `{}`",
                draft.config.bucket.url
            );
            return draft.mistake(place, why);
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        // The URL is logged; so it is not shown here either.
        draft.mistake(
            place,
            "`bucket.url` must not carry credentials; give them as the provider does".into(),
        );
        return;
    }
    match url.scheme() {
        "file" => file_bucket(draft, &url, place),
        "s3" | "gs" | "az" if url.host_str().unwrap_or("").is_empty() => {
            draft.mistake(
                place,
                format!(
                    "`bucket.url` names no bucket; it wants `{}://bucket/prefix`",
                    url.scheme()
                ),
            );
        }
        "s3" | "gs" | "az" | "memory" => {}
        other => {
            let why = format!(
                "`bucket.url` wants a URL of `file`, `s3`, `gs`, `az` or \
                 `memory`, not of `{other}`; an S3-compatible server is \
                 `s3://bucket` with `bucket.endpoint`"
            );
            draft.mistake(place, why);
        }
    }
    access(draft, url.scheme());
}

fn file_bucket(draft: &mut Draft, url: &Url, place: Place) {
    let Ok(path) = url.to_file_path() else {
        let why = format!(
            "`bucket.url` wants an absolute path after `file://`, such \
                 as `file:///srv/netsy`, not `{}`",
            draft.config.bucket.url
        );
        return draft.mistake(place, why);
    };
    let data: &Path = &draft.config.data_dir;
    if data.starts_with(&path) || path.starts_with(data) {
        let why = format!(
            "`data_dir` ({}) and the bucket ({}) must not lie in one \
                 another; the bucket has to survive the loss of the Node's \
                 own files",
            data.display(),
            path.display()
        );
        draft.mistake(place, why);
    }
}

fn access(draft: &mut Draft, scheme: &str) {
    let bucket = &draft.config.bucket;
    let mut wrong = Vec::new();
    if bucket.access_key_id.is_some() != bucket.secret_access_key.is_some() {
        wrong.push((
            "bucket.access_key_id",
            "`bucket.access_key_id` and `bucket.secret_access_key` go together; one of them is missing (neither \
             has a flag: they are given in the file, or as `NETSY_BUCKET_ACCESS_KEY_ID` and \
             `NETSY_BUCKET_SECRET_ACCESS_KEY`)"
                .to_owned(),
        ));
    }
    if bucket.sse != Sse::Bucket && scheme != "s3" {
        wrong.push((
            "bucket.sse",
            format!("`bucket.sse` is for `s3://` only, and the bucket is `{scheme}://`"),
        ));
    }
    if bucket.sse != Sse::Kms && bucket.kms_key_id.is_some() {
        wrong.push((
            "bucket.kms_key_id",
            "`bucket.kms_key_id` needs `bucket.sse = \"kms\"`".to_owned(),
        ));
    }
    match bucket.endpoint.as_deref().map(Url::parse) {
        None => {}
        Some(Ok(url)) if url.scheme() == "https" => {}
        Some(Ok(url)) if url.scheme() == "http" && bucket.allow_http => {}
        Some(Ok(url)) if url.scheme() == "http" => {
            wrong.push((
                "bucket.endpoint",
                "`bucket.endpoint` is plain http; set `bucket.allow_http = \
                 true` if the network is trusted"
                    .to_owned(),
            ));
        }
        Some(_) => {
            wrong.push((
                "bucket.endpoint",
                "`bucket.endpoint` wants a URL such as `https://minio.example:9000`".to_owned(),
            ));
        }
    }
    for (key, why) in wrong {
        let place = draft.place(key);
        draft.mistake(place, why);
    }
}

fn tls(draft: &mut Draft) {
    let client = &draft.config.client;
    let (place, why) = match (&client.cert_file, &client.key_file) {
        (Some(_), None) => (
            "client.cert_file",
            "`client.cert_file` needs `client.key_file`".to_owned(),
        ),
        (None, Some(_)) => (
            "client.key_file",
            "`client.key_file` needs `client.cert_file`".to_owned(),
        ),
        (Some(_), Some(_)) if client.insecure_plaintext => (
            "client.insecure_plaintext",
            "`client.insecure_plaintext` is on, but `client.cert_file` \
                 asks for TLS; drop one of them"
                .to_owned(),
        ),
        (Some(_), Some(_)) if client.client_cert_required && client.ca_file.is_none() => (
            "client.cert_file",
            "client certificates are required, but `client.ca_file` does \
                 not say who signs them"
                .to_owned(),
        ),
        (None, None) if client.ca_file.is_some() => (
            "client.ca_file",
            "`client.ca_file` needs `client.cert_file` and `client.key_file`".to_owned(),
        ),
        (None, None) if !client.listen.ip().is_loopback() && !client.insecure_plaintext => (
            "client.listen",
            format!(
                "`client.listen` is `{}`, which other machines reach, and there is no TLS; set `client.cert_file`, \
                 `client.key_file` and `client.ca_file` (`netsy certs` makes them), or \
                 `client.insecure_plaintext = true` if everybody who reaches it may read and write everything",
                client.listen
            ),
        ),
        _ => return,
    };
    let place = draft.place(place);
    draft.mistake(place, why);
}

fn advertised(draft: &mut Draft) {
    let client = &draft.config.client;
    let scheme = if client.cert_file.is_some() {
        "https"
    } else {
        "http"
    };
    let place = draft.place("client.advertise_urls");
    if client.advertise_urls.is_empty() && client.listen.ip().is_unspecified() {
        let why = format!(
            "`client.advertise_urls` is needed when `client.listen` is every interface; name the address that \
             clients use, such as `[\"{scheme}://netsy-1.example:{}\"]`",
            client.listen.port()
        );
        let place = draft.place("client.listen");
        return draft.mistake(place, why);
    }
    let wrong = |url: &&String| !is_address(url, scheme);
    if let Some(url) = client.advertise_urls.iter().find(wrong) {
        let why = format!(
            "`client.advertise_urls` wants URLs such as \
                 `{scheme}://netsy-1.example:2379`, not `{url}`"
        );
        draft.mistake(place, why);
    }
}

/// Whether `url` is a scheme and a host, with or without a port, and nothing else.
fn is_address(url: &str, scheme: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        url.scheme() == scheme
            && url.has_host()
            && url.path() == "/"
            && (url.query(), url.fragment()) == (None, None)
            && (url.username(), url.password()) == ("", None)
    })
}

fn peer_tls(draft: &mut Draft) {
    let peer = &draft.config.peer;
    let files = [
        ("peer.cert_file", peer.cert_file.is_some()),
        ("peer.key_file", peer.key_file.is_some()),
        ("peer.ca_file", peer.ca_file.is_some()),
    ];
    let given = files.iter().find(|(_, given)| *given);
    let missing = files.iter().find(|(_, given)| !*given);
    let (place, why) = match (given, missing, peer.listen) {
        (Some((given, _)), Some((missing, _)), _) => (
            *given,
            format!(
                "`peer.cert_file`, `peer.key_file` and `peer.ca_file` go together; `{missing}` is missing"
            ),
        ),
        (Some(_), None, _) if peer.insecure_plaintext => (
            "peer.insecure_plaintext",
            "`peer.insecure_plaintext` is on, but `peer.cert_file` asks for TLS; drop one of them"
                .to_owned(),
        ),
        (None, _, Some(listen)) if !listen.ip().is_loopback() && !peer.insecure_plaintext => (
            "peer.listen",
            format!(
                "`peer.listen` is `{listen}`, which other machines reach, and there is no TLS; set \
                 `peer.cert_file`, `peer.key_file` and `peer.ca_file` (`netsy certs --node` makes them), or \
                 `peer.insecure_plaintext = true` if nobody who reaches it would harm the cluster"
            ),
        ),
        _ => return,
    };
    let place = draft.place(place);
    draft.mistake(place, why);
}

fn peer_advertised(draft: &mut Draft) {
    let peer = &draft.config.peer;
    let tls = peer.cert_file.is_some();
    let scheme = if tls { "https" } else { "http" };
    let (key, why) = match (&peer.advertise_url, peer.listen) {
        (None, Some(listen)) if listen.ip().is_unspecified() => (
            "peer.listen",
            format!(
                "`peer.advertise_url` is needed when `peer.listen` is every interface; name the address that \
                 other Nodes use, such as `{scheme}://netsy-1.example:{}`",
                listen.port()
            ),
        ),
        (Some(url), _) if !is_address(url, scheme) => (
            "peer.advertise_url",
            format!(
                "`peer.advertise_url` wants a URL such as `{scheme}://netsy-1.example:2380`, not `{url}`"
            ),
        ),
        _ => return,
    };
    let place = draft.place(key);
    draft.mistake(place, why);
}

/// No two ports at one address.
fn ports(draft: &mut Draft) {
    let config = &draft.config;
    let ports = [
        ("client.listen", Some(config.client.listen)),
        ("peer.listen", config.peer.listen),
        ("http.listen", Some(config.http.listen)),
    ];
    for (one, other) in [(1, 0), (2, 0), (2, 1)] {
        let (Some(address), Some(taken)) = (ports[one].1, ports[other].1) else {
            continue;
        };
        if overlap(address, taken) {
            let (key, before) = (ports[one].0, ports[other].0);
            let why = format!(
                "`{key}` ({address}) is where `{before}` ({taken}) is; each port needs an address of its own"
            );
            let place = nearest_place(draft, &[key, before]);
            draft.mistake(place, why);
        }
    }
}

/// Whether not both of them can be listened on. Port 0 lets the system choose.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same = one.ip() == other.ip()
        || one.is_ipv4() == other.is_ipv4()
            && (one.ip().is_unspecified() || other.ip().is_unspecified());
    same && one.port() == other.port() && one.port() != 0
}

fn timing(draft: &mut Draft) {
    let elector = &draft.config.elector;
    if elector.timeout < elector.renew_interval * 2 {
        let why = format!(
            "`elector.timeout` ({}) must be at least twice `elector.renew_interval` ({}), or one slow renewal \
             costs the Elector its lock",
            humantime::format_duration(elector.timeout),
            humantime::format_duration(elector.renew_interval)
        );
        let place = nearest_place(draft, &["elector.timeout", "elector.renew_interval"]);
        draft.mistake(place, why);
    }
    let elector = &draft.config.elector;
    if let Some(forget) = elector.forget_after
        && forget < elector.timeout * 10
    {
        let why = format!(
            "`elector.forget_after` ({}) must be at least ten times `elector.timeout` ({}), or a Node that is \
             only started again loses its vote",
            humantime::format_duration(forget),
            humantime::format_duration(elector.timeout)
        );
        let place = nearest_place(draft, &["elector.forget_after", "elector.timeout"]);
        draft.mistake(place, why);
    }
    let config = &draft.config;
    if config.bucket.document_timeout >= config.elector.timeout {
        let why = format!(
            "`bucket.document_timeout` ({}) must be below `elector.timeout` ({}), or one request that hangs \
             costs the Elector its lock",
            humantime::format_duration(config.bucket.document_timeout),
            humantime::format_duration(config.elector.timeout)
        );
        let place = nearest_place(draft, &["bucket.document_timeout", "elector.timeout"]);
        draft.mistake(place, why);
    }
    let config = &draft.config;
    if let Some(lease) = config.reads.lease
        && lease > config.elector.timeout
    {
        let why = format!(
            "`reads.lease` ({}) must not be above `elector.timeout` ({}): each take-over waits for what is left \
             of it, and no client can write meanwhile",
            humantime::format_duration(lease),
            humantime::format_duration(config.elector.timeout)
        );
        let place = nearest_place(draft, &["reads.lease", "elector.timeout"]);
        draft.mistake(place, why);
    }
}

fn sizes(draft: &mut Draft) {
    let config = &draft.config;
    if config.chunks.max_bytes < config.limits.request_bytes {
        let why = format!(
            "`chunks.max_bytes` ({}) must be at least `limits.request_bytes` ({})",
            config.chunks.max_bytes, config.limits.request_bytes
        );
        let place = nearest_place(draft, &["chunks.max_bytes", "limits.request_bytes"]);
        draft.mistake(place, why);
    }
    let snapshots = &draft.config.snapshots;
    if snapshots.records.is_none() && snapshots.bytes.is_none() && snapshots.age.is_none() {
        let why = "`snapshots.records`, `snapshots.bytes` and `snapshots.age` are all `off`; without Snapshots \
                   the log in the bucket grows for ever, and so does the time to start"
            .to_owned();
        let place = draft.place("snapshots.records");
        draft.mistake(place, why);
    }
}

/// The place of the first of these keys that somebody gave.
fn nearest_place(draft: &Draft, keys: &[&str]) -> Place {
    keys.iter()
        .map(|key| draft.place(key))
        .find(|place| *place != Place::Nowhere)
        .unwrap_or(Place::Nowhere)
}
