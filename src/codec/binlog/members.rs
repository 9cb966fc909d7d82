//! The members of an ENUM or SET, from the type's text in `information_schema`.

/// The members in `enum('a','it''s')` or `set(…)`; empty for any other type.
///
/// ```
/// use tidegate::codec::binlog::members_of;
/// assert_eq!(members_of("enum('a','it''s','x,y')"), ["a", "it's", "x,y"]);
/// assert!(members_of("varchar(3)").is_empty());
/// ```
pub fn members_of(column_type: &str) -> Vec<String> {
    let lower = column_type.to_ascii_lowercase();
    if !lower.starts_with("enum(") && !lower.starts_with("set(") {
        return Vec::new();
    }
    let mut members = Vec::new();
    let mut letters = column_type.chars().skip_while(|&c| c != '(').peekable();
    while letters.any(|c| c == '\'') {
        let mut member = String::new();
        while let Some(c) = letters.next() {
            if c == '\'' && letters.next_if_eq(&'\'').is_none() {
                break;
            }
            member.push(c);
        }
        members.push(member);
    }
    members
}
