//! What an operator is shown of three Nodes: who is what, who is not well, and how much the bucket lacks.

use std::time::Duration;

use netsy::admin::status::{Question, Seen, look, table, verdict};
use netsy::bucket::faults::Fault;
use netsy::report::Report;

use super::cluster::{calm_cluster, register, stop};
use super::node::{Place, Running, new_chunks, until};

fn question(nodes: &[&Running], cluster: bool) -> Question {
    Question {
        endpoints: nodes.iter().map(|node| node.clients.to_string()).collect(),
        cluster,
        within: Duration::from_secs(5),
        ..Question::default()
    }
}

fn of<'a>(seen: &'a [Seen], name: &str) -> &'a Seen {
    let mut named = seen
        .iter()
        .filter(|seen| seen.node_id.as_deref() == Some(name));
    let found = named
        .next()
        .unwrap_or_else(|| panic!("no `{name}` in {seen:?}"));
    assert!(named.next().is_none(), "{name} twice");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_who_is_what_and_who_does_not_answer() {
    let place = Place::new();
    let mut nodes = calm_cluster(&place).await;
    let written = nodes[0].kv().put("k", "v").await;
    let all: Vec<&Running> = nodes.iter().collect();
    let asked = question(&all, false);
    let well = |seen: &[Seen]| {
        if verdict(seen).is_err() {
            return false;
        }
        let reports: Vec<&Report> = seen.iter().filter_map(|one| one.status.as_ref()).collect();
        let active = |one: &&&Report| one.primary_state == "active";
        reports.iter().filter(active).count() == 1
            && reports.iter().filter(|one| one.elector).count() == 1
            && reports.iter().all(|one| {
                one.voters.len() == 3
                    && one.committed_revision >= written as u64
                    && one.members.len() == 3
                    && one.epoch == reports[0].epoch
            })
    };
    let seen = parking_lot::Mutex::new(Vec::new());
    until("all of them are well and say the same", || async {
        let now = look(&asked).await.unwrap();
        let well = well(&now);
        *seen.lock() = now;
        well
    })
    .await;
    let seen = seen.into_inner();
    let primary = register(&place).await.primary.unwrap().node_id;
    let report = of(&seen, &primary).status.clone().unwrap();
    assert_eq!(report.commit_path.as_deref(), Some("quorum"));
    assert_eq!(report.versions.netsy, env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (report.versions.data_file, report.cluster_id.as_str()),
        (1, "weather")
    );
    assert!(table(&seen).contains("primary"));
    let page = format!("http://{}/status", nodes[0].health);
    let page = reqwest::get(page).await.unwrap().text().await.unwrap();
    let page: Report = serde_json::from_str(&page).unwrap();
    assert_eq!(page.node_id, nodes[0].name, "the health port says the same");

    let at = nodes.iter().position(|node| node.name != primary).unwrap();
    let gone = nodes.remove(at);
    let (name, address) = (gone.name.clone(), gone.clients.to_string());
    gone.kill().await;
    // One is enough to find the others, the one that is gone included.
    let asked = question(&[&nodes[0]], true);
    until("the others are well", || async {
        let seen = look(&asked).await.unwrap();
        assert_eq!(seen.len(), 3);
        let dead = of(&seen, &name);
        assert!(dead.status.is_none() && dead.endpoint.ends_with(&address));
        let why = dead.error.as_deref().unwrap();
        assert!(why.contains("refused"), "{why}");
        let said = verdict(&seen).unwrap_err().to_string();
        said.contains("1 of 3 nodes is not at work")
    })
    .await;
    stop(nodes).await;
}

/// Its Report, and the three metrics of the window: Records, bytes, seconds.
async fn window(node: &Running) -> (Report, [f64; 3]) {
    let get = |path: &str| reqwest::get(format!("http://{}{path}", node.health));
    let report = get("/status").await.unwrap().text().await.unwrap();
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    let value = |name: &str| {
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("netsy_unflushed_{name} ")));
        line.expect("it is a metric").parse().unwrap()
    };
    let report = serde_json::from_str(&report).unwrap();
    (report, ["records", "bytes", "age_seconds"].map(value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unflushed_window_is_what_the_bucket_lacks() {
    const WRITES: u64 = 20;
    const VALUE: usize = 1_000;
    let place = Place::new();
    let nodes = calm_cluster(&place).await;
    let primary = register(&place).await.primary.unwrap().node_id;
    let primary = nodes.iter().find(|node| node.name == primary).unwrap();
    until("there is nothing to flush", || async {
        window(primary).await.1 == [0.0, 0.0, 0.0]
    })
    .await;
    primary.sky.set(new_chunks(Fault::Before));
    let began = std::time::Instant::now();
    for number in 0..WRITES {
        let value = "v".repeat(VALUE);
        primary.kv().put(&format!("k{number}"), &value).await;
    }
    let written_in = began.elapsed().as_secs_f64();
    for node in &nodes {
        until("the window is a second old, and whole", || async {
            let (report, [records, bytes, age]) = window(node).await;
            assert!(
                age <= began.elapsed().as_secs_f64() + 0.1,
                "older than the first write"
            );
            report.unflushed.records == WRITES
                && records == WRITES as f64
                && report.committed_revision == report.bucket_revision + WRITES
                && bytes >= (WRITES * VALUE as u64) as f64
                && bytes < (WRITES * 2 * VALUE as u64) as f64
                && age >= 1.0
        })
        .await;
        let (_, [_, _, age]) = window(node).await;
        let at_least = began.elapsed().as_secs_f64() - written_in - 1.0;
        assert!(
            age >= at_least,
            "{age} s, and all was written {at_least} s ago"
        );
    }
    primary.sky.calm();
    for node in &nodes {
        until("everything is in the bucket", || async {
            window(node).await.1 == [0.0, 0.0, 0.0]
        })
        .await;
    }
    stop(nodes).await;
}
