//! The letters of MySQL's character sets that are not Unicode: for each code the letter that the server itself converts
//! it to.
//!
//! `letters.bin` is what the servers say, written by `tests/real/beside/charsets.rs`, which also holds it against them: of
//! MySQL 9.7 and MariaDB 10.11, which do not differ in a single code (gb18030, which MariaDB lacks, is MySQL's alone).
//! A code that a server turns into a question mark is not in it. Inflated, the file is for each character set a byte
//! with the length of its name, the name, and then for codes of one, two, three and four bytes the number of runs, and
//! each run: how many codes are passed over since the run before, how many codes it has, and how far its first letter is
//! from the one behind the last of the run before, in zigzag. Numbers are varints. The number of a code is its bytes,
//! highest first; of four bytes (gb18030) its place in that standard's own order. No code begins another.

use std::io::Read;
use std::sync::LazyLock;

/// Stands for no letter.
const NONE: u32 = u32::MAX;

/// The letters of one character set.
pub(super) struct Table {
    name: String,
    /// Whether the ASCII codes are the ASCII letters.
    pub ascii: bool,
    /// By code.
    one: Vec<u32>,
    /// By code; empty where no code has two bytes.
    two: Vec<u32>,
    /// Runs of codes of three and of four bytes.
    long: [Vec<Run>; 2],
}

/// Codes that follow one another and so do their letters.
#[derive(Clone, Copy)]
struct Run {
    code: u32,
    count: u32,
    letter: u32,
}

static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    let packed = &include_bytes!("letters.bin")[..];
    flate2::read::ZlibDecoder::new(packed).read_to_end(&mut bytes).expect("the file is a part of the program");
    let mut rest = &bytes[..];
    let mut tables = Vec::new();
    while !rest.is_empty() {
        tables.push(Table::read(&mut rest));
    }
    tables
});

/// The table of a character set, by its name in small letters; `None`: it is none, or its codes are Unicode's.
pub(super) fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

impl Table {
    fn read(bytes: &mut &[u8]) -> Table {
        let (name, rest) = bytes[1..].split_at(usize::from(bytes[0]));
        let name = String::from_utf8(name.to_vec()).expect("names are ASCII");
        *bytes = rest;
        let [one, two, three, four] = [(); 4].map(|()| runs(bytes));
        let one = spread(&one, 1 << 8);
        let two = if two.is_empty() { Vec::new() } else { spread(&two, 1 << 16) };
        let ascii = (0..0x80).all(|code| one[code as usize] == code);
        Table { name, ascii, one, two, long: [three, four] }
    }

    /// The text of `bytes`.
    ///
    /// # Errors
    /// The place from where on there is no letter.
    pub fn text(&self, bytes: &[u8]) -> Result<String, usize> {
        let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
        let mut at = 0;
        while at < bytes.len() {
            let (letter, length) = self.letter(&bytes[at..]).ok_or(at)?;
            text.push(letter);
            at += length;
        }
        Ok(text)
    }

    /// The letter at the start, and of how many bytes it is.
    #[inline]
    fn letter(&self, bytes: &[u8]) -> Option<(char, usize)> {
        if let Some(letter) = char::from_u32(self.one[usize::from(bytes[0])]) {
            return Some((letter, 1));
        }
        let pair = u16::from_be_bytes(*bytes.first_chunk()?);
        if let Some(letter) = self.two.get(usize::from(pair)).and_then(|letter| char::from_u32(*letter)) {
            return Some((letter, 2));
        }
        let long = |length: usize| Some((find(&self.long[length - 3], number(bytes.get(..length)?)?)?, length));
        long(3).or_else(|| long(4))
    }
}

/// The number of a code of three or four bytes.
fn number(code: &[u8]) -> Option<u32> {
    match *code {
        [a, b, c, d] => {
            let high = |byte: u8| byte.checked_sub(0x81).filter(|digit| *digit < 126).map(u32::from);
            let low = |byte: u8| byte.checked_sub(b'0').filter(|digit| *digit < 10).map(u32::from);
            Some(((high(a)? * 10 + low(b)?) * 126 + high(c)?) * 10 + low(d)?)
        }
        _ => Some(code.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))),
    }
}

fn find(runs: &[Run], code: u32) -> Option<char> {
    let run = runs[..runs.partition_point(|run| run.code <= code)].last()?;
    let place = code - run.code;
    char::from_u32(run.letter + place).filter(|_| place < run.count)
}

fn runs(bytes: &mut &[u8]) -> Vec<Run> {
    let (mut code, mut letter) = (0, 0);
    let count = varint(bytes);
    let mut one = || {
        code += varint(bytes);
        let count = varint(bytes);
        let zigzag = varint(bytes);
        letter += (zigzag >> 1) as i32 ^ -((zigzag & 1) as i32);
        let run = Run { code, count, letter: letter as u32 };
        code += count;
        letter += count as i32;
        run
    };
    (0..count).map(|_| one()).collect()
}

fn spread(runs: &[Run], codes: usize) -> Vec<u32> {
    let mut letters = vec![NONE; codes];
    for run in runs {
        (0..run.count).for_each(|place| letters[(run.code + place) as usize] = run.letter + place);
    }
    letters
}

fn varint(bytes: &mut &[u8]) -> u32 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_set_of_the_servers_is_there() {
        let names: Vec<&str> = TABLES.iter().map(|table| &*table.name).collect();
        assert_eq!(
            names.join(" "),
            "armscii8 ascii big5 cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 cp932 dec8 eucjpms euckr gb18030 gb2312 gbk \
             geostd8 greek hebrew hp8 keybcs2 koi8r koi8u latin1 latin2 latin5 latin7 macce macroman sjis swe7 tis620 ujis"
        );
        let not_ascii: Vec<&str> = TABLES.iter().filter(|t| !t.ascii).map(|table| &*table.name).collect();
        assert_eq!(not_ascii, ["swe7"]);
    }

    #[test]
    fn no_code_begins_another() {
        for table in TABLES.iter() {
            let first = |code: usize| table.one[code] != NONE;
            assert!((0..table.two.len()).all(|code| table.two[code] == NONE || !first(code >> 8)), "{}", table.name);
            let pair = |code: u32| table.two[code as usize] != NONE;
            for run in &table.long[0] {
                let codes = run.code..run.code + run.count;
                assert!(codes.clone().all(|code| !first(code as usize >> 16)), "{}", table.name);
                assert!(codes.into_iter().all(|code| !pair(code >> 8)), "{}", table.name);
            }
            // The second byte of gb18030's long codes is a digit, which no pair ends with.
            let digits = |lead: usize| (b'0'..=b'9').any(|digit| pair((lead as u32) << 8 | u32::from(digit)));
            assert!(
                table.long[1].is_empty() || (0x81..0xff).all(|lead| !first(lead) && !digits(lead)),
                "{}",
                table.name
            );
        }
    }
}
