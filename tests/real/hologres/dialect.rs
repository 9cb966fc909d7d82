//! What Hologres refuses of PostgreSQL's SQL, judged by the words of a statement; and what it has that PostgreSQL does not.

/// A statement's words in upper case, its signs, its quoted names and literals.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Name(String),
    Literal(String),
    Parameter(u32),
    Sign(char),
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\'' => {
                let mut text = String::new();
                while let Some(next) = rest.next() {
                    match next == c && rest.peek() != Some(&c) {
                        true => break,
                        false if next == c => text.push(rest.next().unwrap()),
                        false => text.push(next),
                    }
                }
                tokens.push(if c == '"' { Token::Name(text) } else { Token::Literal(text) });
            }
            '$' => {
                let mut digits = String::new();
                while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                tokens.push(Token::Parameter(digits.parse().unwrap_or(0)));
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(next) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(next);
                }
                tokens.push(Token::Word(word.to_uppercase()));
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Sign(c)),
        }
    }
    tokens
}

fn is(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(found)) if found == word)
}

/// A statement as its words, for looking for phrases.
struct Statement(Vec<Token>);

impl Statement {
    /// Where the words stand one after the other.
    fn find(&self, words: &[&str]) -> Option<usize> {
        (0..self.0.len()).find(|at| words.iter().enumerate().all(|(n, word)| is(self.0.get(at + n), word)))
    }

    fn has(&self, words: &[&str]) -> bool {
        self.find(words).is_some()
    }

    fn begins(&self, words: &[&str]) -> bool {
        self.find(words) == Some(0)
    }

    /// The name at `at`: schema, if it has one, and name, as they would be written in quotes.
    fn name(&self, at: usize) -> (Option<String>, String) {
        let part = |at| match self.0.get(at) {
            Some(Token::Word(word)) => word.to_lowercase(),
            Some(Token::Name(name)) => name.clone(),
            other => panic!("a name is expected, not {other:?}: {:?}", self.0),
        };
        match self.0.get(at + 1) {
            Some(Token::Sign('.')) => (Some(part(at)), part(at + 2)),
            _ => (None, part(at)),
        }
    }

    /// The table that it writes to: where its name stands.
    fn written(&self) -> Option<usize> {
        [&["INSERT", "INTO"][..], &["UPDATE"], &["DELETE", "FROM"]]
            .into_iter()
            .find(|words| self.begins(words))
            .map(<[&str]>::len)
    }
}

/// Whether the SQL inserts, updates or deletes.
pub fn writes_rows(sql: &str) -> bool {
    Statement(tokens(sql)).written().is_some()
}

/// Why Hologres refuses the SQL, if it does. `key_of` gives the columns of a table's primary key.
pub fn refuses(sql: &str, key_of: &dyn Fn(&str) -> Vec<String>) -> Option<String> {
    let all = tokens(sql);
    let statements = || all.split(|token| *token == Token::Sign(';')).filter(|tokens| !tokens.is_empty());
    let judged = statements().find_map(|tokens| refuses_one(&Statement(tokens.to_vec()), key_of));
    let (mut ddl, mut dml) = (false, false);
    for statement in statements().map(|tokens| Statement(tokens.to_vec())) {
        ddl |= ["CREATE", "ALTER", "DROP"].iter().any(|word| statement.begins(&[word]));
        dml |= statement.written().is_some();
    }
    let parameters = all.iter().filter_map(|token| if let Token::Parameter(n) = token { Some(*n) } else { None }).max();
    judged
        .or_else(|| (ddl && dml).then(|| "DDL mixed with DML".into()))
        .or_else(|| (parameters > Some(32_767)).then(|| "more than 32767 parameters".into()))
        .or_else(|| (sql.len() > 100 << 10).then(|| "more than 100 KB of SQL".into()))
}

fn refuses_one(statement: &Statement, key_of: &dyn Fn(&str) -> Vec<String>) -> Option<String> {
    let all = &statement.0;
    for (words, what) in [
        (&["FOR", "UPDATE"][..], "SELECT FOR UPDATE"),
        (&["FOR", "SHARE"], "SELECT FOR SHARE"),
        (&["FOR", "NO", "KEY", "UPDATE"], "SELECT FOR UPDATE"),
        (&["FOR", "KEY", "SHARE"], "SELECT FOR SHARE"),
        (&["SAVEPOINT"], "savepoints"),
        (&["TEMP"], "temporary tables"),
        (&["TEMPORARY"], "temporary tables"),
    ] {
        if statement.has(words) {
            return Some(what.into());
        }
    }
    for (word, what) in [
        ("LOCK", "LOCK"),
        ("MERGE", "MERGE"),
        ("BEGIN", "transactions of several statements"),
        ("START", "transactions of several statements"),
    ] {
        if statement.begins(&[word]) {
            return Some(what.into());
        }
    }
    let advisory = |token: &Token| matches!(token, Token::Word(word) if word.contains("ADVISORY"));
    if all.iter().any(advisory) {
        return Some("advisory locks".into());
    }
    let inner = ["INSERT", "UPDATE", "DELETE"].iter().any(|word| statement.has(&[word]));
    if statement.begins(&["WITH"]) && inner {
        return Some("a CTE with DML".into());
    }
    if statement.begins(&["SET", "SEARCH_PATH"]) && all.contains(&Token::Sign(',')) {
        return Some("several names in search_path".into());
    }
    if statement.begins(&["INSERT"]) && statement.has(&["ON", "CONFLICT"]) && statement.has(&["RETURNING"]) {
        return Some("INSERT ON CONFLICT RETURNING".into());
    }
    if statement.begins(&["CREATE", "TABLE"]) {
        return refuses_table(statement);
    }
    let at = statement.written()?;
    let (schema, table) = statement.name(at);
    let Some(schema) = schema else { return Some(format!("the table {table} without its schema")) };
    let any = |window: &[Token]| window[0] == Token::Sign('=') && is(window.get(1), "ANY");
    if statement.begins(&["DELETE"]) && all.windows(2).filter(|window| any(window)).count() > 1 {
        return Some("a product of two ANY (it is never on the fast path)".into());
    }
    if statement.begins(&["UPDATE"]) {
        let key = key_of(&format!("\"{schema}\".\"{table}\""));
        let sets = statement.find(&["SET"])? + 1;
        let mut deep = 0;
        let mut begins = true;
        for (at, token) in all.iter().enumerate().skip(sets) {
            match token {
                Token::Word(word) if word == "WHERE" && deep == 0 => break,
                Token::Sign('(') => deep += 1,
                Token::Sign(')') => deep -= 1,
                Token::Sign(',') if deep == 0 => {
                    begins = true;
                    continue;
                }
                Token::Word(_) | Token::Name(_) if begins && key.contains(&statement.name(at).1) => {
                    return Some(format!("UPDATE of the key column {}", statement.name(at).1));
                }
                _ => {}
            }
            begins = false;
        }
    }
    None
}

/// What is wrong with a table that is created.
fn refuses_table(statement: &Statement) -> Option<String> {
    for word in ["UNIQUE", "CHECK", "EXCLUDE"] {
        if statement.has(&[word]) {
            return Some(format!("a {word} constraint"));
        }
    }
    let all = &statement.0;
    let open = all.iter().position(|token| *token == Token::Sign('('))?;
    let mut deep = 0;
    let mut parts: Vec<Vec<Token>> = vec![Vec::new()];
    for token in &all[open..] {
        deep += i32::from(*token == Token::Sign('(')) - i32::from(*token == Token::Sign(')'));
        match token {
            Token::Sign(',') if deep == 1 => parts.push(Vec::new()),
            _ => parts.last_mut().unwrap().push(token.clone()),
        }
        if deep == 0 {
            break;
        }
    }
    parts[0].remove(0); // the parenthesis
    let mut key = Vec::new();
    let mut columns = Vec::new();
    for part in parts.into_iter().map(Statement) {
        if part.begins(&["PRIMARY", "KEY"]) {
            key = (3..part.0.len()).step_by(2).filter(|at| *at < part.0.len() - 1).map(|at| part.name(at).1).collect();
            continue;
        }
        let name = part.name(0).1;
        if name.starts_with("hg_") {
            return Some(format!("the column name {name}"));
        }
        for ty in ["NUMERIC", "DECIMAL"] {
            if is(part.0.get(1), ty) && part.0.get(2) != Some(&Token::Sign('(')) {
                return Some(format!("NUMERIC without precision of the column {name}"));
            }
        }
        if part.has(&["PRIMARY", "KEY"]) {
            key.push(name.clone());
        }
        columns.push((name, part));
    }
    columns.iter().filter(|(name, _)| key.contains(name)).find_map(|(name, part)| {
        let refused = ["REAL", "DOUBLE", "FLOAT", "FLOAT4", "FLOAT8", "NUMERIC", "DECIMAL", "JSON", "JSONB"];
        let array = part.0.contains(&Token::Sign('['));
        let bad = array || refused.iter().any(|ty| is(part.0.get(1), ty));
        bad.then(|| format!("the type of the key column {name}"))
    })
}

/// The SQL as PostgreSQL has to get it. `stubborn`: no session can be ended.
pub fn for_postgres(sql: &str, stubborn: bool) -> String {
    let mut sql = sql.replace("hg_version()", "'Hologres 3.1 (stand-in)'::text AS hg_version");
    if stubborn {
        sql = sql.replace("pg_terminate_backend($1)", "($1::int4 IS NULL)");
    }
    let statement = Statement(tokens(&sql));
    if statement.begins(&["SET"]) && matches!(statement.0.get(1), Some(Token::Word(word)) if word.starts_with("HG_")) {
        return "SELECT 1".into();
    }
    if statement.begins(&["CREATE", "TABLE"])
        && let Some((table, _)) = sql.rsplit_once(" WITH (orientation")
    {
        sql = table.to_string();
    }
    // It keeps milliseconds of these, whatever comes.
    sql.replace("::timestamp with time zone", "::timestamptz(3)")
}
