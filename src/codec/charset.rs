//! MySQL's character sets, by name, to UTF-8.
//!
//! What `encoding_rs` has no table for is refused: a guessed letter is a changed letter.

use std::borrow::Cow;

use encoding_rs::Encoding;

/// The text of `bytes` in MySQL's `charset`; `None` for `binary`, which is no text.
///
/// # Errors
/// Why there is no text, as the end of a sentence about the value.
pub fn decode<'a>(charset: &str, bytes: &'a [u8]) -> Result<Option<Cow<'a, str>>, String> {
    match charset {
        "utf8mb4" | "utf8" | "utf8mb3" | "UTF-8" | "UTF8MB4" | "UTF8" => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(Cow::Borrowed(text))),
            Err(error) => Err(format!("is not valid {charset} from byte {} on", error.valid_up_to())),
        },
        _ => decode_other(charset, bytes),
    }
}

#[cold]
fn decode_other<'a>(charset: &str, bytes: &'a [u8]) -> Result<Option<Cow<'a, str>>, String> {
    let name = charset.to_ascii_lowercase();
    match name.as_str() {
        "binary" => return Ok(None),
        "utf8mb4" | "utf8mb3" | "utf8" | "utf-8" => return decode("utf8", bytes),
        "ascii" | "us-ascii" => {
            return if bytes.is_ascii() { decode("utf8", bytes) } else { Err("is not valid ascii".into()) };
        }
        "utf32" => return utf32(bytes).map(|text| Some(Cow::Owned(text))),
        _ => {}
    }
    let Some(encoding) = encoding(&name) else {
        return Err(format!("is in the character set '{charset}', which tidegate can't decode"));
    };
    match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) => Ok(Some(text)),
        None => Err(format!("is not valid {charset}")),
    }
}

fn encoding(name: &str) -> Option<&'static Encoding> {
    Some(match name {
        // MySQL's latin1 is Windows' code page, and so is its latin5.
        "latin1" | "cp1252" => encoding_rs::WINDOWS_1252,
        "latin2" => encoding_rs::ISO_8859_2,
        "latin5" => encoding_rs::WINDOWS_1254,
        "latin7" => encoding_rs::ISO_8859_13,
        "cp1250" => encoding_rs::WINDOWS_1250,
        "cp1251" => encoding_rs::WINDOWS_1251,
        "cp1256" => encoding_rs::WINDOWS_1256,
        "cp1257" => encoding_rs::WINDOWS_1257,
        "greek" => encoding_rs::ISO_8859_7,
        "hebrew" => encoding_rs::ISO_8859_8,
        "koi8r" => encoding_rs::KOI8_R,
        "koi8u" => encoding_rs::KOI8_U,
        "cp866" => encoding_rs::IBM866,
        "tis620" => encoding_rs::WINDOWS_874,
        "macroman" => encoding_rs::MACINTOSH,
        "gbk" | "gb2312" => encoding_rs::GBK,
        "gb18030" => encoding_rs::GB18030,
        "big5" => encoding_rs::BIG5,
        "sjis" | "cp932" => encoding_rs::SHIFT_JIS,
        "ujis" | "eucjpms" => encoding_rs::EUC_JP,
        "euckr" => encoding_rs::EUC_KR,
        "ucs2" | "utf16" => encoding_rs::UTF_16BE,
        "utf16le" => encoding_rs::UTF_16LE,
        _ => return None,
    })
}

fn utf32(bytes: &[u8]) -> Result<String, String> {
    let (units, rest) = bytes.as_chunks::<4>();
    let text: Option<String> = units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect();
    text.filter(|_| rest.is_empty()).ok_or_else(|| "is not valid utf32".into())
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
            ("gb18030", b"\x94\x39\xfc\x36", "😀"),
            ("big5", b"\xa4\xa4", "中"),
            ("sjis", b"\x93\xfa", "日"),
            ("ujis", b"\xc6\xfc", "日"),
            ("euckr", b"\xc7\xd1", "한"),
            ("cp1251", b"\xdf", "Я"),
            ("koi8r", b"\xf1", "Я"),
            ("ucs2", b"\x4e\x2d", "中"),
            ("utf16le", b"\x2d\x4e", "中"),
            ("utf32", b"\x00\x01\xf6\x00", "😀"),
            ("ascii", b"plain", "plain"),
        ] {
            assert_eq!(text(charset, bytes).as_deref(), Ok(expected), "{charset}");
        }
        assert_eq!(decode("binary", b"\xff"), Ok(None));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert!(text("utf8mb4", b"ab\xff").unwrap_err().contains("from byte 2"));
        assert!(text("gbk", b"\xd6").unwrap_err().contains("not valid gbk"));
        assert!(text("swe7", b"a").unwrap_err().contains("'swe7'"));
        assert!(text("utf32", b"\0\0\0").is_err());
        assert!(text("ascii", b"\x80").is_err());
    }
}
