//! The text of a configuration as TOML sees it: where every setting stands, with variables in the places of their names.
//!
//! Variables are put in after the text has been parsed, into strings alone: so comments are left alone, whatever a
//! variable holds is one value, and the line of a setting is the line in the file.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// The sections whose settings depend on their `kind`.
const BY_KIND: [&str; 2] = ["source", "target"];

/// A configuration that has been parsed, but not yet understood.
pub(super) struct Document<'t> {
    text: &'t str,
    /// Its name for messages.
    file: &'t str,
    table: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Parses `text`, and replaces every `${NAME}` in its strings by what `variable` says.
    pub fn parse(
        text: &'t str,
        file: &'t str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Document<'t>, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| error_at(text, file, &error))?;
        let mut document = Document { text, file, table };
        let mut table = std::mem::take(document.table.get_mut());
        for (_, value) in &mut table {
            document.substitute(value, variable)?;
        }
        *document.table.get_mut() = table;
        Ok(document)
    }

    /// What it means.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut table = self.table.clone();
        for section in BY_KIND {
            if let Some(settings) = table.get_mut().get_mut(section) {
                self.name_by_kind(section, settings)?;
            }
        }
        T::deserialize(toml::Deserializer::from(table)).map_err(|error| error_at(self.text, self.file, &error))
    }

    /// Makes `a = { b = … }` of `kind = "a", b = …`: where one of the fields decides about the others serde forgets where
    /// they stand.
    fn name_by_kind(&self, section: &str, settings: &mut Spanned<DeValue<'t>>) -> Result<(), ConfigError> {
        let span = settings.span();
        let DeValue::Table(fields) = settings.get_mut() else {
            return Err(self.at(span.start, format!("{section} has to be a section: [{section}]")));
        };
        let kind = fields.remove("kind").ok_or_else(|| self.problem(section, "missing field `kind`"))?;
        let place = kind.span();
        let DeValue::String(kind) = kind.into_inner() else {
            return Err(self.at(place.start, "kind has to be a string"));
        };
        let fields = Spanned::new(span, DeValue::Table(std::mem::take(fields)));
        *settings.get_mut() = DeValue::Table(DeTable::from_iter([(Spanned::new(place, kind), fields)]));
        Ok(())
    }

    /// A problem with a setting, such as `land.epoch`: of what is not there, with the line of its section.
    pub fn problem(&self, setting: &str, problem: impl std::fmt::Display) -> ConfigError {
        self.problem_of(setting.split('.'), problem)
    }

    /// The same, of a setting whose name may have dots in it.
    pub fn problem_of<'p>(
        &self,
        path: impl IntoIterator<Item = &'p str>,
        problem: impl std::fmt::Display,
    ) -> ConfigError {
        let (mut place, mut table) = (0, Some(self.table.get_ref()));
        for part in path {
            let Some((key, value)) = table.and_then(|table| table.get_key_value(part)) else { break };
            place = key.span().start;
            table = value.get_ref().as_table();
        }
        self.at(place, problem)
    }

    fn at(&self, place: usize, problem: impl std::fmt::Display) -> ConfigError {
        ConfigError(format!("{}:{}: {problem}", self.file, line(self.text, place)))
    }

    fn substitute(
        &self,
        value: &mut Spanned<DeValue<'t>>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("${") => {
                // A string of several lines: the line of its first variable.
                let place = span.start + self.text[span].find("${").unwrap_or(0);
                *text = Cow::Owned(replaced(text, variable).map_err(|problem| self.at(place, problem))?);
                Ok(())
            }
            DeValue::Array(values) => values.iter_mut().try_for_each(|value| self.substitute(value, variable)),
            DeValue::Table(table) => table.iter_mut().try_for_each(|(_, value)| self.substitute(value, variable)),
            _ => Ok(()),
        }
    }
}

fn replaced(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, behind) = behind.split_once('}').ok_or("'${' without '}': write ${NAME}")?;
        let value = variable(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
        out.push_str(before);
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn error_at(text: &str, file: &str, error: &toml::de::Error) -> ConfigError {
    let place = error.span().map_or(0, |span| span.start);
    let said = error.message().replace('\n', " ");
    let said = match said.rsplit_once("expected ") {
        // As a program has it.
        Some((problem, "u32")) => format!("{problem}expected a whole number from 0 to {}", u32::MAX),
        Some((problem, "i32")) => format!("{problem}expected a whole number up to {}", i32::MAX),
        Some((problem, "usize")) => format!("{problem}expected a whole number from 0 to {}", usize::MAX),
        _ => said,
    };
    ConfigError(format!("{file}:{}: {said}", line(text, place)))
}

/// The line in which a byte is.
fn line(text: &str, place: usize) -> usize {
    text[..place].matches('\n').count() + 1
}
