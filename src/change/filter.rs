//! Which tables are wanted, by their names.

use super::TableName;

/// Which tables are wanted: patterns `database.table` with `*` for any run of characters; with `!` before it a pattern
/// takes tables out.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    patterns: Vec<(String, String)>,
    without: Vec<(String, String)>,
}

impl TableFilter {
    /// A filter that lets pass what any of the patterns matches and none with `!`; none without: everything but MySQL's
    /// own databases.
    ///
    /// # Errors
    /// The pattern that is not `database.table`.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let split = |p: &str| {
            p.split_once('.')
                .map(|(d, t)| (d.to_string(), t.to_string()))
                .ok_or_else(|| format!("'{p}' is no table pattern: write database.table, * for any text"))
        };
        let (without, patterns): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.starts_with('!'));
        let without = without.into_iter().map(|pattern| split(&pattern[1..])).collect::<Result<_, _>>()?;
        Ok(TableFilter { patterns: patterns.into_iter().map(|p| split(p)).collect::<Result<_, _>>()?, without })
    }

    /// The patterns that none of the tables matches.
    pub fn unmatched<'t>(&self, tables: impl Iterator<Item = &'t TableName> + Clone) -> Vec<String> {
        let matches = |(d, t): &&(String, String)| {
            tables
                .clone()
                .any(|name| glob(d.as_bytes(), name.database.as_bytes()) && glob(t.as_bytes(), name.table.as_bytes()))
        };
        self.patterns.iter().filter(|pattern| !matches(pattern)).map(|(d, t)| format!("{d}.{t}")).collect()
    }

    /// Whether any table of the database may be wanted.
    pub fn may_want_of(&self, database: &str) -> bool {
        let of = |(d, _): &(String, String)| glob(d.as_bytes(), database.as_bytes());
        let wanted = match self.patterns.is_empty() {
            true => !is_servers_own(database),
            false => self.patterns.iter().any(of),
        };
        wanted && !self.without.iter().any(|pattern| of(pattern) && pattern.1 == "*")
    }

    /// Whether the table is wanted.
    pub fn wants(&self, database: &str, table: &str) -> bool {
        let matches = |patterns: &[(String, String)]| {
            let one = |(d, t): &(String, String)| {
                glob(d.as_bytes(), database.as_bytes()) && glob(t.as_bytes(), table.as_bytes())
            };
            patterns.iter().any(one)
        };
        let wanted = match self.patterns.is_empty() {
            true => !is_servers_own(database),
            false => matches(&self.patterns),
        };
        wanted && !matches(&self.without)
    }
}

fn is_servers_own(database: &str) -> bool {
    matches!(database, "mysql" | "information_schema" | "performance_schema" | "sys")
}

/// Whether `pattern`, with `*` for any run of bytes, matches the whole of `text`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((byte, rest)) => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lets_pass_what_a_pattern_matches() {
        let filter = TableFilter::new(&["shop.*".into(), "crm_*.user".into()]).unwrap();
        assert!(filter.wants("shop", "orders") && filter.wants("crm_7", "user"));
        assert!(!filter.wants("crm_7", "users") && !filter.wants("shop2", "orders"));
        let filter = TableFilter::new(&["shop.*".into(), "!shop.log*".into()]).unwrap();
        assert!(filter.wants("shop", "orders") && !filter.wants("shop", "log_2026"));
        let filter = TableFilter::new(&["!*.log".into()]).unwrap();
        assert!(filter.wants("shop", "orders") && !filter.wants("shop", "log") && !filter.wants("mysql", "user"));
        assert!(filter.may_want_of("shop") && !filter.may_want_of("mysql"));
        let filter = TableFilter::new(&["shop*.*".into(), "!shop_2.*".into(), "!shop.log".into()]).unwrap();
        assert!(filter.may_want_of("shop") && !filter.may_want_of("shop_2") && !filter.may_want_of("crm"));
        assert!(TableFilter::new(&["!log".into()]).unwrap_err().contains("'log'"));
        assert!(TableFilter::new(&["orders".into()]).unwrap_err().contains("'orders'"));
        assert!(!TableFilter::default().wants("mysql", "user") && TableFilter::default().wants("shop", "x"));
    }
}
