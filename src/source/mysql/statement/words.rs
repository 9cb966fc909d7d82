//! Splits a statement into its words, as far as it takes to know what it is about.

/// A word of a statement.
#[derive(Debug)]
pub(super) struct Word {
    /// Without its quotes.
    pub text: String,
    /// Whether it had some: then it is a name or a text, and no keyword.
    pub quoted: bool,
}

impl Word {
    pub fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(keyword)
    }

    pub fn is_one_of(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

/// In which quotes a backslash makes the next letter a part of the text, as the `sql_mode` of the session says; in backticks in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Escapes {
    pub single: bool,
    /// Not where these are around names.
    pub double: bool,
}

/// The words of a statement: names without their quotes, dots by themselves; comments are passed over, but what is inside
/// of `/*! … */` is a part of the statement.
#[derive(Clone)]
pub(super) struct Words<'a>(pub &'a str, pub Escapes);

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        loop {
            let rest = self.0.trim_start_matches(|c: char| is_space(c) || matches!(c, '(' | ')' | ',' | ';' | '='));
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
            let escapes = (first == '\'' && self.1.single) || (first == '"' && self.1.double);
            while let Some((at, letter)) = letters.next() {
                if letter == '\\' && escapes {
                    text.extend(letters.next().map(|(_, escaped)| escaped));
                    continue;
                }
                if letter == first && letters.next_if(|(_, next)| *next == first).is_none() {
                    self.0 = &self.0[1 + at + 1..];
                    return Some(Word { text, quoted: true });
                }
                text.push(letter);
            }
            self.0 = "";
            return Some(Word { text, quoted: true });
        }
        let ends = |(at, c): &(usize, char)| {
            let rest = &self.0[*at..];
            is_space(*c)
                || matches!(c, '.' | '`' | '"' | '\'' | '(' | ')' | ',' | ';' | '=' | '/')
                || rest.starts_with("*/")
                || line_comment(rest).is_some()
        };
        let end = self.0.char_indices().skip(1).find(ends).map_or(self.0.len(), |(at, _)| at);
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(Word { text: word.to_string(), quoted: false })
    }
}

/// What is no part of a name: other letters that look like a space may be.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// What is behind `#`, or `--` and a space or control character.
fn line_comment(text: &str) -> Option<&str> {
    let behind = || text.strip_prefix("--").filter(|behind| !behind.starts_with(|c: char| c > ' ' && c != '\u{7f}'));
    text.strip_prefix('#').or_else(behind)
}
