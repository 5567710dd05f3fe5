//! The log on standard error: lines for people on a terminal, JSON elsewhere, each with the Node's name where several
//! Nodes write to one place.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::standing::now;

/// How long a line of [`Seldom`] is not said again, milliseconds.
const SELDOM_MS: u64 = 10_000;

/// A line of the log that comes as often as something goes wrong, and is said every ten seconds at most.
#[derive(Debug, Default)]
pub struct Seldom {
    /// When it may be said again, milliseconds of [`now`].
    silent_until: AtomicU64,
    unsaid: AtomicU64,
}

impl Seldom {
    /// One that was never said.
    #[must_use]
    pub const fn new() -> Seldom {
        Seldom {
            silent_until: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// Whether to say it, and how often it was not said since it last was.
    pub fn say(&self) -> Option<u64> {
        self.say_at(now())
    }

    fn say_at(&self, now: u64) -> Option<u64> {
        let says = |until| (now >= until).then_some(now + SELDOM_MS);
        let (relaxed, silent_until) = (Ordering::Relaxed, &self.silent_until);
        if silent_until.fetch_update(relaxed, relaxed, says).is_err() {
            self.unsaid.fetch_add(1, relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, relaxed))
    }
}

/// Standard error, with the Node's name in each line: first in an object of JSON, before a line for people.
struct Named {
    json: bool,
    node: String,
}

impl Named {
    /// `line`, which is a whole one as the formatter writes it, with the name.
    fn name(&self, line: &[u8]) -> Vec<u8> {
        match line.split_first() {
            Some((b'{', rest)) if self.json => {
                let name = format!("{{\"node_id\":\"{}\",", self.node);
                [name.as_bytes(), rest].concat()
            }
            _ => [self.node.as_bytes(), b": ", line].concat(),
        }
    }
}

impl Write for Named {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&self.name(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Starts the log on standard error. `directives` (the variable `NETSY_LOG`) wins over `level`; `terminal` says
/// whether standard error is one. JSON names the `node`; lines for people do if it `shares` the terminal with others.
///
/// # Errors
/// What is wrong with `directives`. Must be called once per process.
pub fn start(
    (node, shares): (&str, bool),
    format: LogFormat,
    level: &str,
    directives: Option<&str>,
    terminal: bool,
) -> Result<(), String> {
    let text = match directives {
        Some(directives) => directives.to_owned(),
        // What libraries say below a warning is for their authors.
        None => format!("warn,netsy={level},rules={level}"),
    };
    let filter = EnvFilter::builder()
        .parse(&text)
        .map_err(|error| error.to_string())?;
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let node = node.to_owned();
    let writer = move || -> Box<dyn Write> {
        if human && !shares {
            return Box::new(io::stderr());
        }
        Box::new(Named {
            json: !human,
            node: node.clone(),
        })
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let started = if human {
        builder.with_target(false).with_ansi(terminal).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    };
    started.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_seldom_counts_what_it_did_not_say() {
        let line = Seldom::new();
        assert_eq!(line.say_at(5), Some(0));
        assert_eq!(line.say_at(6), None);
        assert_eq!(line.say_at(4 + SELDOM_MS), None);
        assert_eq!(line.say_at(5 + SELDOM_MS), Some(2));
        assert_eq!(line.say_at(6 + SELDOM_MS), None);
    }

    #[test]
    fn each_line_has_the_name_of_its_node() {
        let named = |json, line: &str| {
            let node = "node-2".to_owned();
            String::from_utf8(Named { json, node }.name(line.as_bytes())).unwrap()
        };
        assert_eq!(
            named(true, "{\"level\":\"INFO\"}\n"),
            "{\"node_id\":\"node-2\",\"level\":\"INFO\"}\n"
        );
        assert_eq!(named(false, "INFO closed\n"), "node-2: INFO closed\n");
    }
}
