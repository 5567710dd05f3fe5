//! What a Node prints on standard output when it is ready: where it is, and a line to try.
//! The one thing it prints there: everything else is log, on standard error.

use std::net::SocketAddr;

use crate::config::Config;

/// One line with the endpoint and where everything is, and for a Node without TLS a hint to try. `client` and
/// `http` are the addresses really bound.
#[must_use]
pub fn ready(config: &Config, client: SocketAddr, http: SocketAddr) -> String {
    if config.is_one_of_many {
        return one_of_many(config, client, http);
    }
    let urls = config.client.urls(client).join(",");
    let mut text = format!(
        "netsy is ready: {urls} (Node `{}` of cluster `{}`, bucket {}, health http://{http}/)\n",
        config.node_id, config.cluster_id, config.bucket.url
    );
    if config.client.cert_file.is_none() {
        text.push_str(&format!(
            "try: printf 'mod(\"hello\") = \"0\"\\n\\nput hello world\\n\\n\\n' | etcdctl --endpoints {client} txn\n\
             and: etcdctl --endpoints {client} get hello\n"
        ));
    }
    text
}

/// One Node of `netsy dev --nodes N` is ready: its endpoint and its process.
fn one_of_many(config: &Config, client: SocketAddr, http: SocketAddr) -> String {
    format!(
        "{} is ready: {} pid={} (health http://{http}/)\n",
        config.node_id,
        config.client.urls(client).join(","),
        std::process::id(),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_dev_node_says_where_it_is_and_what_to_try() {
        let config = Config::dev(Path::new("/tmp/d"), "127.0.0.1:0", "127.0.0.1:0").unwrap();
        let text = ready(
            &config,
            "127.0.0.1:2379".parse().unwrap(),
            "127.0.0.1:8080".parse().unwrap(),
        );
        assert_eq!(
            text,
            "netsy is ready: http://127.0.0.1:2379 (Node `node-1` of cluster `dev`, bucket file:///tmp/d/bucket, \
             health http://127.0.0.1:8080/)\n\
             try: printf 'mod(\"hello\") = \"0\"\\n\\nput hello world\\n\\n\\n' | etcdctl --endpoints \
             127.0.0.1:2379 txn\n\
             and: etcdctl --endpoints 127.0.0.1:2379 get hello\n"
        );
    }
}
