//! Configuration: precedence, and the exact sentences an operator reads.
//! The sentences are part of the product; change them here first.

use super::*;

const SMALLEST: &str =
    "cluster_id = \"prod\"\nnode_id = \"n1\"\n[bucket]\nurl = \"s3://stuff/netsy\"\n";

fn from_file(text: &str) -> Result<Config, Mistakes> {
    Draft::new().file(Path::new("netsy.toml"), text).finish()
}

fn sentences(text: &str) -> String {
    from_file(text)
        .expect_err("this configuration is wrong")
        .to_string()
}

/// The smallest configuration with more lines, whose first is line 5.
fn more(text: &str) -> String {
    format!("{SMALLEST}{text}")
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let config = from_file(SMALLEST).unwrap();
    assert_eq!(config.node_id, "n1");
    assert_eq!(config.data_dir, Path::new("/var/lib/netsy"));
    assert_eq!(config.client.listen.to_string(), "127.0.0.1:2379");
    assert!(config.client.client_cert_required);
    assert!(!config.client.insecure_plaintext);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.elector.timeout, Duration::from_secs(6));
    assert_eq!(config.reads.lease, Some(Duration::from_secs(2)));
    assert_eq!(config.reads.when_degraded, WhenDegraded::Stale);
    assert_eq!(config.limits.request_bytes, 1_572_864);
    assert!(!config.leases.expire);
    assert_eq!(config.watch.progress_interval, Duration::from_secs(5));
    assert_eq!(
        config.client.urls(config.client.listen),
        ["http://127.0.0.1:2379"]
    );
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "cluster_id = \"file\"\nnode_id = \"file\"\n[bucket]\nurl = \"memory:///\"\n[elector]\ntimeout = \"7s\"\n";
    let config = Draft::new()
        .file(Path::new("netsy.toml"), file)
        .environment(variables(&[
            ("NETSY_NODE_ID", "environment"),
            ("NETSY_ELECTOR_TIMEOUT", "8s"),
            ("NETSY_ELECTOR_RENEW_INTERVAL", ""),
            ("HOME", "/root"),
        ]))
        .flags([("elector.timeout", "9s")])
        .finish()
        .unwrap();
    assert_eq!(config.cluster_id, "file");
    assert_eq!(config.node_id, "environment");
    assert_eq!(config.elector.timeout, Duration::from_secs(9));
    assert_eq!(config.elector.renew_interval, Duration::from_secs(2));
}

#[test]
fn an_empty_file_says_all_that_is_missing() {
    assert_eq!(
        sentences(""),
        "configuration: `cluster_id` is missing; set it in the file, or as `NETSY_CLUSTER_ID`, or with `--cluster-id`\n\
         configuration: `node_id` is missing; set it in the file, or as `NETSY_NODE_ID`, or with `--node-id`\n\
         configuration: `bucket.url` is missing; set it in the file, or as `NETSY_BUCKET_URL`, or with `--bucket-url`"
    );
}

/// Each of these lines after [`SMALLEST`] says what stands beside it.
fn say(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(sentences(&more(text)), *expected, "{text}");
    }
}

#[test]
fn a_wrong_name_or_value_has_its_line_and_what_would_be_right() {
    say(&[
        (
            "[elector]\ntimeuot = \"6s\"\n",
            "netsy.toml:6: `elector.timeuot` is no setting; did you mean `elector.timeout`?",
        ),
        (
            "[elektor]\ntimeout = \"6s\"\n",
            "netsy.toml:5: `elektor` is no setting; did you mean `elector`?",
        ),
        (
            "renew_interval = \"2s\"\n",
            "netsy.toml:5: `bucket.renew_interval` is no setting; did you mean `elector.renew_interval`?",
        ),
        (
            "[elector]\ntimeout = \"2 parsecs\"\n",
            "netsy.toml:6: `elector.timeout` wants a duration above zero such as `2s`, `500ms` or `1h`, not `2 parsecs`",
        ),
        (
            "[client]\nlisten = \":2379\"\n",
            "netsy.toml:6: `client.listen` wants an IP address and a port such as `127.0.0.1:2379`, or `0.0.0.0:2379` for every interface, not `:2379`",
        ),
        (
            "[client]\nclient_cert_required = 1\n",
            "netsy.toml:6: `client.client_cert_required` wants true or false, not `1`",
        ),
        (
            "[client]\nadvertise_urls = [\"https://a:2379\"]\n",
            "netsy.toml:6: `client.advertise_urls` wants URLs such as `http://netsy-1.example:2379`, not `https://a:2379`",
        ),
        (
            "[reads]\nwhen_degraded = \"guess\"\n",
            "netsy.toml:6: `reads.when_degraded` wants `stale` or `refuse`, not `guess`",
        ),
        (
            "[chunks]\nmax_records = 0\n",
            "netsy.toml:6: `chunks.max_records` wants a whole number above zero, not `0`",
        ),
        (
            "[replication]\nunflushed_bytes = \"2GiB\"\n",
            "netsy.toml:6: `replication.unflushed_bytes` wants a size from 1MiB to 512MiB, not `2GiB`",
        ),
        (
            "[limits]\nrequest_bytes = \"4MiB\"\n",
            "netsy.toml:6: `limits.request_bytes` wants a size above zero and of at most 3MiB, not `4MiB`",
        ),
        (
            "[leases]\nexpire = \"yes\"\n",
            "netsy.toml:6: `leases.expire` wants true or false, not `yes`",
        ),
        (
            "[log]\nlevel = 1.5\n",
            "netsy.toml:6: `log.level` wants `error`, `warn`, `info`, `debug` or `trace`, not a fraction",
        ),
        (
            "data_dir = 3 4\n",
            "netsy.toml:5: this is no TOML: string values must be quoted, expected literal string",
        ),
    ]);
}

#[test]
fn settings_that_do_not_go_together_are_named() {
    say(&[
        (
            "kms_key_id = \"k\"\n",
            "netsy.toml:5: `bucket.kms_key_id` needs `bucket.sse = \"kms\"`",
        ),
        (
            "document_timeout = \"6s\"\n",
            "netsy.toml:5: `bucket.document_timeout` (6s) must be below `elector.timeout` (6s), or one request that hangs costs the Elector its lock",
        ),
        (
            "document_timeout = \"1s\"\n[elector]\ntimeout = \"3s\"\n",
            "netsy.toml:7: `elector.timeout` (3s) must be at least twice `elector.renew_interval` (2s), or one slow renewal costs the Elector its lock",
        ),
        (
            "[elector]\nrenew_interval = \"5s\"\n",
            "netsy.toml:6: `elector.timeout` (6s) must be at least twice `elector.renew_interval` (5s), or one slow renewal costs the Elector its lock",
        ),
        (
            "[client]\ncert_file = \"a\"\n",
            "netsy.toml:6: `client.cert_file` needs `client.key_file`",
        ),
        (
            "[client]\ncert_file = \"a\"\nkey_file = \"b\"\n",
            "netsy.toml:6: client certificates are required, but `client.ca_file` does not say who signs them",
        ),
        (
            "[client]\ncert_file = \"a\"\nkey_file = \"b\"\nca_file = \"c\"\ninsecure_plaintext = true\n",
            "netsy.toml:9: `client.insecure_plaintext` is on, but `client.cert_file` asks for TLS; drop one of them",
        ),
        (
            "[chunks]\nmax_bytes = \"1MiB\"\n",
            "netsy.toml:6: `chunks.max_bytes` (1048576) must be at least `limits.request_bytes` (1572864)",
        ),
        (
            "endpoint = \"http://127.0.0.1:9000\"\n",
            "netsy.toml:5: `bucket.endpoint` is plain http; set `bucket.allow_http = true` if the network is trusted",
        ),
        (
            "access_key_id = \"AKIA\"\n",
            "netsy.toml:5: `bucket.access_key_id` and `bucket.secret_access_key` go together; one of them is missing (neither has a flag: they are given in the file, or as `NETSY_BUCKET_ACCESS_KEY_ID` and `NETSY_BUCKET_SECRET_ACCESS_KEY`)",
        ),
        (
            "[reads]\nlease = \"7s\"\n",
            "netsy.toml:6: `reads.lease` (7s) must not be above `elector.timeout` (6s): each take-over waits for what is left of it, and no client can write meanwhile",
        ),
        (
            "[http]\nlisten = \"127.0.0.1:2379\"\n",
            "netsy.toml:6: `http.listen` (127.0.0.1:2379) is where `client.listen` (127.0.0.1:2379) is; each port needs an address of its own",
        ),
        (
            "[peer]\nlisten = \"127.0.0.1:8080\"\n",
            "netsy.toml:6: `http.listen` (127.0.0.1:8080) is where `peer.listen` (127.0.0.1:8080) is; each port needs an address of its own",
        ),
        (
            "[http]\nlisten = \"0.0.0.0:2379\"\n",
            "netsy.toml:6: `http.listen` (0.0.0.0:2379) is where `client.listen` (127.0.0.1:2379) is; each port needs an address of its own",
        ),
    ]);
    for good in [
        "[reads]\nlease = \"6s\"\n",
        "[http]\nlisten = \"127.0.0.2:2379\"\n",
        "[client]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n",
    ] {
        assert_eq!(from_file(&more(good)).map(drop), Ok(()), "{good}");
    }
}

#[test]
fn plaintext_beyond_loopback_must_be_asked_for_by_name() {
    assert_eq!(
        sentences(&more("[client]\nlisten = \"10.0.0.7:2379\"\n")),
        "netsy.toml:6: `client.listen` is `10.0.0.7:2379`, which other machines reach, and there is no TLS; set \
         `client.cert_file`, `client.key_file` and `client.ca_file` (`netsy certs` makes them), or \
         `client.insecure_plaintext = true` if everybody who reaches it may read and write everything"
    );
    let config = from_file(&more(
        "[client]\nlisten = \"10.0.0.7:2379\"\ninsecure_plaintext = true\n",
    ))
    .unwrap();
    assert_eq!(config.warnings().len(), 1);
}

#[test]
fn every_interface_needs_an_advertised_address() {
    let tls = "cert_file = \"a\"\nkey_file = \"b\"\nca_file = \"c\"\n";
    assert_eq!(
        sentences(&more(&format!(
            "[client]\nlisten = \"0.0.0.0:2379\"\n{tls}"
        ))),
        "netsy.toml:6: `client.advertise_urls` is needed when `client.listen` is every interface; name the \
         address that clients use, such as `[\"https://netsy-1.example:2379\"]`"
    );
    let text = more(&format!(
        "[client]\nlisten = \"0.0.0.0:2379\"\nadvertise_urls = [\"https://n1:2379\"]\n{tls}"
    ));
    let config = from_file(&text).unwrap();
    assert_eq!(
        config.client.urls(config.client.listen),
        ["https://n1:2379"]
    );
}

#[test]
fn the_peer_port_is_closed_to_strangers_unless_told_otherwise() {
    let tls = "cert_file = \"a\"\nkey_file = \"b\"\nca_file = \"c\"\n";
    say(&[
        (
            "[peer]\nlisten = \"10.0.0.7:2380\"\n",
            "netsy.toml:6: `peer.listen` is `10.0.0.7:2380`, which other machines reach, and there is no TLS; set `peer.cert_file`, `peer.key_file` and `peer.ca_file` (`netsy certs --node` makes them), or `peer.insecure_plaintext = true` if nobody who reaches it would harm the cluster",
        ),
        (
            "[peer]\ncert_file = \"a\"\nkey_file = \"b\"\n",
            "netsy.toml:6: `peer.cert_file`, `peer.key_file` and `peer.ca_file` go together; `peer.ca_file` is missing",
        ),
        (
            "[peer]\nca_file = \"a\"\n",
            "netsy.toml:6: `peer.cert_file`, `peer.key_file` and `peer.ca_file` go together; `peer.cert_file` is missing",
        ),
        (
            &format!("[peer]\ninsecure_plaintext = true\n{tls}"),
            "netsy.toml:6: `peer.insecure_plaintext` is on, but `peer.cert_file` asks for TLS; drop one of them",
        ),
        (
            &format!("[peer]\nlisten = \"0.0.0.0:2390\"\n{tls}"),
            "netsy.toml:6: `peer.advertise_url` is needed when `peer.listen` is every interface; name the address that other Nodes use, such as `https://netsy-1.example:2390`",
        ),
        (
            &format!("[peer]\nlisten = \"[::]:2390\"\nadvertise_url = \"http://n1:2390\"\n{tls}"),
            "netsy.toml:7: `peer.advertise_url` wants a URL such as `https://netsy-1.example:2380`, not `http://n1:2390`",
        ),
        (
            "[peer]\nlisten = \"127.0.0.1:2390\"\nadvertise_url = \"https://n1:2390\"\n",
            "netsy.toml:7: `peer.advertise_url` wants a URL such as `http://netsy-1.example:2380`, not `https://n1:2390`",
        ),
    ]);
    let good = |text: &str| from_file(&more(text)).unwrap();
    let url = "advertise_url = \"https://n1:2390\"\n";
    let config = good(&format!("[peer]\nlisten = \"[::]:2390\"\n{url}{tls}"));
    assert_eq!(config.warnings().len(), 0);
    assert_eq!(
        good("[peer]\nlisten = \"127.0.0.1:0\"\n").warnings().len(),
        0
    );
    let plain = good("[peer]\nlisten = \"10.0.0.7:2380\"\ninsecure_plaintext = true\n");
    assert!(plain.warnings()[0].contains("whoever reaches 10.0.0.7:2380 can pass for any Node"));
}

#[test]
fn bucket_urls_are_looked_at_closely() {
    let with = |url: &str| {
        let text = format!("cluster_id = \"prod\"\nnode_id = \"n1\"\nbucket.url = \"{url}\"\n");
        from_file(&text)
            .map(|_| ())
            .map_err(|mistakes| mistakes.to_string())
    };
    for good in [
        "s3://a",
        "s3://a/b/c",
        "gs://a",
        "az://a/b",
        "file:///srv/netsy",
        "memory:///",
    ] {
        assert_eq!(with(good), Ok(()), "{good}");
    }
    let cases = [
        (
            "file://srv/netsy",
            "`bucket.url` wants an absolute path after `file://`, such as `file:///srv/netsy`, not `file://srv/netsy`",
        ),
        (
            "file:///var/lib",
            "`data_dir` (/var/lib/netsy) and the bucket (/var/lib) must not lie in one another; the bucket has to survive the loss of the Node's own files",
        ),
        (
            "s3:///x",
            "`bucket.url` names no bucket; it wants `s3://bucket/prefix`",
        ),
        (
            "stuff",
            "`bucket.url` wants a URL such as `s3://bucket/prefix`, not `stuff`",
        ),
        (
            "https://minio:9000/x",
            "`bucket.url` wants a URL of `file`, `s3`, `gs`, `az` or `memory`, not of `https`; an S3-compatible server is `s3://bucket` with `bucket.endpoint`",
        ),
        (
            "s3://id:hush@a",
            "`bucket.url` must not carry credentials; give them as the provider does",
        ),
    ];
    for (url, expected) in cases {
        assert_eq!(with(url), Err(format!("netsy.toml:3: {expected}")), "{url}");
    }
}

#[test]
fn unknown_variables_that_look_like_ours_are_mistakes() {
    let from = |pairs: &[(&str, &str)]| {
        Draft::new()
            .file(Path::new("netsy.toml"), SMALLEST)
            .environment(variables(pairs))
            .finish()
    };
    assert_eq!(
        from(&[("NETSY_BUKCET_URL", "s3://x")])
            .unwrap_err()
            .to_string(),
        "NETSY_BUKCET_URL: no setting has this variable; did you mean `NETSY_BUCKET_URL`?"
    );
    assert_eq!(
        from(&[("NETSY_SOMETHING_ELSE", "1")])
            .unwrap_err()
            .to_string(),
        "NETSY_SOMETHING_ELSE: no setting has this variable; `netsy serve --help` lists all; unset it if it is \
         not meant for netsy"
    );
    let far = from(&[("NETSY_BOGUS", "1")]).unwrap_err().to_string();
    assert!(!far.contains("did you mean"), "{far}");
    assert_eq!(
        from(&[("NETSY_LOGG", "1")]).unwrap_err().to_string(),
        "NETSY_LOGG: no setting has this variable; did you mean `NETSY_LOG`?"
    );
    assert_eq!(
        from(&[("NETSY_CLIENT_ADVERTISE_URLS", "[\"http://a:1\"]")])
            .unwrap_err()
            .to_string(),
        "NETSY_CLIENT_ADVERTISE_URLS: `client.advertise_urls` wants texts with commas between them here (`[...]` \
         is for lists in the file), not `[\"http://a:1\"]`"
    );
    let two = from(&[("NETSY_CLIENT_ADVERTISE_URLS", "http://a:1, http://b:2")]).unwrap();
    assert_eq!(two.client.advertise_urls, ["http://a:1", "http://b:2"]);
    assert_eq!(
        from(&[("NETSY_ELECTOR_TIMEOUT", "soon")])
            .unwrap_err()
            .to_string(),
        "NETSY_ELECTOR_TIMEOUT: `elector.timeout` wants a duration above zero such as `2s`, `500ms` or `1h`, \
         not `soon`"
    );
}

#[test]
fn variables_of_kubernetes_services_are_left_alone() {
    let links = [
        ("NETSY_SERVICE_HOST", "10.0.0.1"),
        ("NETSY_SERVICE_PORT", "2379"),
        ("NETSY_CLIENT_SERVICE_PORT_GRPC", "2379"),
        ("NETSY_PORT", "tcp://10.0.0.1:2379"),
        ("NETSY_PORT_2379_TCP", "tcp://10.0.0.1:2379"),
        ("NETSY_PORT_2379_TCP_ADDR", "10.0.0.1"),
        ("NETSY_CONFIG", "/etc/netsy.toml"),
        ("NETSY_LOG", "debug"),
    ];
    let draft = Draft::new().file(Path::new("netsy.toml"), SMALLEST);
    assert!(draft.environment(variables(&links)).finish().is_ok());
}

#[test]
fn secrets_are_shown_nowhere() {
    let text = more("access_key_id = \"hush\"\nsecret_access_key = \"hush\"\n");
    let shown = format!("{:?}", from_file(&text).unwrap());
    assert!(!shown.contains("hush"), "{shown}");
    let mistakes = sentences(&more(
        "access_key_id = [\"hush\"]\nsecret_access_key = [\"hush\"]\n",
    ));
    assert!(!mistakes.contains("hush"), "{mistakes}");
}

#[test]
fn tables_of_the_file_may_be_written_in_any_way_toml_knows() {
    let dotted = "cluster_id = \"prod\"\nnode_id = \"n1\"\nbucket.url = \"s3://stuff/netsy\"\n";
    let inline =
        "cluster_id = \"prod\"\nnode_id = \"n1\"\nbucket = { url = \"s3://stuff/netsy\" }\n";
    assert_eq!(from_file(dotted), from_file(SMALLEST));
    assert_eq!(from_file(inline), from_file(SMALLEST));
}

#[test]
fn dev_binds_loopback_only() {
    let dir = Path::new("/tmp/x y");
    let config = Config::dev(dir, "127.0.0.1:2379", "127.0.0.1:0").unwrap();
    assert_eq!(config.bucket.url, "file:///tmp/x%20y/bucket");
    assert_eq!(config.data_dir, Path::new("/tmp/x y/node-1"));
    assert!(Config::dev(dir, "[::1]:2379", "127.0.0.1:0").is_ok());
    let refused = Config::dev(dir, "0.0.0.0:2379", "127.0.0.1:0")
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "--listen: `netsy dev` has no TLS and binds loopback only, not `0.0.0.0:2379`; to serve other machines \
         make certificates with `netsy certs` and use `netsy serve`"
    );
    assert!(Config::dev(dir, "127.0.0.1:2379", "10.0.0.1:1").is_err());
    let twice = Config::dev(dir, "127.0.0.1:2379", "127.0.0.1:2379").unwrap_err();
    assert_eq!(
        twice.to_string(),
        "--http: `--listen` is `127.0.0.1:2379`, too; each port needs an address of its own"
    );
}

#[test]
fn the_table_of_settings_is_consistent() {
    for (index, setting) in settings::SETTINGS.iter().enumerate() {
        let others = &settings::SETTINGS[index + 1..];
        assert!(
            others
                .iter()
                .all(|other| other.variable() != setting.variable()),
            "{}",
            setting.key
        );
        assert!(
            others.iter().all(|other| other.flag() != setting.flag()),
            "{}",
            setting.key
        );
    }
    // Reads every default.
    let _ = Draft::new();
}
