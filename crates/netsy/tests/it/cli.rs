//! The `netsy` command as a user meets it: what it prints, and the code it ends with.
//! Each test runs the built binary, in a directory and with an environment of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// `netsy` with these arguments and no variables of ours.
fn netsy(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netsy"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NETSY_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

fn ended(mut command: Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("")
}

#[test]
fn version_is_printed() {
    let expected = concat!("netsy ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    assert_eq!(
        ended(netsy(&["version"])),
        (0, expected.clone(), String::new())
    );
    assert_eq!(ended(netsy(&["--version"])), (0, expected, String::new()));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for args in [
        &[][..],
        &["sing"],
        &["serve", "--elector-timeuot", "5s"],
        &["certs"],
    ] {
        assert_eq!(ended(netsy(args)).0, 2, "{args:?}");
    }
    let (_, _, said) = ended(netsy(&["serve", "--elector-timeuot", "5s"]));
    assert!(said.contains("--elector-timeout"), "{said}");
}

#[test]
fn every_setting_is_a_flag_unless_it_is_secret() {
    let (code, help, _) = ended(netsy(&["serve", "--help"]));
    assert_eq!(code, 0);
    for setting in netsy::config::settings::SETTINGS {
        let listed = help.contains(&format!("--{} <VALUE>", setting.flag()));
        assert_eq!(
            listed,
            !setting.key.contains("access_key"),
            "{}",
            setting.key
        );
        let named = help.trim_end().lines().last().unwrap();
        assert!(listed || named.contains(&setting.variable()), "{named}");
    }
}

#[test]
fn config_check_says_ok_or_every_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("netsy.toml");
    let name = file.to_str().unwrap();
    std::fs::write(
        &file,
        "cluster_id = \"prod\"\nnode_id = \"n1\"\n[bucket]\nurl = \"s3://stuff\"\n",
    )
    .unwrap();
    let ok = format!("{name}: ok; Node `n1` of cluster `prod`, bucket s3://stuff\n");
    assert_eq!(
        ended(netsy(&["config", "check", name])),
        (0, ok, String::new())
    );

    std::fs::write(
        &file,
        "cluster_id = \"Prod\"\nnode = \"n1\"\n[bucket]\nurl = \"s3://stuff\"\n",
    )
    .unwrap();
    let (code, out, said) = ended(netsy(&["config", "check", name]));
    assert_eq!((code, out.as_str()), (2, ""));
    let expected = format!(
        "{name}:1: `cluster_id` wants 1 to 32 of a-z, 0-9 and single hyphens between them, not `Prod`\n\
         {name}:2: `node` is no setting; did you mean `node_id`?\n\
         configuration: `node_id` is missing; set it in the file, or as `NETSY_NODE_ID`, or with `--node-id`\n\
         netsy: check the configuration in `{name}`: there are 3 mistakes, see above; correct it and try again\n"
    );
    assert_eq!(said, expected);

    let mut command = netsy(&["config", "check", name]);
    command
        .env("NETSY_NODE_ID", "n1")
        .env("NETSY_NODE_IDD", "n1");
    let (code, _, said) = ended(command);
    assert_eq!(code, 2);
    assert!(
        said.contains(
            "NETSY_NODE_IDD: no setting has this variable; did you mean `NETSY_NODE_ID`?"
        ),
        "{said}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let (code, _, said) = ended(netsy(&["serve", "--config", "/nowhere/netsy.toml"]));
    assert_eq!(code, 2);
    assert_eq!(
        last_line(&said),
        "netsy: read the configuration from `/nowhere/netsy.toml`: No such file or directory (os error 2); give the \
         path of a readable netsy.toml"
    );
}

#[test]
fn dev_refuses_to_be_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = netsy(&["dev", "--listen", "0.0.0.0:0"]);
    command.current_dir(dir.path());
    let (code, _, said) = ended(command);
    assert_eq!(code, 2);
    assert!(
        said.starts_with(
            "--listen: `netsy dev` has no TLS and binds loopback only, not `0.0.0.0:0`;"
        ),
        "{said}"
    );
    assert!(
        last_line(&said).starts_with("netsy: start `netsy dev`: "),
        "{said}"
    );
    assert!(!dir.path().join("netsy-data").exists());
}

#[test]
fn certs_make_files_and_say_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let args = [
        "certs",
        "--cluster-id",
        "prod",
        "--host",
        "n1.example",
        "--dir",
        certs.to_str().unwrap(),
    ];
    let (code, out, _) = ended(netsy(&args));
    assert_eq!(code, 0);
    assert!(
        out.contains("--endpoints https://n1.example:2379 --cacert"),
        "{out}"
    );
    let (code, _, said) = ended(netsy(&args));
    assert_eq!(code, 2);
    assert!(
        last_line(&said).contains("certificates are never overwritten"),
        "{said}"
    );

    // What it says to write is a configuration that serve takes, files and all.
    let shown = out
        .split("[client]")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .unwrap();
    let file = dir.path().join("netsy.toml");
    let text = format!(
        "cluster_id = \"prod\"\nnode_id = \"n1\"\nbucket.url = \"memory:///\"\n[client]{shown}"
    );
    std::fs::write(&file, text).unwrap();
    let (code, _, said) = ended(netsy(&["config", "check", file.to_str().unwrap()]));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn config_check_looks_at_certificate_files() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let (dir_of, file) = (certs.to_str().unwrap(), dir.path().join("netsy.toml"));
    for node in ["n1", "n2"] {
        let args = [
            "certs",
            "--cluster-id",
            "prod",
            "--dir",
            dir_of,
            "--node",
            node,
        ];
        assert_eq!(ended(netsy(&args)).0, 0);
    }
    let check = |server: &str, key: &str, peer: &str| {
        let text = format!(
            "cluster_id = \"prod\"\nnode_id = \"n1\"\nbucket.url = \"memory:///\"\n\
             [client]\ncert_file = \"certs/{server}.crt\"\nkey_file = \"certs/{key}.key\"\n\
             ca_file = \"certs/ca.crt\"\n\
             [peer]\nlisten = \"127.0.0.1:2380\"\ncert_file = \"certs/{peer}.crt\"\n\
             key_file = \"certs/{peer}.key\"\nca_file = \"certs/ca.crt\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let (code, _, said) = ended(netsy(&["config", "check", file.to_str().unwrap()]));
        (code, said)
    };
    let (code, said) = check("server-n1", "server-n1", "peer-n1");
    assert_eq!(code, 0, "{said}");
    for (server, key, peer, expected) in [
        ("server-n9", "server-n1", "peer-n1", "[client]: read `"),
        (
            "server-n1",
            "server-n2",
            "peer-n1",
            "[client]: use the private key with",
        ),
        (
            "server-n1",
            "server-n1",
            "peer-n2",
            "not `netsy://prod/peer/n1`",
        ),
        (
            "server-n1",
            "server-n1",
            "server-n1",
            "[peer]: be this node by",
        ),
    ] {
        let (code, said) = check(server, key, peer);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
    std::fs::write(
        certs.join("ca.crt"),
        std::fs::read(certs.join("server-n2.crt")).unwrap(),
    )
    .unwrap();
    let (code, said) = check("server-n1", "server-n1", "peer-n1");
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("[peer]: be believed by other nodes"),
        "{said}"
    );
}

#[test]
fn status_ends_with_1_when_a_node_is_unreachable() {
    // Nobody listens on port 1.
    let (code, out, said) = ended(netsy(&["status", "--endpoints", "127.0.0.1:1"]));
    assert_eq!(code, 1, "{said}");
    assert!(out.contains("| unreachable "), "{out}");
    assert!(
        last_line(&said)
            .starts_with("netsy: ask every node how it is: 1 of 1 node is not at work;"),
        "{said}"
    );
    let args = ["status", "--endpoints", "127.0.0.1:1", "-w", "json"];
    let (code, out, _) = ended(netsy(&args));
    let seen: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &seen[0]["endpoint"]),
        (1, &"http://127.0.0.1:1".into())
    );
    assert!(
        seen[0]["error"].as_str().unwrap().contains("refused"),
        "{out}"
    );
    for (endpoints, shown) in [("", "``"), ("127.0.0.1", "`127.0.0.1`"), ("a:1,b", "`b`")] {
        let (code, _, said) = ended(netsy(&["status", "--endpoints", endpoints]));
        assert_eq!(code, 2, "{said}");
        let expected = format!("netsy: ask the nodes: {shown} is no endpoint; `--endpoints` wants");
        assert!(last_line(&said).starts_with(&expected), "{said}");
    }
    let (code, _, said) = ended(netsy(&["status", "--endpoints", "https://127.0.0.1:1"]));
    assert_eq!(code, 2);
    assert!(said.contains("`--cacert` is missing"), "{said}");
}

#[test]
fn status_asks_for_cacert_where_tls_is_spoken() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // Whoever speaks TLS answers what is none with an alert.
        while let Ok((mut socket, _)) = port.accept() {
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(&[21, 3, 3, 0, 2, 2, 10]);
        }
    });
    let (code, out, _) = ended(netsy(&["status", "--endpoints", &address]));
    assert_eq!(code, 1);
    assert!(out.contains("does it speak TLS? give `--cacert`"), "{out}");
}

/// A running `netsy dev`, killed when dropped.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn dev(dir: &Path) -> Running {
        let mut command = netsy(&[
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--dir",
            dir.to_str().unwrap(),
        ]);
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Running { child, log }
    }

    /// The first log entry with this message. JSON, as nobody looks at it in a terminal.
    fn wait_for(&mut self, message: &str) -> serde_json::Value {
        loop {
            let mut line = String::new();
            assert!(
                self.log.read_line(&mut line).unwrap() > 0,
                "it ended before `{message}`"
            );
            let entry: serde_json::Value = serde_json::from_str(&line).expect("each line is JSON");
            if entry["message"] == message {
                return entry;
            }
        }
    }

    /// The address of the health port.
    fn health(&mut self) -> String {
        self.wait_for("health port open")["address"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn told_to_stop(&mut self) -> i32 {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        kill_process(pid, Signal::TERM).unwrap(); // as `timeout` does
        // Read to the end, so that it never waits for its reader.
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

/// What the health port answers, with its head.
fn get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn dev_starts_answers_and_stops_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::dev(&dir.path().join("data"));
    let answer = get(&running.health(), "/livez");
    assert!(answer.ends_with("alive\n"), "{answer}");
    assert_eq!(running.told_to_stop(), 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::dev(&dir.path().join("data"));
    let health = running.health();
    while !get(&health, "/readyz").ends_with("\r\n\r\nready\n") {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A request that never ends keeps the health port open for a moment.
    let mut socket = TcpStream::connect(health).unwrap();
    socket.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    let pid = Pid::from_child(&running.child);
    let code = loop {
        // Those that follow the first at once count as its echo.
        kill_process(pid, Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if let Some(status) = running.child.try_wait().unwrap() {
            break status.code().unwrap();
        }
    };
    assert_eq!(code, 143);
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = netsy(&[
        "dev",
        "--dir",
        dir.path().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ]);
    command.env("NETSY_LOG", "netsy=loudly");
    let (code, _, said) = ended(command);
    assert_eq!(code, 2);
    assert!(
        last_line(&said).starts_with("netsy: start the log as `NETSY_LOG` says: "),
        "{said}"
    );
    // What `serve` refuses, `config check` does.
    let file = dir.path().join("netsy.toml");
    let text = "cluster_id = \"prod\"\nnode_id = \"n1\"\nbucket.url = \"s3://stuff\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = netsy(&["config", "check", file.to_str().unwrap()]);
    command.env("NETSY_LOG", "netsy=loudly");
    let (code, out, said) = ended(command);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        said.starts_with("NETSY_LOG: `netsy=loudly` is no log filter such as `netsy=debug,warn`: "),
        "{said}"
    );
}

#[test]
fn dev_names_its_own_flags_when_a_port_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (flag, other) in [("--listen", "--http"), ("--http", "--listen")] {
        let mut command = netsy(&["dev", flag, &taken, other, "127.0.0.1:0"]);
        command.current_dir(dir.path());
        let (code, _, said) = ended(command);
        assert_eq!(code, 1, "{said}");
        let expected = format!("stop what uses the address, or choose another with `{flag}`");
        assert!(last_line(&said).ends_with(&expected), "{said}");
    }
}

#[test]
fn dev_has_no_node_beyond_its_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = netsy(&["dev", "--nodes", "3", "--node", "4"]);
    command.current_dir(dir.path());
    let (code, _, said) = ended(command);
    assert_eq!(code, 2);
    assert_eq!(
        last_line(&said),
        "netsy: start `netsy dev`: `--node 4` is none of the 3 of `--nodes 3`; choose one from 1 to 3, or more \
         `--nodes`"
    );
    assert!(!dir.path().join("netsy-data").exists());
}

#[test]
fn a_cluster_whose_nodes_are_refused_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = netsy(&["dev", "--nodes", "2", "--listen", "127.0.0.1:0"]);
    command
        .current_dir(dir.path())
        .env("NETSY_LOG", "netsy=loudly");
    let (code, _, said) = ended(command);
    assert_eq!(code, 2, "{said}");
    assert!(!said.contains("starts it again"), "{said}");
    assert_eq!(
        last_line(&said),
        "netsy: run the cluster: every node has ended; correct what is said above"
    );
}

#[test]
fn a_cluster_whose_nodes_were_killed_ends_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = netsy(&["dev", "--nodes", "2", "--listen", "127.0.0.1:0"]);
    command.current_dir(dir.path()).env("NETSY_LOG", "off");
    let mut parent = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(parent.stdout.take().unwrap());
    for _ in 0..2 {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let pid = line
            .split("pid=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let pid = pid.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("it says its process"), Signal::KILL).unwrap();
    }
    let Output { status, stderr, .. } = parent.wait_with_output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches("starts it again").count(), 2, "{said}");
    assert_eq!(
        last_line(&said),
        "netsy: run the cluster: every node has ended; see above for why"
    );
}

#[test]
fn a_directory_in_use_is_not_to_be_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut running = Running::dev(&data);
    let health = running.health();
    while !get(&health, "/readyz").ends_with("\r\n\r\nready\n") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let args = [
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--dir",
        data.to_str().unwrap(),
    ];
    let (code, _, said) = ended(netsy(&args));
    assert_eq!(code, 1);
    let told = last_line(&said);
    assert!(
        told.contains("is in use by another process (pid "),
        "{said}"
    );
    assert!(
        told.ends_with("; stop that process, or choose another `--dir`"),
        "{said}"
    );
    assert_eq!(running.told_to_stop(), 0);
}
