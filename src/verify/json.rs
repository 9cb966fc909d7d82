//! The canonical form of a JSON document and of a decimal number.
//!
//! Two documents are equal if they hold the same values: members of an object in any order (of equal names the last one
//! counts, as MySQL and `jsonb` keep it), numbers by their exact value (`1`, `1.0` and `10e-1` are one number; nothing
//! goes through a float, so that no digit is lost), strings by their characters. Text is parsed by our own parser because
//! MySQL's JSON has numbers that no common number type holds.

use std::collections::BTreeMap;

/// Deeper than any server's limit (MySQL: 100 levels), shallow enough for the stack.
const DEPTH_MAX: usize = 600;

/// Appends the canonical form of the document; false, with `out` in any state behind its old end, if it is none.
pub fn canonical(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut parser = Parser { text, at: 0 };
    parser.blank();
    if parser.value(out, 0).is_none() {
        return false;
    }
    parser.blank();
    parser.at == text.len()
}

/// Appends the canonical form of a decimal number: sign, digits without zeroes at either end, `e`, and the power of ten
/// behind the first digit's point. False if it is no number.
pub fn push_number(text: &[u8], out: &mut Vec<u8>) -> bool {
    let (negative, rest) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(e) => match std::str::from_utf8(&rest[e + 1..]).ok().and_then(|exponent| exponent.parse::<i64>().ok()) {
            Some(exponent) => (&rest[..e], exponent),
            None => return false,
        },
        None => (rest, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let digit_count = mantissa.len() - usize::from(point < mantissa.len());
    let digits = || mantissa[..point].iter().chain(mantissa.iter().skip(point + 1));
    if digit_count == 0 || !digits().all(u8::is_ascii_digit) {
        return false;
    }
    let Some(first) = digits().position(|digit| *digit != b'0') else {
        out.push(b'0');
        return true;
    };
    let last = digit_count - 1 - digits().rev().position(|digit| *digit != b'0').unwrap_or(0);
    if negative {
        out.push(b'-');
    }
    out.extend(digits().skip(first).take(last - first + 1));
    out.push(b'e');
    let Some(power) = exponent.checked_add(point as i64 - first as i64) else { return false };
    out.extend_from_slice(&power.to_le_bytes());
    true
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn blank(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.text.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str, out: &mut Vec<u8>) -> Option<()> {
        self.text[self.at..].starts_with(word.as_bytes()).then(|| {
            self.at += word.len();
            out.push(word.as_bytes()[0]);
        })
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.text.get(self.at)? {
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                out.push(b'"');
                let start = out.len();
                out.extend_from_slice(&[0; 4]);
                self.string(out)?;
                let length = (out.len() - start - 4) as u32;
                out[start..start + 4].copy_from_slice(&length.to_le_bytes());
                Some(())
            }
            b't' => self.word("true", out),
            b'f' => self.word("false", out),
            b'n' => self.word("null", out),
            _ => self.number(out),
        }
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.take(b'{')?;
        let mut members = BTreeMap::new();
        self.blank();
        if self.take(b'}').is_none() {
            loop {
                self.blank();
                let mut name = Vec::new();
                self.string(&mut name)?;
                self.blank();
                self.take(b':')?;
                self.blank();
                let mut value = Vec::new();
                self.value(&mut value, depth + 1)?;
                members.insert(name, value);
                self.blank();
                if self.take(b',').is_none() {
                    self.take(b'}')?;
                    break;
                }
            }
        }
        out.push(b'{');
        out.extend_from_slice(&(members.len() as u32).to_le_bytes());
        for (name, value) in members {
            out.extend_from_slice(&(name.len() as u32).to_le_bytes());
            out.extend_from_slice(&name);
            out.extend_from_slice(&value);
        }
        Some(())
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.take(b'[')?;
        out.push(b'[');
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0u32;
        self.blank();
        if self.take(b']').is_none() {
            loop {
                self.blank();
                self.value(out, depth + 1)?;
                count += 1;
                self.blank();
                if self.take(b',').is_none() {
                    self.take(b']')?;
                    break;
                }
            }
        }
        out[start..start + 4].copy_from_slice(&count.to_le_bytes());
        Some(())
    }

    fn number(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let length = self.text[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'))
            .count();
        let number = &self.text[self.at..self.at + length];
        self.at += length;
        out.push(b'#');
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        push_number(number, out).then_some(())?;
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        Some(())
    }

    /// Appends the characters of a string, as UTF-8.
    fn string(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.take(b'"')?;
        loop {
            let run = self.text[self.at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            out.extend_from_slice(&self.text[self.at..self.at + run]);
            self.at += run + 1;
            if self.text[self.at - 1] == b'"' {
                return Some(());
            }
            let escaped = *self.text.get(self.at)?;
            self.at += 1;
            out.push(match escaped {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'"' | b'\\' | b'/' => escaped,
                b'u' => {
                    let character = self.escaped_character()?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                _ => return None,
            });
        }
    }

    fn escaped_character(&mut self) -> Option<char> {
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        self.take(b'\\')?;
        self.take(b'u')?;
        let second = self.hex().filter(|second| (0xdc00..0xe000).contains(second))?;
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        canonical(text.as_bytes(), &mut out).then_some(out)
    }

    #[test]
    fn the_same_document_in_other_words_is_equal() {
        for (a, b) in [
            (r#"{"a":1,"b":[true,null]}"#, r#" { "b" : [ true , null ], "a" : 1.0 } "#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("1e2", "100"),
            ("-0.0", "0"),
            ("123456789012345678901234567890.10", "123456789012345678901234567890.1"),
            (r#""né😀\/""#, r#""n\u00e9\ud83d\ude00/""#),
            ("[]", "[ ]"),
            ("0.001", "1e-3"),
        ] {
            assert_eq!(form(a).unwrap(), form(b).unwrap(), "{a} {b}");
        }
    }

    #[test]
    fn another_document_is_not() {
        for (a, b) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":null}"#, "{}"),
            ("[1,2]", "[2,1]"),
            ("[[],[]]", "[[[]]]"),
            ("18446744073709551615", "18446744073709551616"),
            ("1", "10"),
            ("0.1", "0.10000000000000001"),
            ("1", "-1"),
            (r#"["ab","c"]"#, r#"["a","bc"]"#),
            ("\"\"", "null"),
        ] {
            assert_ne!(form(a).unwrap(), form(b).unwrap(), "{a} {b}");
        }
    }

    #[test]
    fn what_is_no_document_has_no_form() {
        for text in ["", "{", "[1,]", "{\"a\"}", "1 2", "--1", "1e", ".", "\"\\ud800\"", "nul", "\"a", "e5"] {
            assert_eq!(form(text), None, "{text}");
        }
        assert_eq!(form(&"[".repeat(100_000)), None, "too deep");
    }
}
