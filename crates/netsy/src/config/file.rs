//! netsy.toml: from text to settings with their lines.
//! Knows TOML and which names are settings; what a value means is the table's business.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::given::{Given, Value};
use super::settings::{SETTINGS, Setting};

/// One key of the file.
pub(super) struct Entry {
    pub(super) key: String,
    /// Line, counted from 1.
    pub(super) line: usize,
    /// None if no setting and no section has this name.
    pub(super) given: Option<Given>,
}

/// Every key of the file at `path` whose content is `text`; or the line and the reason why it is no TOML.
pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let line_at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_at(error.span().map_or(0, |span| span.start));
        (
            line,
            format!("this is no TOML: {}", error.message().replace('\n', ", ")),
        )
    })?;
    let mut found = Vec::new();
    walk(table.get_ref(), "", &mut found);
    let beside = path.parent();
    let entries = found.into_iter().map(|(key, offset, value)| Entry {
        key,
        line: line_at(offset),
        given: value.map(|value| Given {
            value,
            beside: beside.map(Path::to_owned),
        }),
    });
    Ok(entries.collect())
}

fn walk(table: &DeTable<'_>, section: &str, found: &mut Vec<(String, usize, Option<Value>)>) {
    for (name, value) in table {
        let key = if section.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{section}.{}", name.get_ref())
        };
        let is_section = SETTINGS
            .iter()
            .any(|setting| setting.key.starts_with(&format!("{key}.")));
        match value.get_ref() {
            DeValue::Table(inner) if is_section => walk(inner, &key, found),
            _ => {
                let known = Setting::find(&key).is_some();
                found.push((key, name.span().start, known.then(|| taken(value))));
            }
        }
    }
}

fn taken(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(truth) => Value::Truth(*truth),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Whole(number),
            Err(_) => Value::Other("a number that large"),
        },
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map_or(Value::Other("a list of other things"), Value::List),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}
