//! docs/OPERATING.md says what the code does: its tables of settings and metrics are made from the code.
//! `UPDATE_DOCS=1 cargo test -p netsy operating` writes them anew; without it a difference is a failure.

use std::path::Path;

use netsy::config::settings::SETTINGS;
use netsy::standing::{Board, HealthState, PrimaryState, Standing};
use netsy::telemetry::Metrics;

fn settings() -> String {
    let mut text = "| in netsy.toml | default | what it is for |\n|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let default = setting
            .default
            .map_or("-".to_owned(), |default| format!("`{default}`"));
        text.push_str(&format!(
            "| `{}` | {default} | {} |\n",
            setting.key, setting.meaning
        ));
    }
    text
}

fn metrics() -> String {
    let board = Board::new(Standing {
        node_id: "n".into(),
        cluster_id: "c".into(),
        member_id: 0,
        health: HealthState::Loading,
        reason: None,
        primary_state: PrimaryState::Replica,
        epoch: rules::revision::Epoch::ZERO,
        leader: 0,
        leader_name: None,
        elector: false,
        members: Vec::new(),
    });
    let encoded = Metrics::new("c", "n", |registry| {
        netsy::api::Metrics::default().register(registry);
    })
    .text(&board);
    let mut text = "| name | type | what it says |\n|---|---|---|\n".to_owned();
    let mut help = "";
    for line in encoded.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let name = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            text.push_str(&format!(
                "| `{name}` | {kind} | {} |\n",
                help.trim_end_matches('.')
            ));
        }
    }
    text
}

/// Compares the part of the page between the marks of `name`, or writes it.
fn section(name: &str, expected: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPERATING.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (begin, end) = (
        format!("<!-- {name}: made from the code -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let from = text.find(&begin).expect("the begin mark is there") + begin.len();
    let to = text.find(&end).expect("the end mark is there");
    if text[from..to] == *expected {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "docs/OPERATING.md is not what the code says about {name}; run `UPDATE_DOCS=1 cargo test -p netsy operating`"
    );
    std::fs::write(&page, format!("{}{expected}{}", &text[..from], &text[to..])).unwrap();
}

#[test]
fn operating_lists_every_setting_and_every_metric() {
    section("settings", &settings());
    section("metrics", &metrics());
}
