//! What to do with the files of `netsy certs`, for people: pieces of netsy.toml and a command to try.

use std::fmt::Write;

use super::Wish;

/// What to do with the files, for people.
#[must_use]
pub fn next_steps(wish: &Wish) -> String {
    let mut text = String::new();
    if wish.nodes.is_empty() {
        let section = client(wish, "server", wish.hosts.first());
        text += "For the Node, in netsy.toml (its user must be able to read these files):\n\n";
        text += &section;
    }
    for node in &wish.nodes {
        let node_id = &node.node_id;
        let _ = write!(
            text,
            "For the Node `{node_id}`, in its netsy.toml (it needs these files, and its user must be able to read them):\n\n"
        );
        text += &client(wish, &format!("server-{node_id}"), node.hosts.first());
        text.push('\n');
        text += &peer(wish, node_id, node.hosts.first());
        text.push('\n');
    }
    if wish.nodes.is_empty() {
        text.push('\n');
    }
    let client = wish.clients.first().map_or("client", String::as_str);
    let (more, needed) = if wish.nodes.is_empty() {
        ("--client NAME", "Another client later")
    } else {
        (
            "--node NODE=HOST",
            "Another Node later (or `--client NAME`)",
        )
    };
    let _ = write!(
        text,
        "For the client `{client}`:\n\n\
         \x20 etcdctl --endpoints {} --cacert {} --cert {} --key {} endpoint health\n\n\
         {needed}: netsy certs --dir {} --cluster-id {} {more}\n\
         Keep {} away from the Nodes: whoever has it can make certificates for anybody.\n",
        endpoints(wish),
        path(wish, "ca.crt"),
        path(wish, &format!("{client}.crt")),
        path(wish, &format!("{client}.key")),
        wish.dir.display(),
        wish.cluster_id,
        path(wish, "ca.key"),
    );
    text
}

fn endpoints(wish: &Wish) -> String {
    let firsts: Vec<_> = if wish.nodes.is_empty() {
        vec![wish.hosts.first()]
    } else {
        wish.nodes.iter().map(|node| node.hosts.first()).collect()
    };
    let urls: Vec<_> = firsts.into_iter().map(|host| url(host, 2379)).collect();
    urls.join(",")
}

fn client(wish: &Wish, pair: &str, host: Option<&String>) -> String {
    let listen = match host {
        None => "listen = \"127.0.0.1:2379\"".to_owned(),
        Some(_) => format!(
            "listen = \"0.0.0.0:2379\"\n  advertise_urls = [\"{}\"]",
            url(host, 2379)
        ),
    };
    format!("  [client]\n  {listen}\n{}", files(wish, pair))
}

fn peer(wish: &Wish, node_id: &str, host: Option<&String>) -> String {
    let listen = match host {
        None => "listen = \"127.0.0.1:2380\"".to_owned(),
        Some(_) => format!(
            "listen = \"0.0.0.0:2380\"\n  advertise_url = \"{}\"",
            url(host, 2380)
        ),
    };
    let files = files(wish, &format!("peer-{node_id}"));
    format!("  [peer]\n  {listen}\n{files}")
}

fn files(wish: &Wish, pair: &str) -> String {
    format!(
        "  cert_file = \"{}\"\n  key_file = \"{}\"\n  ca_file = \"{}\"\n",
        path(wish, &format!("{pair}.crt")),
        path(wish, &format!("{pair}.key")),
        path(wish, "ca.crt")
    )
}

fn path(wish: &Wish, name: &str) -> String {
    wish.dir.join(name).display().to_string()
}

fn url(host: Option<&String>, port: u16) -> String {
    match host {
        Some(host) if host.contains(':') => format!("https://[{host}]:{port}"),
        Some(host) => format!("https://{host}:{port}"),
        None => format!("https://127.0.0.1:{port}"),
    }
}
