//! From text to a checked configuration: variables first, then the types, then what a type can't say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Config, ConfigError, KafkaConfig, SourceConfig, TargetConfig, ZeroDates};

/// Nobody waits longer for a row, and numbers of epochs stay small.
const EPOCH_MAX: Duration = Duration::from_secs(3600);

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with file and line.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigError(format!("{}: {e}: give the path of a configuration with --config", path.display()))
        })?;
        Config::parse(&text, &path.display().to_string(), &|name| std::env::var(name).ok())
    }

    /// Reads and checks a configuration; `file` is its name for messages, `variable` looks up `${VAR}`.
    ///
    /// # Errors
    /// [`ConfigError`] with file and line.
    pub fn parse(text: &str, file: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let text = substitute(text, file, variable)?;
        let mut config: Config = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            ConfigError(format!("{file}:{line}: {}", e.message().replace('\n', " ")))
        })?;
        config.check(&text, file)?;
        config.read_secrets(file)?;
        Ok(config)
    }

    fn check(&self, text: &str, file: &str) -> Result<(), ConfigError> {
        let at = |setting: &str, problem: String| {
            let line = text.lines().position(|l| l.trim_start().starts_with(setting)).map_or(1, |n| n + 1);
            Err(ConfigError(format!("{file}:{line}: {problem}")))
        };
        let name_ok = |name: &str| {
            !name.is_empty()
                && name.len() <= 60
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !name_ok(&self.job) {
            return at("job", format!("job = '{}': 1 to 60 letters, digits, '-', '_' or '.'", self.job));
        }
        if self.land.lanes == 0 || self.land.lanes > 64 {
            return at("lanes", format!("lanes = {}: 1 to 64", self.land.lanes));
        }
        if self.land.epoch > EPOCH_MAX {
            return at("epoch", format!("epoch = {:?}: at most an hour", self.land.epoch));
        }
        if let Some(TargetConfig::Postgres(postgres)) = &self.target
            && postgres.schema.is_empty()
        {
            return at("schema", "schema is empty: name one, or leave the setting out for public".into());
        }
        if self.land.epochs_in_flight == 0 {
            return at("epochs_in_flight", "epochs_in_flight = 0: at least 1".into());
        }
        if let Some(TargetConfig::Postgres(postgres)) = &self.target
            && postgres.zero_dates == ZeroDates::DeadLetter
            && self.land.dead_letter.is_none()
        {
            return at("zero_dates", "zero_dates = \"dead-letter\" needs a file: set dead_letter in [land]".into());
        }
        if self.verify.chunk_rows == 0 {
            return at("chunk_rows", "chunk_rows = 0: at least 1".into());
        }
        if let Some(kafka) = &self.kafka {
            if kafka.partitions == 0 || kafka.partitions > 10_000 {
                return at("partitions", format!("partitions = {}: 1 to 10000", kafka.partitions));
            }
            if kafka.topic.len() > 240 || !name_ok(&kafka.topic[..kafka.topic.len().min(60)]) {
                return at("topic", format!("topic = '{}': letters, digits, '-', '_' and '.' only", kafka.topic));
            }
        }
        let patterns = [
            Some(&self.land.tables[..]),
            self.source.as_ref().map(SourceConfig::tables),
            self.verify.source.as_ref().map(|source| &source.tables[..]),
            Some(&self.verify.tables[..]),
        ];
        for tables in patterns.into_iter().flatten() {
            if let Err(problem) = crate::source::TableFilter::new(tables) {
                return at("tables", problem);
            }
        }
        Ok(())
    }

    fn read_secrets(&mut self, file: &str) -> Result<(), ConfigError> {
        let read = |path: &Option<PathBuf>| -> Result<Option<String>, ConfigError> {
            let Some(path) = path else { return Ok(None) };
            let text = std::fs::read_to_string(path)
                .map_err(|e| ConfigError(format!("{file}: password_file {}: {e}", path.display())))?;
            Ok(Some(text.trim_end_matches(['\n', '\r']).to_string()))
        };
        if let Some(SourceConfig::Dts(dts)) = &mut self.source
            && let Some(password) = read(&dts.password_file)?
        {
            dts.password = Some(password);
        }
        let source = match &mut self.source {
            Some(SourceConfig::Mysql(mysql)) => Some(mysql),
            _ => None,
        };
        for mysql in source.into_iter().chain(&mut self.verify.source) {
            if let Some(password) = read(&mysql.password_file)? {
                mysql.url = with_password(&mysql.url, &password);
            }
        }
        if let Some(TargetConfig::Postgres(postgres)) = &mut self.target
            && let Some(password) = read(&postgres.password_file)?
        {
            postgres.url = with_password(&postgres.url, &password);
        }
        Ok(())
    }

    /// The Kafka section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn kafka(&self) -> Result<&KafkaConfig, ConfigError> {
        self.kafka.as_ref().ok_or_else(|| ConfigError("the configuration has no [kafka] section".into()))
    }

    /// The source section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn source(&self) -> Result<&SourceConfig, ConfigError> {
        self.source.as_ref().ok_or_else(|| ConfigError("the configuration has no [source] section".into()))
    }

    /// The target section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn target(&self) -> Result<&TargetConfig, ConfigError> {
        self.target.as_ref().ok_or_else(|| ConfigError("the configuration has no [target] section".into()))
    }
}

/// Puts a password into a `scheme://user[:password]@host` URL, percent-encoded.
fn with_password(url: &str, password: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_string() };
    let Some((user, host)) = rest.rsplit_once('@') else { return url.to_string() };
    let user = user.split(':').next().unwrap_or_default();
    let encoded: String = password
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    format!("{scheme}://{user}:{encoded}@{host}")
}

/// Replaces every `${VAR}` outside comments.
fn substitute(text: &str, file: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let mut rest = line;
        if rest.trim_start().starts_with('#') {
            out.push_str(rest);
            continue;
        }
        while let Some(start) = rest.find("${") {
            let Some(len) = rest[start..].find('}') else {
                return Err(ConfigError(format!("{file}:{}: '${{' without '}}': write ${{NAME}}", number + 1)));
            };
            let name = &rest[start + 2..start + len];
            let value = variable(name).ok_or_else(|| {
                ConfigError(format!("{file}:{}: the environment variable {name} is not set", number + 1))
            })?;
            if value.contains(['"', '\\', '\n']) {
                return Err(ConfigError(format!(
                    "{file}:{}: the environment variable {name} has a quote, backslash or newline: use a *_file setting",
                    number + 1
                )));
            }
            out.push_str(&rest[..start]);
            out.push_str(&value);
            rest = &rest[start + len + 1..];
        }
        out.push_str(rest);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, "t.toml", &|name| (name == "PW").then(|| "s3cret".to_string()))
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = parse(
            "job = \"shop\"\n[source]\nkind = \"mysql\"\nurl = \"mysql://u:${PW}@h/\"\ntables = [\"shop.*\"]\n\
             [kafka]\nbrokers = \"b:9092\"\ntopic = \"shop\"\n[land]\nepoch = \"500ms\"\nmemory = \"64MB\"\n\
             [target]\nkind = \"postgres\"\nurl = \"postgres://u@h/db\"\n",
        )
        .unwrap();
        let Some(SourceConfig::Mysql(mysql)) = &config.source else { panic!("not mysql") };
        assert_eq!(mysql.url, "mysql://u:s3cret@h/");
        assert_eq!((config.land.epoch, config.land.memory), (Duration::from_millis(500), 64 << 20));
        assert_eq!(config.kafka.unwrap().partitions, 4);
    }

    #[test]
    fn verify_may_have_a_source_of_its_own() {
        let config =
            parse("job = \"x\"\n[verify]\npatience = \"2s\"\n[verify.source]\nurl = \"mysql://u:${PW}@h/\"\n").unwrap();
        assert_eq!(config.verify.source.unwrap().url, "mysql://u:s3cret@h/");
        assert_eq!(config.verify.patience, Duration::from_secs(2));
        let error = parse("job = \"x\"\n[verify]\ntables = [\"orders\"]\n").unwrap_err().to_string();
        assert!(error.starts_with("t.toml:3: 'orders' is no table pattern"), "{error}");
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, want) in [
            ("job = \"x\"\n\n[land]\nepcoh = \"3s\"\n", "t.toml:4: unknown field `epcoh`"),
            ("job = \"x\"\n[land]\nepoch = \"3 parsecs\"\n", "t.toml:3: '3 parsecs' is no duration"),
            ("job = \"x\"\n[land]\nlanes = 0\n", "t.toml:3: lanes = 0"),
            ("job = \"x y\"\n", "t.toml:1: job = 'x y'"),
            ("job = \"x\"\n[kafka]\nbrokers = \"${NOPE}\"\n", "t.toml:3: the environment variable NOPE is not set"),
            ("job = 3\n", "t.toml:1: invalid type"),
            ("job = \"x\"\n[kafka]\nbrokers = \"${NOPE\"\n", "t.toml:3: '${' without '}'"),
            ("job = \"x\"\n[land]\nepoch = \"2h\"\n", "t.toml:3: epoch = 7200s: at most an hour"),
        ] {
            let got = parse(text).unwrap_err().to_string();
            assert!(got.starts_with(want), "{got}");
        }
    }

    #[test]
    fn a_password_is_put_into_the_url_encoded() {
        assert_eq!(with_password("mysql://root:x@h:1/", "p@ss/"), "mysql://root:p%40ss%2F@h:1/");
        assert_eq!(with_password("postgres://root@h/db", "a b"), "postgres://root:a%20b@h/db");
    }
}
