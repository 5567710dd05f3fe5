//! The table of `netsy status`: one line for each Node, and under it what is wrong.

use super::Seen;
use crate::report::Report;

const HEAD: [&str; 10] = [
    "NODE",
    "ROLE",
    "HEALTH",
    "COMMITTED",
    "LAG",
    "EPOCH",
    "PATH",
    "UNFLUSHED",
    "VERSION",
    "ENDPOINT",
];

/// What was seen, for people.
#[must_use]
pub fn table(seen: &[Seen]) -> String {
    let newest = seen
        .iter()
        .filter_map(|seen| Some(seen.status.as_ref()?.committed_revision))
        .max()
        .unwrap_or_default();
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(seen.iter().map(|seen| row(seen, newest)));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let rule: String = widths
        .iter()
        .map(|width| format!("+{:-<1$}", "", width + 2))
        .collect();
    let rule = format!("{rule}+\n");
    let mut text = rule.clone();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            text += &format!("| {cell:<width$} ");
        }
        text += "|\n";
        if number == 0 {
            text += &rule;
        }
    }
    text += &rule;
    text + &complaints(seen)
}

fn row(seen: &Seen, newest: u64) -> [String; 10] {
    let name = seen.node_id.clone().unwrap_or_else(|| "?".to_owned());
    let nothing = || "-".to_owned();
    let Some(status) = &seen.status else {
        return [
            name,
            nothing(),
            "unreachable".to_owned(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            seen.endpoint.clone(),
        ];
    };
    [
        name,
        role(status),
        status.health.clone(),
        status.committed_revision.to_string(),
        newest.saturating_sub(status.committed_revision).to_string(),
        status.epoch.to_string(),
        status.commit_path.clone().unwrap_or_else(nothing),
        unflushed(status),
        format!(
            "{} (files {})",
            status.versions.netsy, status.versions.data_file
        ),
        seen.endpoint.clone(),
    ]
}

fn role(status: &Report) -> String {
    let primary = match status.primary_state.as_str() {
        "active" => "primary",
        other => other,
    };
    if status.elector {
        format!("{primary}, elector")
    } else {
        primary.to_owned()
    }
}

fn unflushed(status: &Report) -> String {
    let window = status.unflushed;
    if window.records == 0 {
        return "-".to_owned();
    }
    format!(
        "{}, {}, {:.1} s",
        counted(window.records, "Record"),
        size(window.bytes),
        window.age_ms as f64 / 1_000.0
    )
}

fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A line for each Node that is not well.
fn complaints(seen: &[Seen]) -> String {
    let ill = seen.iter().filter(|seen| !seen.is_well());
    ill.map(|seen| {
        let name = seen.node_id.as_deref().unwrap_or(&seen.endpoint);
        let why = match (&seen.status, &seen.error) {
            (Some(status), _) => {
                let reason = status.reason.as_deref().unwrap_or("it is about to stop");
                // The line begins with its name.
                let reason = reason
                    .strip_prefix(&format!("node `{name}` "))
                    .unwrap_or(reason);
                format!("{}: {reason}", status.health)
            }
            (None, Some(why)) => format!("unreachable: {why}"),
            (None, None) => "unreachable".to_owned(),
        };
        format!("{name}: {why}\n")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Unflushed, Versions};

    fn status(name: &str, committed: u64) -> Report {
        Report {
            node_id: name.into(),
            health: "healthy".into(),
            primary_state: "replica".into(),
            epoch: 3,
            committed_revision: committed,
            versions: Versions {
                netsy: "0.1.0".into(),
                data_file: 1,
                peer: "1".into(),
            },
            ..Report::default()
        }
    }

    fn seen(status: Report, port: u16) -> Seen {
        Seen {
            endpoint: format!("http://127.0.0.1:{port}"),
            node_id: Some(status.node_id.clone()),
            status: Some(status),
            error: None,
        }
    }

    #[test]
    fn a_line_for_each_node_and_one_for_each_that_is_ill() {
        let primary = Report {
            primary_state: "active".into(),
            elector: true,
            commit_path: Some("quorum".into()),
            unflushed: Unflushed {
                records: 12,
                bytes: 3_500,
                age_ms: 340,
            },
            ..status("node-1", 40)
        };
        let ill = Report {
            health: "degraded".into(),
            reason: Some("node `node-2` hears no active primary".into()),
            ..status("node-2", 38)
        };
        let gone = Seen {
            endpoint: "http://127.0.0.1:2399".into(),
            node_id: None,
            status: None,
            error: Some("Connection refused (os error 111)".into()),
        };
        let all = [seen(primary, 2379), seen(ill, 2389), gone];
        let text = table(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[3].split('|').map(str::trim).collect::<Vec<_>>()[1..11],
            [
                "node-1",
                "primary, elector",
                "healthy",
                "40",
                "0",
                "3",
                "quorum",
                "12 Records, 3.4 KiB, 0.3 s",
                "0.1.0 (files 1)",
                "http://127.0.0.1:2379"
            ]
        );
        assert!(lines[4].contains("| degraded "), "{text}");
        assert!(lines[4].contains("| 2   "), "the lag: {text}");
        assert!(lines[5].contains("| unreachable "), "{text}");
        assert_eq!(
            lines[7..],
            [
                "node-2: degraded: hears no active primary",
                "http://127.0.0.1:2399: unreachable: Connection refused (os error 111)"
            ]
        );
        let width = lines[0].len();
        assert!(lines[..7].iter().all(|line| line.len() == width), "{text}");
        let said = super::super::verdict(&all).unwrap_err().to_string();
        assert!(said.contains(": 2 of 3 nodes are not at work;"), "{said}");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(1_023), "1023 B");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(counted(1, "Record"), "1 Record");
    }
}
