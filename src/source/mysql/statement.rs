//! What a statement in the binlog means to a reader of rows.

use std::borrow::Cow;

use mysql::binlog::events::{QueryEvent, StatusVarVal};
use mysql_common::binlog::consts::StatusVarKey;

use crate::codec::binlog::charset_of;
use crate::codec::charset;

/// The text of a statement, which is logged in the character set that its client spoke.
pub fn text_of<'a>(event: &'a QueryEvent<'a>) -> Cow<'a, str> {
    let client = event.status_vars().get_status_var(StatusVarKey::Charset);
    let client = client.and_then(|said| match said.get_value() {
        Ok(StatusVarVal::Charset { charset_client, .. }) => charset_of(charset_client.into()).ok(),
        _ => None,
    });
    let text = client.and_then(|client| charset::decode(&client, event.query_raw()).ok().flatten());
    text.unwrap_or_else(|| event.query())
}

/// A statement, as far as the reader cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A transaction begins.
    Begin,
    /// A transaction ends.
    End,
    /// A transaction is rolled back, or a part of it.
    Rollback,
    /// A distributed transaction goes on: it begins, or ends and is prepared then, or is decided about.
    Xa {
        /// What it does.
        step: XaStep,
        /// Which it is, as the server writes that.
        xid: String,
    },
    /// Rows of tables go, or come, without being logged.
    Unlogged {
        /// The statement's own word for it.
        what: &'static str,
        /// The tables.
        tables: Vec<Named>,
    },
    /// Tables are altered, dropped, renamed or made anew: what becomes of their rows is not logged.
    Alter {
        /// The tables.
        tables: Vec<Named>,
        /// Whether their columns may be others afterwards, or have other names, types or character sets.
        reshapes: bool,
    },
    /// All tables of a database go.
    DropDatabase {
        /// The database.
        database: String,
    },
    /// Rows change, or may, without being logged as rows: what is not known to be harmless is this.
    RowsAsText {
        /// The tables; none where that can't be told from the statement's first words.
        tables: Vec<Named>,
    },
    /// A table has another unique index, or lacks one: its key may be another if it is none that is called primary.
    Index {
        /// The table.
        table: Named,
    },
    /// CREATE TABLE … SELECT: rows follow, and an end.
    CreateWithRows,
    /// Anything else: it changes no row.
    Other,
}

/// What a distributed transaction does. Its rows are logged before it is known whether they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XaStep {
    /// Rows follow.
    Start,
    /// No more rows follow.
    End,
    /// They stay.
    Commit,
    /// They do not.
    Rollback,
}

/// A table as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The database, where the statement names it.
    pub database: Option<String>,
    /// The table.
    pub table: String,
}

/// What `sql` means.
pub fn classify(sql: &str) -> Statement {
    let mut words = Words(sql);
    let Some(first) = words.next().filter(|first| !first.quoted) else { return Statement::Other };
    let doubtful = Statement::RowsAsText { tables: Vec::new() };
    match &*first.text.to_ascii_uppercase() {
        "BEGIN" => Statement::Begin,
        "COMMIT" => Statement::End,
        "ROLLBACK" => Statement::Rollback,
        "XA" => xa(&mut words).unwrap_or(doubtful),
        verb @ ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH") => {
            Statement::RowsAsText { tables: written_to(verb, &mut words).into_iter().collect() }
        }
        "TRUNCATE" => truncate(&mut words).unwrap_or(Statement::Other),
        "ALTER" => partition(&mut Words(words.0)).or_else(|| alter(&mut words)).unwrap_or(Statement::Other),
        "DROP" => drop_database(&mut Words(words.0))
            .or_else(|| drop_index(&mut Words(words.0)))
            .or_else(|| drop_tables(&mut words))
            .unwrap_or(Statement::Other),
        "RENAME" => rename(&mut words).unwrap_or(Statement::Other),
        "CREATE" => create(&mut words).unwrap_or(Statement::Other),
        // MariaDB: SET STATEMENT variables FOR another statement.
        "SET" if Words(words.0).next().is_some_and(|word| word.is("STATEMENT")) => {
            match words.find(|word| word.is("FOR")) {
                Some(_) => classify(words.0),
                None => doubtful,
            }
        }
        // MariaDB's ANALYZE of a statement carries that out.
        "ANALYZE" => match words.find(|word| !word.is_one_of(&["NO_WRITE_TO_BINLOG", "LOCAL"])) {
            Some(word) if word.is_one_of(&["TABLE", "TABLES"]) => Statement::Other,
            _ => doubtful,
        },
        "SAVEPOINT" | "RELEASE" | "GRANT" | "REVOKE" | "FLUSH" | "OPTIMIZE" | "REPAIR" | "CHECK" | "SET"
        | "INSTALL" | "UNINSTALL" | "RESET" | "CHANGE" | "START" | "STOP" => Statement::Other,
        _ => doubtful,
    }
}

/// The one table that a statement writes to, if its first words leave no doubt.
fn written_to(verb: &str, words: &mut Words) -> Option<Named> {
    let modifiers = ["LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE", "QUICK"];
    let mut word = words.find(|word| !word.is_one_of(&modifiers))?;
    match verb {
        "INSERT" | "REPLACE" if word.is("INTO") => word = words.next()?,
        "INSERT" | "REPLACE" | "UPDATE" => {}
        "DELETE" if word.is("FROM") => word = words.next()?,
        "LOAD" => {
            words.find(|word| word.is("INTO"))?;
            words.next().filter(|word| word.is("TABLE"))?;
            word = words.next()?;
        }
        _ => return None,
    }
    let table = named(word, words)?;
    // Behind a list or a join of tables the one that is written to may be another.
    let listed = words.0.trim_start().starts_with(',');
    let next = words.next();
    let alone = match verb {
        "UPDATE" => next.is_some_and(|next| next.is("SET")),
        "DELETE" => next.is_none_or(|next| next.is_one_of(&["WHERE", "ORDER", "LIMIT", "RETURNING"])),
        _ => true,
    };
    (alone && !listed).then_some(table)
}

/// DROP DATABASE or DROP SCHEMA.
fn drop_database(words: &mut Words) -> Option<Statement> {
    words.next().filter(|what| what.is_one_of(&["DATABASE", "SCHEMA"]))?;
    Some(Statement::DropDatabase { database: past_if_exists(words)?.text })
}

/// DROP INDEX … ON a table.
fn drop_index(words: &mut Words) -> Option<Statement> {
    let modifiers = ["ONLINE", "OFFLINE"];
    words.find(|word| !word.is_one_of(&modifiers)).filter(|what| what.is("INDEX"))?;
    let index = past_if_exists(words)?;
    words.next().filter(|word| word.is("ON"))?;
    let name = words.next()?;
    let table = named(name, words)?;
    Some(match index.text.eq_ignore_ascii_case("PRIMARY") {
        true => Statement::Alter { tables: vec![table], reshapes: true },
        false => Statement::Index { table },
    })
}

fn xa(words: &mut Words<'_>) -> Option<Statement> {
    let step = match &*words.next()?.text.to_ascii_uppercase() {
        "START" | "BEGIN" => XaStep::Start,
        "END" => XaStep::End,
        "COMMIT" => XaStep::Commit,
        "ROLLBACK" => XaStep::Rollback,
        _ => return None,
    };
    Some(Statement::Xa { step, xid: words.0.trim().to_string() })
}

fn truncate(words: &mut Words) -> Option<Statement> {
    let mut name = words.next()?;
    if name.is("TABLE") {
        name = words.next()?;
    }
    Some(Statement::Unlogged { what: "TRUNCATE TABLE", tables: vec![named(name, words)?] })
}

/// ALTER TABLE … that drops, empties, exchanges or converts partitions, or puts another file in the table's place.
fn partition(words: &mut Words) -> Option<Statement> {
    words.find(|word| word.is("TABLE"))?;
    let name = past_if_exists(words)?;
    let mut tables = vec![named(name, words)?];
    let mut verb = String::new();
    while let Some(word) = words.next() {
        let keyword = if word.quoted { String::new() } else { word.text.to_ascii_uppercase() };
        let pair = (&*verb, &*keyword);
        let what = match pair {
            ("DROP" | "TRUNCATE", "PARTITION") => "ALTER TABLE … DROP or TRUNCATE PARTITION",
            ("DISCARD" | "IMPORT", "PARTITION" | "TABLESPACE") => "ALTER TABLE … DISCARD or IMPORT TABLESPACE",
            ("EXCHANGE", "PARTITION") => "ALTER TABLE … EXCHANGE PARTITION",
            ("CONVERT", "PARTITION" | "TABLE") => "ALTER TABLE … CONVERT PARTITION or TABLE",
            _ => {
                verb = keyword;
                continue;
            }
        };
        // The other table: behind CONVERT TABLE, or behind the partition's name and WITH TABLE or TO TABLE.
        let two = matches!(pair.0, "EXCHANGE" | "CONVERT");
        if two && (pair.1 == "TABLE" || words.skip(1).any(|word| word.is("TABLE"))) {
            let name = words.next()?;
            tables.push(named(name, words)?);
        }
        return Some(Statement::Unlogged { what, tables });
    }
    None
}

/// The next word that does not belong to IF EXISTS.
fn past_if_exists(words: &mut Words) -> Option<Word> {
    let name = words.next()?;
    if !name.is("IF") {
        return Some(name);
    }
    words.find(|word| word.is("EXISTS"))?;
    words.next()
}

/// Moves behind the word TABLE, if the statement is about tables.
fn about_tables(words: &mut Words) -> Option<()> {
    let tables = ["TABLE", "TABLES"];
    let others = ["VIEW", "DATABASE", "INDEX", "USER", "SEQUENCE", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"];
    let what = words.find(|word| word.is_one_of(&tables) || word.is_one_of(&others))?;
    what.is_one_of(&tables).then_some(())
}

/// Whether what stands behind the table's name in ALTER TABLE may give it other columns, or other names, types or character
/// sets of columns. A word in doubt may.
fn reshapes(words: &mut Words) -> bool {
    while let Some(word) = words.next() {
        let clause =
            ["RENAME", "CHANGE", "DROP", "MODIFY", "CONVERT", "CHARACTER", "CHARSET", "COLLATE", "FIRST", "AFTER"];
        if word.is_one_of(&clause) {
            return true;
        }
        let beside_columns = ["INDEX", "KEY", "FULLTEXT", "SPATIAL", "FOREIGN", "PARTITION"];
        if word.is("ADD") && !words.next().is_some_and(|what| what.is_one_of(&beside_columns)) {
            return true;
        }
    }
    false
}

/// DROP TABLE, with all tables.
fn drop_tables(words: &mut Words) -> Option<Statement> {
    about_tables(words)?;
    let name = past_if_exists(words)?;
    let mut tables = vec![named(name, words)?];
    while words.0.trim_start().starts_with(',') {
        let name = words.next()?;
        tables.push(named(name, words)?);
    }
    Some(Statement::Alter { tables, reshapes: true })
}

/// ALTER TABLE, with the new name if it has one.
fn alter(words: &mut Words) -> Option<Statement> {
    about_tables(words)?;
    let name = past_if_exists(words)?;
    let mut tables = vec![named(name, words)?];
    let reshapes = reshapes(&mut Words(words.0));
    while words.find(|word| word.is("RENAME")).is_some() {
        let Some(name) = words.find(|word| !word.is_one_of(&["TO", "AS"])) else { break };
        if !name.is_one_of(&["COLUMN", "INDEX", "KEY"]) {
            tables.push(named(name, words)?);
        }
    }
    Some(Statement::Alter { tables, reshapes })
}

/// RENAME TABLE a TO b, c TO d: all of them.
fn rename(words: &mut Words) -> Option<Statement> {
    about_tables(words)?;
    let mut tables = Vec::new();
    let mut name = past_if_exists(words);
    while let Some(first) = name {
        if first.is("WAIT") {
            words.next(); // and for how long
        } else if !first.is_one_of(&["TO", "NOWAIT"]) {
            tables.push(named(first, words)?);
        }
        name = words.next();
    }
    Some(Statement::Alter { tables, reshapes: true })
}

/// CREATE TABLE with rows in it, or instead of the table that is there (MariaDB's OR REPLACE); CREATE UNIQUE INDEX.
fn create(words: &mut Words) -> Option<Statement> {
    let mut what = words.next()?;
    let replaces = what.is("OR");
    if replaces {
        words.next().filter(|word| word.is("REPLACE"))?;
        what = words.next()?;
    }
    while what.is_one_of(&["ONLINE", "OFFLINE"]) {
        what = words.next()?;
    }
    if what.is("UNIQUE") || (replaces && what.is("INDEX")) {
        words.find(|word| word.is("ON"))?;
        let name = words.next()?;
        return Some(Statement::Index { table: named(name, words)? });
    }
    if !what.is("TABLE") {
        return None; // a TEMPORARY one is another table
    }
    let name = past_if_exists(words)?;
    let tables = vec![named(name, words)?];
    let behind: Vec<Word> = words.collect();
    if let [.., start, transaction] = &behind[..]
        && start.is("START")
        && transaction.is("TRANSACTION")
    {
        return Some(Statement::CreateWithRows);
    }
    // A query: where rows are logged as such, it is left out.
    let partition = |next: Option<&Word>| next.is_some_and(|next| next.is_one_of(&["LESS", "IN"]));
    let queries = |(at, word): (usize, &Word)| {
        word.is_one_of(&["SELECT", "TABLE"]) || (word.is("VALUES") && !partition(behind.get(at + 1)))
    };
    if behind.iter().enumerate().any(queries) {
        return Some(Statement::RowsAsText { tables });
    }
    replaces.then_some(Statement::Alter { tables, reshapes: true })
}

/// The table that begins with `first`: a name, or a database's and behind a dot a table's.
fn named(first: Word, words: &mut Words) -> Option<Named> {
    let mut ahead = Words(words.0);
    if ahead.next().is_some_and(|word| word.is(".")) {
        let table = ahead.next()?.text;
        words.0 = ahead.0;
        return Some(Named { database: Some(first.text), table });
    }
    Some(Named { database: None, table: first.text })
}

/// A word of a statement.
#[derive(Debug)]
struct Word {
    /// Without its quotes.
    text: String,
    /// Whether it had some: then it is a name or a text, and no keyword.
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(keyword)
    }

    fn is_one_of(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

/// The words of a statement: names without their quotes, dots by themselves; comments are passed over, but what is inside
/// of `/*! … */` is a part of the statement.
struct Words<'a>(&'a str);

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        loop {
            let rest =
                self.0.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';' | '='));
            if let Some(version) = rest.strip_prefix("/*M!").or_else(|| rest.strip_prefix("/*!")) {
                self.0 = version.trim_start_matches(|c: char| c.is_ascii_digit());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                self.0 = comment.split_once("*/").map_or("", |(_, behind)| behind);
            } else if let Some(end) = rest.strip_prefix("*/") {
                self.0 = end;
            } else if let Some(comment) = line_comment(rest) {
                self.0 = comment.split_once('\n').map_or("", |(_, behind)| behind);
            } else {
                self.0 = rest;
                break;
            }
        }
        let first = self.0.chars().next()?;
        if first == '.' {
            self.0 = &self.0[1..];
            return Some(Word { text: ".".into(), quoted: false });
        }
        if matches!(first, '`' | '"' | '\'') {
            let mut text = String::new();
            let mut letters = self.0[1..].char_indices().peekable();
            while let Some((at, letter)) = letters.next() {
                if letter == first && letters.next_if(|(_, next)| *next == first).is_none() {
                    self.0 = &self.0[1 + at + 1..];
                    return Some(Word { text, quoted: true });
                }
                text.push(letter);
            }
            self.0 = "";
            return Some(Word { text, quoted: true });
        }
        let ends =
            |c: char| c.is_whitespace() || matches!(c, '.' | '`' | '"' | '\'' | '(' | ')' | ',' | ';' | '=' | '/');
        let end = self.0.find(ends).unwrap_or(self.0.len()).max(first.len_utf8());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(Word { text: word.to_string(), quoted: false })
    }
}

/// What is behind `#`, or `--` and a space or control character.
fn line_comment(text: &str) -> Option<&str> {
    let behind = || text.strip_prefix("--").filter(|behind| !behind.starts_with(|c: char| c > ' ' && c != '\u{7f}'));
    text.strip_prefix('#').or_else(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(names: &[&str]) -> Vec<Named> {
        let named = |name: &&str| match name.split_once('/') {
            Some((database, table)) => Named { database: Some(database.into()), table: table.into() },
            None => Named { database: None, table: (*name).into() },
        };
        names.iter().map(named).collect()
    }

    fn truncated(name: &str) -> Statement {
        Statement::Unlogged { what: "TRUNCATE TABLE", tables: tables(&[name]) }
    }

    #[test]
    fn transactions_begin_and_end() {
        assert_eq!(classify("BEGIN"), Statement::Begin);
        assert_eq!(classify("COMMIT"), Statement::End);
        assert_eq!(classify("ROLLBACK"), Statement::Rollback);
        assert_eq!(classify("ROLLBACK TO `sp`"), Statement::Rollback);
        assert_eq!(classify("CREATE DEFINER=`r` PROCEDURE `p`() START TRANSACTION"), Statement::Other);
        assert_eq!(classify("SAVEPOINT `sp`"), Statement::Other);
        let xa = |step| Statement::Xa { step, xid: "X'78',X'',1".into() };
        assert_eq!(classify("XA START X'78',X'',1"), xa(XaStep::Start));
        assert_eq!(classify("XA COMMIT X'78',X'',1"), xa(XaStep::Commit));
        assert_eq!(classify("CREATE TABLE `t` (\n `a` int\n) START TRANSACTION"), Statement::CreateWithRows);
    }

    #[test]
    fn what_empties_or_fills_a_table_is_seen() {
        assert_eq!(classify("truncate t"), truncated("t"));
        assert_eq!(classify("TRUNCATE TABLE shop.orders"), truncated("shop/orders"));
        assert_eq!(classify("TRUNCATE `table`"), truncated("table"));
        assert_eq!(classify("--\nTRUNCATE -- x\n t"), truncated("t"));
        assert_eq!(classify("SET STATEMENT max_statement_time=10, sql_mode='FOR' FOR TRUNCATE t"), truncated("t"));
        assert_eq!(classify("/* why */ TRUNCATE /*!50000 TABLE */ `a``b` . `c.d` -- now"), truncated("a`b/c.d"));
        for (sql, expected) in [
            ("ALTER TABLE `shop`.`log` TRUNCATE PARTITION p0", &["shop/log"][..]),
            ("alter table log drop partition p1, p2", &["log"]),
            ("ALTER TABLE IF EXISTS log DROP PARTITION p1", &["log"]),
            ("ALTER TABLE log CONVERT PARTITION p1 TO TABLE b.u", &["log", "b/u"]),
            ("ALTER TABLE log CONVERT TABLE u TO PARTITION p1 VALUES LESS THAN (3)", &["log", "u"]),
            ("ALTER TABLE log EXCHANGE PARTITION p WITH TABLE `b`.`u` WITHOUT VALIDATION", &["log", "b/u"]),
            ("ALTER TABLE log EXCHANGE PARTITION `table` WITH TABLE u", &["log", "u"]),
            ("ALTER TABLE `if` TRUNCATE PARTITION p0", &["if"]),
            ("ALTER TABLE log IMPORT TABLESPACE", &["log"]),
            ("ALTER TABLE log DISCARD PARTITION p0 TABLESPACE", &["log"]),
        ] {
            let Statement::Unlogged { tables: seen, .. } = classify(sql) else { panic!("{sql}") };
            assert_eq!(seen, tables(expected), "{sql}");
        }
    }

    #[test]
    fn what_changes_a_table_is_seen() {
        for (sql, expected) in [
            ("ALTER TABLE log DROP COLUMN c", &["log"][..]),
            ("ALTER IGNORE TABLE a.log ADD c int DEFAULT 7", &["a/log"]),
            ("ALTER TABLE log ADD PARTITION (PARTITION p1 VALUES LESS THAN (3))", &["log"]),
            ("ALTER TABLE log CONVERT TO CHARACTER SET utf8mb4", &["log"]),
            ("DROP TABLE IF EXISTS `shop`.`log`, b /* generated by server */", &["shop/log", "b"]),
            ("DROP TABLES a", &["a"]),
            ("ALTER TABLE a RENAME COLUMN x TO y, RENAME INDEX i TO j, RENAME TO b.c, ADD z int", &["a", "b/c"]),
            ("RENAME TABLE a.b TO c, d TO a.b", &["a/b", "c", "d", "a/b"]),
            ("RENAME TABLE IF EXISTS a WAIT 5 TO b", &["a", "b"]),
            ("CREATE OR REPLACE TABLE a.b (c int)", &["a/b"]),
            ("ALTER TABLE log DROP `partition`", &["log"]),
            ("DROP INDEX `PRIMARY` ON a.log", &["a/log"]),
        ] {
            let Statement::Alter { tables: seen, .. } = classify(sql) else { panic!("{sql}") };
            assert_eq!(seen, tables(expected), "{sql}");
        }
        for sql in [
            "CREATE UNIQUE INDEX i USING BTREE ON `a`.t (x)",
            "CREATE OR REPLACE INDEX i ON a.t (x)",
            "DROP INDEX IF EXISTS i ON a . t",
        ] {
            assert_eq!(classify(sql), Statement::Index { table: tables(&["a/t"]).remove(0) }, "{sql}");
        }
        for sql in ["DROP DATABASE d", "drop schema if exists `d` /* generated by server */"] {
            assert_eq!(classify(sql), Statement::DropDatabase { database: "d".into() }, "{sql}");
        }
        for sql in [
            "ALTER VIEW v AS SELECT 1",
            "ALTER USER u ACCOUNT LOCK",
            "RENAME USER a TO b",
            "CREATE OR REPLACE TEMPORARY TABLE t (a int)",
            "CREATE OR REPLACE VIEW v AS SELECT 1",
        ] {
            assert_eq!(classify(sql), Statement::Other, "{sql}");
        }
    }

    #[test]
    fn what_leaves_columns_as_they_are_is_told_from_what_may_not() {
        let reshapes = |sql: &str| matches!(classify(sql), Statement::Alter { reshapes: true, .. });
        for sql in [
            "ALTER TABLE t RENAME COLUMN a TO b",
            "ALTER TABLE t CHANGE a b int, CHANGE b a int",
            "ALTER TABLE t ADD INDEX (a), DROP c, ADD c int",
            "ALTER TABLE t ADD (c int)",
            "ALTER TABLE t ADD c int FIRST",
            "ALTER TABLE t MODIFY a int AFTER b",
            "ALTER TABLE t CONVERT TO CHARACTER SET latin1",
            "ALTER TABLE t RENAME TO u",
            "ALTER TABLE t ADD UNIQUE (a)",
            "DROP TABLE t",
            "RENAME TABLE t TO u",
            "CREATE OR REPLACE TABLE t (a int)",
        ] {
            assert!(reshapes(sql), "{sql}");
        }
        for sql in [
            "ALTER TABLE t ADD INDEX (a), ADD FULLTEXT KEY f (b)",
            "ALTER TABLE t ENGINE=InnoDB, COMMENT 'x'",
            "ALTER TABLE t ADD PARTITION (PARTITION p1 VALUES LESS THAN (3))",
            "ALTER TABLE t AUTO_INCREMENT = 7",
            "ALTER TABLE t ALTER COLUMN a SET DEFAULT 7",
        ] {
            assert!(!reshapes(sql), "{sql}");
        }
    }

    #[test]
    fn rows_that_are_logged_as_text_are_seen() {
        for (sql, expected) in [
            ("insert into t values (1)", &["t"][..]),
            ("INSERT DELAYED IGNORE INTO a.t SELECT * FROM u", &["a/t"]),
            ("REPLACE t SELECT 1", &["t"]),
            (" /* x */ delete from t", &["t"]),
            ("DELETE LOW_PRIORITY QUICK FROM `a`.`t` WHERE x", &["a/t"]),
            ("UPDATE t SET a=1", &["t"]),
            ("LOAD DATA LOCAL INFILE '/t' REPLACE INTO TABLE `t` FIELDS TERMINATED BY ','", &["t"]),
            ("UPDATE t, u SET u.a=1", &[]),
            ("UPDATE t JOIN u USING (a) SET u.a=1", &[]),
            ("UPDATE t AS x SET a=1", &[]),
            ("DELETE t FROM t JOIN u USING (a)", &[]),
            ("DELETE FROM t, u USING t JOIN u USING (a)", &[]),
            ("DELETE FROM t USING t JOIN u USING (a)", &[]),
            ("WITH x AS (SELECT 1) DELETE FROM t", &[]),
            ("SELECT `a`.`f`(9)", &[]),
            ("DO f(9)", &[]),
            ("ANALYZE FORMAT=JSON UPDATE t SET a=1", &[]),
            ("SET STATEMENT max_statement_time=10 FOR INSERT INTO t VALUES (7)", &["t"]),
            ("CREATE TABLE IF NOT EXISTS a.t (id int primary key) SELECT id FROM u", &["a/t"]),
            ("CREATE OR REPLACE TABLE t AS WITH x AS (SELECT 1) SELECT * FROM x", &["t"]),
            ("CREATE TABLE t VALUES ROW(1)", &["t"]),
            ("CREATE TABLE t TABLE u", &["t"]),
            ("something that is not known yet", &[]),
        ] {
            assert_eq!(classify(sql), Statement::RowsAsText { tables: tables(expected) }, "{sql}");
        }
        for sql in [
            "CREATE TABLE t (a int COMMENT 'select', `table` int)",
            "CREATE TABLE t (a int) PARTITION BY RANGE (a) (PARTITION p VALUES LESS THAN (3))",
            "CREATE TABLE t (a int) PARTITION BY LIST (a) (PARTITION p VALUES IN (3))",
            "CREATE TEMPORARY TABLE t SELECT 1",
            "CREATE INDEX i ON t (a)",
            "CREATE VIEW v AS SELECT 1",
            "CREATE DEFINER=`r` TRIGGER x BEFORE INSERT ON t FOR EACH ROW INSERT INTO u VALUES (1)",
            "ANALYZE LOCAL TABLE t",
            "SET PASSWORD FOR u = 'x'",
            "GRANT ALL ON x.* TO y",
            "FLUSH LOGS",
            "# Dummy event replacing event type 160",
            "",
        ] {
            assert_eq!(classify(sql), Statement::Other, "{sql}");
        }
    }
}
