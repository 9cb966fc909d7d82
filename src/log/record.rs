//! A data record: a change as headers, key and value, and back.

use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::change::{Change, Changes, NewChange, Op};

const TYPE: &str = "binlog.type";
const DATABASE: &str = "binlog.database";
const TABLE: &str = "binlog.table";
const TIMESTAMP: &str = "timestamp";
const SEQ: &str = "tidegate.seq";
const TIME: &str = "tidegate.time";
const POSITION: &str = "tidegate.position";
const PARTITIONS: &str = "tidegate.partitions";
const PREVIOUS: &str = "tidegate.previous";

/// The headers of a change. Numbers are decimal text. `grown` is said of a topic that has got more partitions: how many it
/// has now, so that who reads it and does not know of them learns it before anything that depends on it. `previous` is said of
/// the first record of a partition in a transaction: the offset behind the record before it, so that who has come there and finds
/// that retention has passed what lies between knows that those were markers, or what was never committed.
pub fn headers_of(change: &Change, grown: Option<u32>, previous: Option<u64>) -> OwnedHeaders {
    let mut digits = [[0; 20]; 3];
    let [seq_digits, time_digits, previous_digits] = &mut digits;
    let (seq, time) = (decimal(change.head.seq, seq_digits), decimal(change.head.time, time_digits));
    let headers = OwnedHeaders::new_with_capacity(9)
        .insert(Header { key: TYPE, value: Some(change.op().name()) })
        .insert(Header { key: DATABASE, value: Some(change.database()) })
        .insert(Header { key: TABLE, value: Some(change.table()) })
        .insert(Header { key: TIMESTAMP, value: Some(time) })
        .insert(Header { key: SEQ, value: Some(seq) })
        .insert(Header { key: TIME, value: Some(time) })
        .insert(Header { key: POSITION, value: Some(change.position()) });
    let headers = match grown {
        None => headers,
        Some(partitions) => headers.insert(Header { key: PARTITIONS, value: Some(&partitions.to_string()) }),
    };
    match previous {
        None => headers,
        Some(end) => headers.insert(Header { key: PREVIOUS, value: Some(decimal(end, previous_digits)) }),
    }
}

/// The offset behind the record before this one, where its headers say it.
pub fn previous_end(headers: &impl Headers) -> Option<u64> {
    let header = headers.iter().find(|header| header.key == PREVIOUS)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

/// The decimal digits of a number, without an allocation.
fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[start..];
        }
    }
}

/// What is wrong with a data record; the caller knows where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A header that the contract asks for is not there.
    #[error("the header '{0}' is missing: a topic that tidegate did not write needs another [land] envelope")]
    Missing(&'static str),
    /// A header that can't be understood.
    #[error("the header '{0}' is '{1}', which the contract does not have")]
    Header(&'static str, String),
    /// No value.
    #[error("the record has no value")]
    NoValue,
}

/// Appends the change that a data record holds. Returns how many partitions its topic has, where it says so.
///
/// # Errors
/// [`RecordError`]; nothing is appended then.
pub fn parse_record<'a, H: Headers>(
    headers: Option<&'a H>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    partition: u32,
    offset: u64,
    out: &mut Changes,
) -> Result<Option<u32>, RecordError> {
    let headers = headers.ok_or(RecordError::Missing(TYPE))?;
    let mut found: [Option<&'a [u8]>; 7] = [None; 7];
    for header in headers.iter() {
        let place = match header.key {
            TYPE => 0,
            DATABASE => 1,
            TABLE => 2,
            SEQ => 3,
            TIME => 4,
            POSITION => 5,
            PARTITIONS => 6,
            _ => continue,
        };
        found[place] = header.value;
    }
    let [op, database, table, seq, time, position, partitions] = found;
    let utf8 = |name: &'static str, value: Option<&'a [u8]>| -> Result<&'a str, RecordError> {
        let bytes = value.ok_or(RecordError::Missing(name))?;
        std::str::from_utf8(bytes).map_err(|_| RecordError::Header(name, String::from_utf8_lossy(bytes).into_owned()))
    };
    let number = |name: &'static str, value| {
        let digits = utf8(name, value)?;
        digits.parse::<u64>().map_err(|_| RecordError::Header(name, digits.to_string()))
    };
    let op = utf8(TYPE, op)?;
    let last = || RecordError::Header(SEQ, u64::MAX.to_string()); // behind each change there is room for another
    let change = NewChange {
        op: Op::from_name(op).ok_or_else(|| RecordError::Header(TYPE, op.to_string()))?,
        seq: Some(number(SEQ, seq)?).filter(|seq| *seq < u64::MAX).ok_or_else(last)?,
        time: number(TIME, time)?,
        database: utf8(DATABASE, database)?,
        table: utf8(TABLE, table)?,
        key: key.unwrap_or_default(),
        position: position.unwrap_or_default(),
        before: b"",
        row: value.ok_or(RecordError::NoValue)?,
    };
    if change.op == Op::Schema {
        return Err(RecordError::Header(TYPE, op.to_string()));
    }
    let grown = partitions.map(|_| number(PARTITIONS, partitions)).transpose()?.map(|partitions| partitions as u32);
    out.push_change(&change);
    let head = out.heads_mut().last_mut().expect("just pushed");
    (head.partition, head.offset) = (partition, offset);
    Ok(grown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_change_comes_back_from_its_record(
            seq in 0..u64::MAX, time in any::<u64>(), op in 0usize..3, database in "\\PC{0,8}", table in "\\PC{0,8}",
            key in proptest::collection::vec(any::<u8>(), 0..20), position in "[a-z0-9:.@ ]{0,20}", row in "\\PC{0,40}",
            grown in any::<Option<u32>>(), previous in any::<Option<u64>>(),
        ) {
            let op = [Op::Insert, Op::Update, Op::Delete][op];
            let mut changes = Changes::default();
            changes.push_change(&NewChange {
                op, seq, time, database: &database, table: &table, key: &key, position: position.as_bytes(),
                before: b"", row: row.as_bytes(),
            });
            changes.heads_mut()[0].partition = 3;
            changes.heads_mut()[0].offset = 99;
            let change = changes.change(0);
            let headers = headers_of(&change, grown, previous);
            prop_assert_eq!(previous_end(&headers), previous);
            let mut back = Changes::default();
            let said = parse_record(Some(&headers), Some(change.key()), Some(change.row()), 3, 99, &mut back);
            prop_assert_eq!(said, Ok(grown));
            prop_assert_eq!(back, changes);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let mut out = Changes::default();
        let mut parse = |headers: &OwnedHeaders, value| parse_record(Some(headers), None, value, 0, 0, &mut out);
        let full = |seq| {
            [(TYPE, "insert"), (DATABASE, "d"), (TABLE, "t"), (SEQ, seq), (TIME, "5")]
                .into_iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
        };
        assert_eq!(parse(&OwnedHeaders::new(), Some(b"{}")), Err(RecordError::Missing(TYPE)));
        assert_eq!(parse(&full("x7"), Some(b"{}")), Err(RecordError::Header(SEQ, "x7".into())));
        assert_eq!(parse(&full("7"), None), Err(RecordError::NoValue));
        assert_eq!(parse(&full("7"), Some(b"{}")), Ok(None));
        assert_eq!(out.len(), 1);
    }
}
