//! MySQL's character sets, by name, to UTF-8: every letter the one that the server itself converts it to.
//!
//! The tables of others (WHATWG's, Java's) differ from MySQL's in many letters, so that MySQL's own are used: see
//! `table`. What the server has no letter for, and would show as a question mark, is refused: a guessed letter is a
//! changed letter.

mod table;

use std::borrow::Cow;

/// The text of `bytes` in MySQL's `charset`; `None` for `binary`, which is no text.
///
/// # Errors
/// Why there is no text, as the end of a sentence about the value.
pub fn decode<'a>(charset: &str, bytes: &'a [u8]) -> Result<Option<Cow<'a, str>>, String> {
    match charset {
        "utf8mb4" | "utf8" | "utf8mb3" | "UTF-8" | "UTF8MB4" | "UTF8" => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(Cow::Borrowed(text))),
            Err(error) => Err(no_letter(charset, bytes, error.valid_up_to())),
        },
        _ => decode_other(charset, bytes),
    }
}

#[cold]
fn decode_other<'a>(charset: &str, bytes: &'a [u8]) -> Result<Option<Cow<'a, str>>, String> {
    let name = charset.to_ascii_lowercase();
    let text = match name.as_str() {
        "binary" => return Ok(None),
        "utf8mb4" | "utf8mb3" | "utf8" | "utf-8" => return decode("utf8", bytes),
        // Letters beyond 16 bits are not in it, not as surrogates either.
        "ucs2" => units(bytes, |unit| char::from_u32(u16::from_be_bytes(unit).into())),
        "utf16" => utf16(bytes, u16::from_be_bytes),
        "utf16le" => utf16(bytes, u16::from_le_bytes),
        "utf32" => units(bytes, |unit| char::from_u32(u32::from_be_bytes(unit))),
        name => {
            let name = match name {
                "us-ascii" => "ascii",
                "cp1252" => "latin1",
                name => name,
            };
            let Some(table) = table::table(name) else {
                return Err(format!("is in the character set '{charset}', which tidegate does not know"));
            };
            match std::str::from_utf8(bytes) {
                Ok(text) if table.ascii && text.is_ascii() => return Ok(Some(Cow::Borrowed(text))),
                _ => table.text(bytes),
            }
        }
    };
    text.map(|text| Some(Cow::Owned(text))).map_err(|at| no_letter(charset, bytes, at))
}

/// The end of a sentence about a value that is no text from byte `at` on.
#[cold]
fn no_letter(charset: &str, bytes: &[u8], at: usize) -> String {
    let code: String = bytes[at..].iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() - at > 4 { "…" } else { "" };
    format!(
        "is no text in {charset} from byte {at} on (0x{code}{more}): no letter has that code; mend the value at the source"
    )
}

/// Text of units of one size; an error is the place of what is no letter.
fn units<const N: usize>(bytes: &[u8], letter: impl Fn([u8; N]) -> Option<char>) -> Result<String, usize> {
    let (units, rest) = bytes.as_chunks::<N>();
    let mut text = String::with_capacity(bytes.len());
    for (index, unit) in units.iter().enumerate() {
        text.push(letter(*unit).ok_or(index * N)?);
    }
    if rest.is_empty() { Ok(text) } else { Err(bytes.len() - rest.len()) }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, usize> {
    let (units, rest) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(bytes.len());
    let mut at = 0;
    for letter in char::decode_utf16(units.iter().map(|two| unit(*two))) {
        let letter = letter.map_err(|_| at)?;
        at += 2 * letter.len_utf16();
        text.push(letter);
    }
    if rest.is_empty() { Ok(text) } else { Err(at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(charset: &str, bytes: &[u8]) -> Result<String, String> {
        decode(charset, bytes).map(|text| text.expect("text").into_owned())
    }

    #[test]
    fn each_character_set_gives_its_letters() {
        for (charset, bytes, expected) in [
            ("utf8mb4", "né😀".as_bytes(), "né😀"),
            ("Utf8", "né".as_bytes(), "né"),
            ("latin1", b"\x80 caf\xe9 \x81", "€ café \u{81}"),
            ("gbk", b"\xd6\xd0\xb9\xfa", "中国"),
            ("gb2312", b"\xd6\xd0", "中"),
            ("gb18030", b"a\x94\x39\xda\x33\x81\x30\x81\x30b", "a💩\u{80}b"),
            ("big5", b"\xa4\xa4", "中"),
            ("sjis", b"\x93\xfa \xb1", "日 ｱ"),
            ("ujis", b"\xc6\xfc\x8e\xb1\x8f\xb0\xa1", "日ｱ丂"),
            ("euckr", b"\xc7\xd1", "한"),
            ("cp1251", b"\xdf", "Я"),
            ("koi8r", b"\xf1", "Я"),
            ("swe7", b"[a}", "Äaå"),
            ("ucs2", b"\x4e\x2d", "中"),
            ("utf16", b"\xd8\x3d\xde\x00\0a", "😀a"),
            ("utf16le", b"\x2d\x4e", "中"),
            ("utf32", b"\x00\x01\xf6\x00", "😀"),
            ("ascii", b"plain", "plain"),
        ] {
            assert_eq!(text(charset, bytes).as_deref(), Ok(expected), "{charset}");
        }
        assert_eq!(decode("binary", b"\xff"), Ok(None));
    }

    /// Where the tables that browsers use say something else.
    #[test]
    fn letters_are_the_ones_that_mysql_has() {
        for (charset, bytes, expected) in [
            ("sjis", &b"\x81\x60"[..], "〜"),
            ("cp932", b"\x81\x60", "～"),
            ("sjis", b"\\~", "\\~"),
            ("euckr", b"\xa2\xe6", "€"),
            ("latin5", b"\x80", "\u{80}"),
            ("koi8u", b"\xb4", "Є"),
        ] {
            assert_eq!(text(charset, bytes).as_deref(), Ok(expected), "{charset} {bytes:x?}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert!(text("utf8mb4", b"ab\xff").unwrap_err().contains("from byte 2 on (0xff)"));
        assert!(text("gbk", b"ab\xd6").unwrap_err().contains("no text in gbk from byte 2 on (0xd6)"));
        assert!(text("sjis", b"a\x85\x40abc").unwrap_err().contains("from byte 1 on (0x85406162…)"));
        assert!(text("klingon", b"a").unwrap_err().contains("'klingon'"));
        for (charset, bytes) in [
            ("utf32", &b"\0\0\0"[..]),
            ("utf32", b"\0\x11\0\0"),
            ("ucs2", b"\xd8\x3d\xde\x00"),
            ("utf16", b"\xd8\x3d"),
            ("utf16", b"\0a\0"),
            ("ascii", b"\x80"),
            ("swe7", b"\x80"),
            ("gb18030", b"\xff\x30\x81\x30"),
            ("ujis", b"\x8f\xa1\xa1"),
        ] {
            assert!(text(charset, bytes).is_err(), "{charset} {bytes:x?}");
        }
    }
}
