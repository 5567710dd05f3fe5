//! A configuration in the making: takes values from file, environment and flags in rising precedence, remembers
//! where each came from, and collects every mistake instead of stopping at the first.

use std::collections::BTreeMap;
use std::path::Path;

use tracing_subscriber::EnvFilter;

use super::given::Given;
use super::settings::{self, SETTINGS, Setting};
use super::{Config, Mistake, Mistakes, Place, checks, file};

/// Variables that begin with `NETSY_` and are no settings.
const OTHER_VARIABLES: [&str; 2] = ["NETSY_CONFIG", "NETSY_LOG"];

/// A configuration in the making. Feed the sources in rising precedence, then [`finish`](Draft::finish).
#[derive(Debug)]
pub struct Draft {
    pub(super) config: Config,
    places: BTreeMap<&'static str, Place>,
    pub(super) mistakes: Vec<Mistake>,
    /// A file could not be read at all: what is missing may well stand in it.
    illegible: bool,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft::new()
    }
}

impl Draft {
    /// The defaults.
    #[must_use]
    pub fn new() -> Draft {
        let mut config = Config::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                let taken = (setting.take)(&mut config, &Given::text_only(default));
                taken.expect("defaults are legal values: a test reads them all");
            }
        }
        Draft {
            config,
            places: BTreeMap::new(),
            mistakes: Vec::new(),
            illegible: false,
        }
    }

    /// Takes the text of a configuration file; `path` is for messages and as the start of relative paths.
    #[must_use]
    pub fn file(mut self, path: &Path, text: &str) -> Draft {
        match file::read(path, text) {
            Ok(entries) => {
                for entry in entries {
                    let place = Place::File(path.to_owned(), entry.line);
                    match entry.given {
                        Some(given) => self.take(&entry.key, &given, place),
                        None => self.unknown(&entry.key, place),
                    }
                }
            }
            Err((line, why)) => {
                self.illegible = true;
                self.mistake(Place::File(path.to_owned(), line), why);
            }
        }
        self
    }

    /// Takes `NETSY_*` variables; all others are ignored, and so are empty ones. Unknown `NETSY_*` variables are
    /// mistakes, except those that Kubernetes makes for a Service whose name begins with `netsy`.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Draft {
        for (name, value) in variables {
            if name == "NETSY_LOG" && !value.is_empty() {
                self.log_filter(&value);
            }
            let ours = name.starts_with("NETSY_") && !OTHER_VARIABLES.contains(&name.as_str());
            if !ours || value.is_empty() || is_service_link(&name, &value) {
                continue;
            }
            let place = Place::Environment(name.clone());
            match SETTINGS.iter().find(|setting| setting.variable() == name) {
                Some(setting) => self.take(setting.key, &Given::text_only(&value), place),
                None => {
                    let known = SETTINGS.iter().map(Setting::variable);
                    // What all of them begin with says nothing about how near they are.
                    let given = name.len() - "NETSY_".len();
                    let near = known
                        .chain(OTHER_VARIABLES.map(str::to_owned))
                        .map(|known| (strsim::damerau_levenshtein(&name, &known), known))
                        .min()
                        .filter(|(distance, _)| *distance <= 4 && *distance * 3 <= given + 2);
                    let hint = match near {
                        Some((_, known)) => format!("did you mean `{known}`?"),
                        None => {
                            "`netsy serve --help` lists all; unset it if it is not meant for netsy"
                                .into()
                        }
                    };
                    self.mistake(place, format!("no setting has this variable; {hint}"));
                }
            }
        }
        self
    }

    /// What `NETSY_LOG` says wins over `log.level`, and is taken when the log is started.
    fn log_filter(&mut self, directives: &str) {
        if let Err(error) = EnvFilter::builder().parse(directives) {
            let why =
                format!("`{directives}` is no log filter such as `netsy=debug,warn`: {error}");
            self.mistake(Place::Environment("NETSY_LOG".to_owned()), why);
        }
    }

    /// Takes values by key, given as flags of `netsy serve`.
    #[must_use]
    pub fn flags<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Draft {
        for (key, value) in pairs {
            let flag = Setting::find(key).map_or_else(|| key.to_owned(), Setting::flag);
            self.take(
                key,
                &Given::text_only(value),
                Place::Flag(format!("--{flag}")),
            );
        }
        self
    }

    /// Takes values by key that nobody typed.
    #[must_use]
    pub fn preset(mut self, pairs: &[(&str, &str)]) -> Draft {
        for (key, value) in pairs {
            self.take(key, &Given::text_only(value), Place::Nowhere);
        }
        self
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// Every mistake that was seen, by place.
    pub fn finish(mut self) -> Result<Config, Mistakes> {
        if !self.illegible {
            checks::check(&mut self);
        }
        if self.mistakes.is_empty() {
            return Ok(self.config);
        }
        self.mistakes.sort_by(|a, b| a.place.cmp(&b.place));
        Err(Mistakes(self.mistakes))
    }

    fn take(&mut self, key: &str, given: &Given, place: Place) {
        let Some(setting) = Setting::find(key) else {
            return self.unknown(key, place);
        };
        match (setting.take)(&mut self.config, given) {
            Ok(()) => {
                self.places.insert(setting.key, place);
            }
            Err(wants) => {
                let shown = if setting.is_secret() {
                    String::new()
                } else {
                    format!(", not {}", given.shown())
                };
                // It was given, if wrongly: nobody need be told that it is missing too.
                self.places.insert(setting.key, place.clone());
                self.mistake(place, format!("`{key}` wants {wants}{shown}"));
            }
        }
    }

    fn unknown(&mut self, key: &str, place: Place) {
        let hint = match settings::nearest(key) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "docs/OPERATING.md and `netsy serve --help` list all settings".to_owned(),
        };
        self.mistake(place, format!("`{key}` is no setting; {hint}"));
    }

    pub(super) fn mistake(&mut self, place: Place, why: String) {
        self.mistakes.push(Mistake { place, why });
    }

    /// Where `key` was given.
    pub(super) fn place(&self, key: &str) -> Place {
        self.places.get(key).cloned().unwrap_or(Place::Nowhere)
    }

    /// Whether `key` was given at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }
}

/// Whether Kubernetes made this variable for a Service: `NETSY_SERVICE_HOST`, `NETSY_PORT_2379_TCP_ADDR` ...
fn is_service_link(name: &str, value: &str) -> bool {
    let port = name.ends_with("_PORT") && value.contains("://");
    let numbered = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        ["_TCP", "_UDP", "_SCTP"]
            .iter()
            .any(|protocol| rest.starts_with(protocol))
    });
    name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || port || numbered
}
