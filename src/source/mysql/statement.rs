//! What a statement in the binlog means to a reader of rows.

/// A statement, as far as the reader cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A transaction begins.
    Begin,
    /// A transaction ends.
    End,
    /// A transaction is rolled back, or a part of it.
    Rollback,
    /// A distributed transaction begins, whose rows may be rolled back after they were logged.
    Xa,
    /// Rows of a table go without being logged.
    Truncate {
        /// The statement's own word for it.
        what: &'static str,
        /// The database, where the statement names it.
        database: Option<String>,
        /// The table.
        table: String,
    },
    /// A table is altered, dropped or renamed: what becomes of its rows is not logged.
    Alter {
        /// The database, where the statement names it.
        database: Option<String>,
        /// The table; of several the first.
        table: String,
    },
    /// Rows change without being logged as rows.
    RowsAsText,
    /// CREATE TABLE … SELECT: rows follow, and an end.
    CreateWithRows,
    /// Anything else: it changes no row.
    Other,
}

/// What `sql` means.
pub fn classify(sql: &str) -> Statement {
    let mut words = Words(sql);
    let first = words.next().unwrap_or_default();
    match &*first.to_ascii_uppercase() {
        "BEGIN" => Statement::Begin,
        "COMMIT" => Statement::End,
        "ROLLBACK" => Statement::Rollback,
        "XA" => Statement::Xa,
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" => Statement::RowsAsText,
        "TRUNCATE" => truncate(&mut words).unwrap_or(Statement::Other),
        "ALTER" => drop_partition(&mut Words(words.0)).or_else(|| alter(&mut words)).unwrap_or(Statement::Other),
        "DROP" | "RENAME" => alter(&mut words).unwrap_or(Statement::Other),
        "CREATE" if sql.trim_end().to_ascii_uppercase().ends_with("START TRANSACTION") => {
            let what = words.find(|word| {
                ["TABLE", "PROCEDURE", "FUNCTION", "TRIGGER", "EVENT"].contains(&&*word.to_ascii_uppercase())
            });
            match what.is_some_and(|word| word.eq_ignore_ascii_case("TABLE")) {
                true => Statement::CreateWithRows,
                false => Statement::Other,
            }
        }
        _ => Statement::Other,
    }
}

fn truncate(words: &mut Words) -> Option<Statement> {
    let mut name = words.next()?;
    if name.eq_ignore_ascii_case("TABLE") {
        name = words.next()?;
    }
    named(name, words, "TRUNCATE TABLE")
}

fn drop_partition(words: &mut Words) -> Option<Statement> {
    words.find(|word| word.eq_ignore_ascii_case("TABLE"))?;
    let name = past_if_exists(words)?;
    let statement = named(name, words, "ALTER TABLE … DROP or TRUNCATE PARTITION")?;
    let rest: Vec<_> = words.collect();
    let takes = |pair: &[String]| {
        let [verb, object] = pair else { return false };
        object.eq_ignore_ascii_case("PARTITION")
            && ["DROP", "TRUNCATE", "EXCHANGE", "DISCARD", "CONVERT"]
                .iter()
                .any(|taken| verb.eq_ignore_ascii_case(taken))
    };
    rest.windows(2).any(takes).then_some(statement)
}

/// The next word that does not belong to IF EXISTS.
fn past_if_exists(words: &mut Words) -> Option<String> {
    let name = words.next()?;
    if !name.eq_ignore_ascii_case("IF") {
        return Some(name);
    }
    words.find(|word| word.eq_ignore_ascii_case("EXISTS"))?;
    words.next()
}

fn alter(words: &mut Words) -> Option<Statement> {
    let what =
        |word: &String| ["TABLE", "VIEW", "DATABASE", "INDEX", "USER"].iter().any(|w| word.eq_ignore_ascii_case(w));
    if !words.find(what)?.eq_ignore_ascii_case("TABLE") {
        return None;
    }
    let name = past_if_exists(words)?;
    match named(name, words, "")? {
        Statement::Truncate { database, table, .. } => Some(Statement::Alter { database, table }),
        _ => None,
    }
}

/// The statement about the table that begins with `first`: a name, or a database's and behind a dot a table's.
fn named(first: String, words: &mut Words, what: &'static str) -> Option<Statement> {
    let mut ahead = Words(words.0);
    if ahead.next().as_deref() == Some(".") {
        let table = ahead.next()?;
        words.0 = ahead.0;
        return Some(Statement::Truncate { what, database: Some(first), table });
    }
    Some(Statement::Truncate { what, database: None, table: first })
}

/// The words of a statement: names without their quotes, dots by themselves; comments are passed over, but what is inside
/// of `/*! … */` is a part of the statement.
struct Words<'a>(&'a str);

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let rest =
                self.0.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';' | '='));
            if let Some(version) = rest.strip_prefix("/*M!").or_else(|| rest.strip_prefix("/*!")) {
                self.0 = version.trim_start_matches(|c: char| c.is_ascii_digit());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                self.0 = comment.split_once("*/").map_or("", |(_, behind)| behind);
            } else if let Some(end) = rest.strip_prefix("*/") {
                self.0 = end;
            } else if let Some(comment) = rest.strip_prefix("-- ").or_else(|| rest.strip_prefix('#')) {
                self.0 = comment.split_once('\n').map_or("", |(_, behind)| behind);
            } else {
                self.0 = rest;
                break;
            }
        }
        let first = self.0.chars().next()?;
        if first == '.' {
            self.0 = &self.0[1..];
            return Some(".".into());
        }
        if matches!(first, '`' | '"' | '\'') {
            let mut name = String::new();
            let mut letters = self.0[1..].char_indices().peekable();
            while let Some((at, letter)) = letters.next() {
                if letter == first && letters.next_if(|(_, next)| *next == first).is_none() {
                    self.0 = &self.0[1 + at + 1..];
                    return Some(name);
                }
                name.push(letter);
            }
            self.0 = "";
            return Some(name);
        }
        let ends =
            |c: char| c.is_whitespace() || matches!(c, '.' | '`' | '"' | '\'' | '(' | ')' | ',' | ';' | '=' | '/');
        let end = self.0.find(ends).unwrap_or(self.0.len()).max(first.len_utf8());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(word.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truncated(database: Option<&str>, table: &str) -> Statement {
        Statement::Truncate { what: "TRUNCATE TABLE", database: database.map(String::from), table: table.into() }
    }

    #[test]
    fn transactions_begin_and_end() {
        assert_eq!(classify("BEGIN"), Statement::Begin);
        assert_eq!(classify("COMMIT"), Statement::End);
        assert_eq!(classify("ROLLBACK"), Statement::Rollback);
        assert_eq!(classify("ROLLBACK TO `sp`"), Statement::Rollback);
        assert_eq!(classify("CREATE DEFINER=`r` PROCEDURE `p`() START TRANSACTION"), Statement::Other);
        assert_eq!(classify("SAVEPOINT `sp`"), Statement::Other);
        assert_eq!(classify("XA START X'78',X'',1"), Statement::Xa);
        assert_eq!(classify("CREATE TABLE `t` (\n `a` int\n) START TRANSACTION"), Statement::CreateWithRows);
    }

    #[test]
    fn what_empties_a_table_is_seen() {
        assert_eq!(classify("truncate t"), truncated(None, "t"));
        assert_eq!(classify("TRUNCATE TABLE shop.orders"), truncated(Some("shop"), "orders"));
        assert_eq!(
            classify("/* why */ TRUNCATE /*!50000 TABLE */ `a``b` . `c.d` -- now"),
            truncated(Some("a`b"), "c.d")
        );
        assert!(matches!(
            classify("ALTER TABLE `shop`.`log` TRUNCATE PARTITION p0"),
            Statement::Truncate { table, .. } if table == "log"
        ));
        assert!(matches!(classify("alter table log drop partition p1, p2"), Statement::Truncate { .. }));
        assert!(matches!(classify("ALTER TABLE IF EXISTS log DROP PARTITION p1"), Statement::Truncate { .. }));
        assert!(matches!(classify("ALTER TABLE log CONVERT PARTITION p1 TO TABLE u"), Statement::Truncate { .. }));
    }

    #[test]
    fn what_changes_a_table_is_seen() {
        let altered = |database: Option<&str>, table: &str| Statement::Alter {
            database: database.map(String::from),
            table: table.into(),
        };
        assert_eq!(classify("ALTER TABLE log DROP COLUMN c"), altered(None, "log"));
        assert_eq!(classify("ALTER IGNORE TABLE a.log ADD c int DEFAULT 7"), altered(Some("a"), "log"));
        let partition = "ALTER TABLE log ADD PARTITION (PARTITION p1 VALUES LESS THAN (3))";
        assert_eq!(classify(partition), altered(None, "log"));
        assert_eq!(
            classify("DROP TABLE IF EXISTS `shop`.`log` /* generated by server */"),
            altered(Some("shop"), "log")
        );
        assert_eq!(classify("RENAME TABLE a.b TO c"), altered(Some("a"), "b"));
        for sql in ["DROP DATABASE d", "ALTER VIEW v AS SELECT 1", "DROP INDEX i ON t", "ALTER USER u ACCOUNT LOCK"] {
            assert_eq!(classify(sql), Statement::Other, "{sql}");
        }
    }

    #[test]
    fn rows_that_are_logged_as_text_are_seen() {
        for sql in ["insert into t values (1)", "REPLACE t SELECT 1", " /* x */ delete from t", "UPDATE t SET a=1"] {
            assert_eq!(classify(sql), Statement::RowsAsText, "{sql}");
        }
        for sql in ["CREATE TABLE t (a int)", "GRANT ALL ON x.* TO y", "FLUSH LOGS", ""] {
            assert_eq!(classify(sql), Statement::Other, "{sql}");
        }
    }
}
