//! A value as it was given, and the ways a setting may take it: as a duration, a size, an address ...
//!
//! A file gives TOML values, flags and variables give text; both are taken alike (`"5"` is as good as `5`).
//! Each way of taking a value fails with what it *wants*, and the draft turns that into a sentence.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Text, from anywhere.
    Text(String),
    /// A whole number in a file.
    Whole(i64),
    /// `true` or `false` in a file.
    Truth(bool),
    /// A list of texts in a file.
    List(Vec<String>),
    /// Something no setting takes, by its name.
    Other(&'static str),
}

/// A value and, if it stood in a file, that file's directory: relative paths start there.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) beside: Option<PathBuf>,
}

/// What a setting wants, to be read after "wants".
type Taken<T> = Result<T, &'static str>;

impl Given {
    /// Text given on the command line, in the environment or in our own tables.
    pub(super) fn text_only(text: &str) -> Given {
        Given {
            value: Value::Text(text.to_owned()),
            beside: None,
        }
    }

    /// The value as the operator wrote it, for a sentence.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Text(text) => format!("`{text}`"),
            Value::Whole(number) => format!("`{number}`"),
            Value::Truth(truth) => format!("`{truth}`"),
            Value::List(list) => format!("`{list:?}`"),
            Value::Other(what) => (*what).to_owned(),
        }
    }

    fn as_text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.trim().to_owned()),
            Value::Whole(number) => Some(number.to_string()),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Taken<String> {
        let wants = "some text";
        match &self.value {
            Value::Text(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            _ => Err(wants),
        }
    }

    pub(super) fn secret(&self) -> Taken<Secret> {
        self.text().map(Secret)
    }

    pub(super) fn identifier(&self) -> Taken<String> {
        identifier(&self.as_text().unwrap_or_default())
    }

    pub(super) fn truth(&self) -> Taken<bool> {
        match &self.value {
            Value::Truth(truth) => Ok(*truth),
            Value::Text(text) if text.trim() == "true" => Ok(true),
            Value::Text(text) if text.trim() == "false" => Ok(false),
            _ => Err("true or false"),
        }
    }

    pub(super) fn duration(&self) -> Taken<Duration> {
        let wants = "a duration above zero such as `2s`, `500ms` or `1h`";
        let text = self.as_text().ok_or(wants)?;
        match humantime::parse_duration(&text) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            _ => Err(wants),
        }
    }

    pub(super) fn duration_or_off(&self) -> Taken<Option<Duration>> {
        let wants = "a duration above zero such as `2s`, or `off`";
        self.unless_off(Given::duration).map_err(|_| wants)
    }

    pub(super) fn count(&self) -> Taken<u64> {
        let wants = "a whole number above zero";
        let number: u64 = self
            .as_text()
            .and_then(|text| text.parse().ok())
            .ok_or(wants)?;
        if number > 0 { Ok(number) } else { Err(wants) }
    }

    pub(super) fn count_or_off(&self) -> Taken<Option<u64>> {
        self.unless_off(Given::count)
            .map_err(|_| "a whole number above zero, or `off`")
    }

    pub(super) fn size(&self) -> Taken<u64> {
        let wants = "a size above zero such as `64MiB` or a number of bytes";
        self.as_text()
            .as_deref()
            .and_then(size_of)
            .filter(|bytes| *bytes > 0)
            .ok_or(wants)
    }

    pub(super) fn size_or_off(&self) -> Taken<Option<u64>> {
        self.unless_off(Given::size)
            .map_err(|_| "a size above zero such as `64MiB`, or `off`")
    }

    fn unless_off<T>(&self, take: impl Fn(&Given) -> Taken<T>) -> Taken<Option<T>> {
        match &self.value {
            Value::Text(text) if text.trim() == "off" => Ok(None),
            _ => take(self).map(Some),
        }
    }

    pub(super) fn address(&self) -> Taken<SocketAddr> {
        let wants = "an IP address and a port such as `127.0.0.1:2379`, or `0.0.0.0:2379` for every interface";
        let text = self.text().map_err(|_| wants)?;
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        text.parse().map_err(|_| wants)
    }

    pub(super) fn path(&self) -> Taken<PathBuf> {
        let path = PathBuf::from(self.text().map_err(|_| "a path")?);
        Ok(self.beside.as_deref().unwrap_or(Path::new("")).join(path))
    }

    pub(super) fn list(&self) -> Taken<Vec<String>> {
        let texts = match &self.value {
            Value::List(list) => list.clone(),
            Value::Text(text) if text.trim().starts_with('[') => {
                return Err(
                    "texts with commas between them here (`[...]` is for lists in the file)",
                );
            }
            Value::Text(text) => text.split(',').map(str::to_owned).collect(),
            _ => return Err("a list of texts"),
        };
        Ok(texts
            .iter()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect())
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], wants: &'static str) -> Taken<T> {
        let text = self.text().map_err(|_| wants)?;
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, meaning)| *meaning)
            .ok_or(wants)
    }
}

/// `text` if it can be the name of a cluster, a Node or a client, which is the ancestor's rule.
///
/// # Errors
/// What such a name wants, to be read after "wants".
pub fn identifier(text: &str) -> Result<String, &'static str> {
    let letters = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let hyphens = text.starts_with('-') || text.ends_with('-') || text.contains("--");
    if letters && !hyphens && (1..=32).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("1 to 32 of a-z, 0-9 and single hyphens between them")
    }
}

/// `1.5MiB` in bytes. Units are powers of 1024; without one the number is bytes.
fn size_of(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (bytes.is_finite() && bytes < 9e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let cases = [
            ("1.5MiB", Some(1_572_864)),
            ("64 KiB", Some(65_536)),
            ("1048576", Some(1_048_576)),
            ("2GiB", Some(2 << 30)),
            ("10MB", None),
            ("99999999999TiB", None),
            ("", None),
            ("-1", None),
            ("1.2.3MiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size_of(text), expected, "{text}");
        }
    }

    #[test]
    fn identifiers_follow_the_ancestors_rule() {
        for good in ["a", "prod-1", "0", "abcdefghijklmnopqrstuvwxyz012345"] {
            assert!(identifier(good).is_ok(), "{good}");
        }
        let long = "a".repeat(33);
        for bad in ["", "-a", "a-", "a--b", "A", "a_b", "a.b", "ü", &long] {
            assert!(identifier(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_of_a_file_start_beside_it() {
        let given = Given {
            value: Value::Text("tls/ca.crt".into()),
            beside: Some("/etc/netsy".into()),
        };
        assert_eq!(given.path(), Ok(PathBuf::from("/etc/netsy/tls/ca.crt")));
        let given = Given {
            value: Value::Text("/x".into()),
            beside: Some("/etc/netsy".into()),
        };
        assert_eq!(given.path(), Ok(PathBuf::from("/x")));
        assert_eq!(Given::text_only("x").path(), Ok(PathBuf::from("x")));
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret("hush".into())), "(redacted)");
    }
}
