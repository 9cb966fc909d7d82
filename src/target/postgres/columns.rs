//! Columns on their way to the server: JSON values appended to typed arrays in PostgreSQL's binary format.
//!
//! A statement carries one array a column, so a batch is a handful of parameters whatever its rows. Each value is written
//! once, from the row's bytes to where it is sent from. The target column's type decides how a value is read, and the
//! source's form only where the text alone is ambiguous (base64 or text, JSON or text).
//!
//! What the server would round, pad or cut silently is refused here: digits beyond a numeric's scale, characters beyond a
//! varchar's length, fractions of a second beyond a timestamp's digits, a number that a float can't hold.

use std::error::Error;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, BytesMut};
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::scalars::{self, Calendar, OTHER_TYPE};
use crate::change::Form;
use crate::target::fields::Value;

/// What is wrong with a value.
#[derive(Debug)]
pub(super) enum Bad {
    /// The target's column can't hold it: why, and what to do.
    Value(String),
    /// It is a date that only MySQL has.
    ZeroDate(String),
}

impl Bad {
    pub(super) fn new(reason: impl Into<String>) -> Bad {
        Bad::Value(reason.into())
    }
}

/// How values of a target column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// Precision and scale, where the column has them.
    Numeric(Option<(i32, i32)>),
    /// At most so many characters.
    Text(Option<usize>),
    Varchar(Option<usize>),
    Char(Option<usize>),
    Bytea,
    Bool,
    Date,
    /// Digits of a second.
    Timestamp(u32),
    Timestamptz(u32),
    Time(u32),
    Json,
    Jsonb,
    Uuid,
    /// Any other type: sent as text, which the server casts.
    Other,
}

impl Kind {
    /// From the catalog: `pg_type.typname` and `pg_attribute.atttypmod`.
    pub(super) fn of(type_name: &str, modifier: i32) -> Kind {
        let length = (modifier >= 4).then(|| (modifier - 4) as usize);
        let digits = if (0..6).contains(&modifier) { modifier as u32 } else { 6 };
        match type_name {
            "int2" => Kind::Int2,
            "int4" => Kind::Int4,
            "int8" => Kind::Int8,
            "float4" => Kind::Float4,
            "float8" => Kind::Float8,
            "numeric" if modifier >= 4 => {
                let both = modifier - 4;
                // The scale has eleven bits with a sign since PostgreSQL 15.
                Kind::Numeric(Some(((both >> 16) & 0xffff, (((both & 0x7ff) ^ 1024) - 1024))))
            }
            "numeric" => Kind::Numeric(None),
            "text" => Kind::Text(None),
            "varchar" => Kind::Varchar(length),
            "bpchar" => Kind::Char(length),
            "bytea" => Kind::Bytea,
            "bool" => Kind::Bool,
            "date" => Kind::Date,
            "timestamp" => Kind::Timestamp(digits),
            "timestamptz" => Kind::Timestamptz(digits),
            "time" => Kind::Time(digits),
            "json" => Kind::Json,
            "jsonb" => Kind::Jsonb,
            "uuid" => Kind::Uuid,
            _ => Kind::Other,
        }
    }

    /// The type that is sent for it.
    fn wire_type(self) -> Type {
        match self {
            Kind::Int2 => Type::INT2,
            Kind::Int4 => Type::INT4,
            Kind::Int8 => Type::INT8,
            Kind::Float4 => Type::FLOAT4,
            Kind::Float8 => Type::FLOAT8,
            Kind::Numeric(_) => Type::NUMERIC,
            Kind::Text(_) | Kind::Other => Type::TEXT,
            Kind::Varchar(_) => Type::VARCHAR,
            Kind::Char(_) => Type::BPCHAR,
            Kind::Bytea => Type::BYTEA,
            Kind::Bool => Type::BOOL,
            Kind::Date => Type::DATE,
            Kind::Timestamp(_) => Type::TIMESTAMP,
            Kind::Timestamptz(_) => Type::TIMESTAMPTZ,
            Kind::Time(_) => Type::TIME,
            Kind::Json => Type::JSON,
            Kind::Jsonb => Type::JSONB,
            Kind::Uuid => Type::UUID,
        }
    }
}

/// The values of one column of a batch.
#[derive(Debug)]
pub(super) struct ColumnArray {
    kind: Kind,
    /// The source's form of the column, where its schema is known.
    form: Option<Form>,
    in_key: bool,
    /// Whether a zero date becomes null.
    zero_date_null: bool,
    /// Each value behind its length, -1 for null: as an array has them on the wire.
    elements: BytesMut,
    /// Where each value begins.
    starts: Vec<u32>,
    nulls: usize,
}

impl ColumnArray {
    /// `zero_dates_null`: a zero date becomes null, where null may be.
    pub(super) fn new(kind: Kind, form: Option<Form>, in_key: bool, zero_dates_null: bool) -> ColumnArray {
        let zero_date_null = zero_dates_null && !in_key;
        ColumnArray { kind, form, in_key, zero_date_null, elements: BytesMut::new(), starts: Vec::new(), nulls: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements.len()
    }

    /// Forgets all values and gives their memory back.
    pub(super) fn release(&mut self) {
        self.elements = BytesMut::new();
        self.starts = Vec::new();
        self.nulls = 0;
    }

    /// Forgets all but the first `rows` values.
    pub(super) fn truncate(&mut self, rows: usize) {
        if rows == 0 {
            self.elements.clear();
            self.starts.clear();
            self.nulls = 0;
        }
        while self.starts.len() > rows {
            let start = self.starts.pop().expect("not empty") as usize;
            if self.elements[start..start + 4] == NULL_LENGTH {
                self.nulls -= 1;
            }
            if self.starts.len() == rows {
                self.elements.truncate(start);
            }
        }
    }

    /// Appends the value with that raw JSON. After an error nothing is appended.
    #[inline]
    pub(super) fn push(&mut self, raw: &str) -> Result<(), Bad> {
        let start = self.elements.len();
        self.elements.extend_from_slice(&NULL_LENGTH);
        match self.write(raw) {
            Ok(true) => {
                let length = (self.elements.len() - start - 4) as i32;
                self.elements[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
            Ok(false) => self.nulls += 1,
            Err(Bad::ZeroDate(_)) if self.zero_date_null => {
                self.elements.truncate(start + 4);
                self.nulls += 1;
            }
            Err(bad) => {
                self.elements.truncate(start);
                return Err(bad);
            }
        }
        self.starts.push(start as u32);
        Ok(())
    }

    /// Writes the value's bytes; `false` for null.
    #[inline]
    fn write(&mut self, raw: &str) -> Result<bool, Bad> {
        let value = Value::of(raw);
        if value == Value::Null {
            return Ok(false);
        }
        let out = &mut self.elements;
        match self.kind {
            Kind::Int2 => out.put_i16(integer(&value, "smallint")?),
            Kind::Int4 => out.put_i32(integer(&value, "integer")?),
            Kind::Int8 => out.put_i64(integer(&value, "bigint")?),
            Kind::Float4 => out.put_f32(float4(&value, self.form)?),
            Kind::Float8 => out.put_f64(float8(&value, self.form)?),
            Kind::Numeric(limits) => scalars::numeric(number(&value, "a number")?, limits, out).map_err(Bad::new)?,
            Kind::Text(_) | Kind::Varchar(_) | Kind::Char(_) | Kind::Other if self.form == Some(Form::Bytes) => {
                return Err(Bad::new("the source's column holds bytes, and the target's does not: make it bytea"));
            }
            Kind::Text(limit) | Kind::Varchar(limit) | Kind::Char(limit) => {
                let text = text(&value, raw, self.form);
                if self.in_key && matches!(self.kind, Kind::Char(_)) && text.ends_with(' ') {
                    return Err(Bad::new(
                        "a key that ends with a blank, and char(n) knows no blanks at the end: make it text",
                    ));
                }
                refuse_long(text, limit)?;
                refuse_nul(text)?;
                out.extend_from_slice(text.as_bytes());
            }
            Kind::Bytea => bytes(&value, self.form, out)?,
            Kind::Bool => out.put_u8(u8::from(boolean(&value)?)),
            Kind::Date => out.put_i32(scalars::date(&calendar(&value, Wanted::Date)?).map_err(Bad::new)?),
            Kind::Timestamp(digits) | Kind::Timestamptz(digits) => {
                let at = calendar(&value, Wanted::Timestamp)?;
                out.put_i64(scalars::timestamp(&at, digits).map_err(Bad::new)?);
            }
            Kind::Time(digits) => match &value {
                Value::Text(text) => out.put_i64(scalars::time_of_day(text, digits).map_err(Bad::new)?),
                other => return Err(Bad::new(format!("{} is no time of day HH:MM:SS: {OTHER_TYPE}", shown(other)))),
            },
            Kind::Json | Kind::Jsonb => {
                if self.kind == Kind::Jsonb {
                    out.put_u8(1); // the version of the format
                }
                match &value {
                    // A text column of the source that holds JSON: the text is the JSON.
                    Value::Text(text) if self.form.is_some_and(|form| form != Form::Json) => {
                        refuse_nul(text)?;
                        out.extend_from_slice(text.as_bytes());
                    }
                    _ => out.extend_from_slice(raw.as_bytes()),
                }
            }
            Kind::Uuid => {
                if let Value::Text(text) = &value
                    && self.in_key
                    && self.form != Some(Form::Bytes)
                    && !is_usual_uuid(text)
                {
                    return Err(Bad::new(format!(
                        "{} is a key and no UUID as uuid shows it, so that two keys could be one: make it text",
                        shown(&value)
                    )));
                }
                uuid(&value, self.form, out)?;
            }
            Kind::Other => {
                let text = text(&value, raw, self.form);
                refuse_nul(text)?;
                out.extend_from_slice(text.as_bytes());
            }
        }
        Ok(true)
    }

    /// Value `row` alone, as a parameter of its own.
    pub(super) fn scalar(&self, row: usize) -> Scalar<'_> {
        let start = self.starts[row] as usize;
        let end = self.starts.get(row + 1).map_or(self.elements.len(), |&next| next as usize);
        Scalar((self.elements[start..start + 4] != NULL_LENGTH).then(|| &self.elements[start + 4..end]))
    }
}

/// The length that stands for null.
const NULL_LENGTH: [u8; 4] = (-1i32).to_be_bytes();

impl ToSql for ColumnArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.reserve(20 + self.elements.len());
        out.put_i32(1); // one dimension
        out.put_i32(i32::from(self.nulls > 0));
        out.put_u32(self.kind.wire_type().oid());
        out.put_i32(self.starts.len() as i32);
        out.put_i32(1); // numbered from one
        out.extend_from_slice(&self.elements);
        Ok(IsNull::No)
    }

    // The statement casts every parameter to the type that is sent.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// One value of a [`ColumnArray`].
#[derive(Debug)]
pub(super) struct Scalar<'a>(Option<&'a [u8]>);

impl ToSql for Scalar<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(bytes) = self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value as a message shows it: short, and JSON.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "null".to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Text(t) => format!("'{t}'"),
        Value::Nested(n) => n.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The digits of a number, or of a text that is one.
fn number<'v>(value: &'v Value, wanted: &str) -> Result<&'v str, Bad> {
    match value {
        Value::Number(digits) => Ok(digits),
        Value::Text(text) => Ok(text.trim()),
        Value::Bool(true) => Ok("1"),
        Value::Bool(false) => Ok("0"),
        other => Err(Bad::new(format!("{} is not {wanted}: {OTHER_TYPE}", shown(other)))),
    }
}

#[inline]
fn integer<T: TryFrom<i128>>(value: &Value, type_name: &str) -> Result<T, Bad> {
    let digits = number(value, "a whole number")?;
    // The fast path: i64. Then whatever is whole: a BIGINT UNSIGNED, a DECIMAL without a fraction.
    let whole = match digits.parse::<i64>() {
        Ok(whole) => i128::from(whole),
        Err(_) => {
            let integral = match digits.split_once('.') {
                Some((integral, fraction)) if fraction.bytes().all(|b| b == b'0') => integral,
                _ => digits,
            };
            integral.parse::<i128>().map_err(|_| {
                Bad::new(format!("{} is no whole number, and the column is {type_name}: {OTHER_TYPE}", shown(value)))
            })?
        }
    };
    T::try_from(whole).map_err(|_| {
        Bad::new(format!(
            "{whole} is out of range for the column's type {type_name}: give it a wider one, such as numeric(20,0)"
        ))
    })
}

fn float8(value: &Value, form: Option<Form>) -> Result<f64, Bad> {
    let digits = number(value, "a number")?;
    let float: f64 = digits.parse().map_err(|_| Bad::new(format!("{} is no number: {OTHER_TYPE}", shown(value))))?;
    let significant = scalars::significant_digits(digits);
    let fits = match form {
        // It was written with the fewest digits that read back as itself. Of two such texts that are as near, who wrote it may
        // have taken the other one than we would.
        Some(Form::Double | Form::Float) => true,
        // A decimal or a large integer may have more digits than fit, and so may what nobody says the type of.
        _ => significant <= 15 || scalars::same_number(digits, float),
    };
    if float.is_infinite() || !fits {
        return Err(Bad::new(format!("{} has more digits than double precision holds: use numeric or text", digits)));
    }
    Ok(float)
}

fn float4(value: &Value, form: Option<Form>) -> Result<f32, Bad> {
    let digits = number(value, "a number")?;
    let float: f32 = digits.parse().map_err(|_| Bad::new(format!("{} is no number: {OTHER_TYPE}", shown(value))))?;
    let fits = match form {
        Some(Form::Float) => true,
        _ => scalars::significant_digits(digits) <= 6 || scalars::same_number(digits, float),
    };
    if float.is_infinite() || !fits {
        return Err(Bad::new(format!("{digits} has more digits than real holds: use double precision or numeric")));
    }
    Ok(float)
}

fn boolean(value: &Value) -> Result<bool, Bad> {
    match value {
        Value::Bool(b) => Ok(*b),
        Value::Number("0") => Ok(false),
        Value::Number("1") => Ok(true),
        Value::Text(t) if matches!(&**t, "0" | "false") => Ok(false),
        Value::Text(t) if matches!(&**t, "1" | "true") => Ok(true),
        other => Err(Bad::new(format!("{} is neither 0 nor 1, and the column is boolean: {OTHER_TYPE}", shown(other)))),
    }
}

/// The text of a value for a text column. JSON keeps its text, quotes included.
#[inline]
fn text<'v>(value: &'v Value, raw: &'v str, form: Option<Form>) -> &'v str {
    match value {
        Value::Text(text) if form != Some(Form::Json) => text,
        _ => raw,
    }
}

#[inline]
fn refuse_nul(text: &str) -> Result<(), Bad> {
    match text.as_bytes().contains(&0) {
        true => Err(Bad::new("the text has a NUL character, which the target's text can't hold: use bytea")),
        false => Ok(()),
    }
}

#[inline]
fn refuse_long(text: &str, limit: Option<usize>) -> Result<(), Bad> {
    // Bytes are never fewer than characters.
    let Some(limit) = limit.filter(|&limit| text.len() > limit) else { return Ok(()) };
    let characters = text.chars().count();
    match characters > limit {
        true => Err(Bad::new(format!("{characters} characters, and the column holds {limit}: give it a wider type"))),
        false => Ok(()),
    }
}

fn bytes(value: &Value, form: Option<Form>, out: &mut BytesMut) -> Result<(), Bad> {
    match value {
        Value::Text(text) if form.is_some_and(|form| form != Form::Bytes) => out.extend_from_slice(text.as_bytes()),
        Value::Text(base64) => {
            let start = out.len();
            out.resize(start + base64.len() / 4 * 3 + 3, 0);
            let written = BASE64.decode_slice(base64.as_bytes(), &mut out[start..]).map_err(|e| {
                Bad::new(format!("{} is not base64 ({e}), and the column is bytea: use text", shown(value)))
            })?;
            out.truncate(start + written);
        }
        other => return Err(Bad::new(format!("{} is no bytes, and the column is bytea: {OTHER_TYPE}", shown(other)))),
    }
    Ok(())
}

/// Whether a text is a UUID as the server itself would show it.
fn is_usual_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(n, byte)| match n {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn uuid(value: &Value, form: Option<Form>, out: &mut BytesMut) -> Result<(), Bad> {
    let bad = || Bad::new(format!("{} is no UUID: {OTHER_TYPE}", shown(value)));
    let Value::Text(text) = value else { return Err(bad()) };
    if form == Some(Form::Bytes) {
        let start = out.len();
        bytes(value, form, out)?;
        return if out.len() - start == 16 { Ok(()) } else { Err(bad()) };
    }
    let mut digits = text.bytes().filter(|&b| b != b'-').map(|b| char::from(b).to_digit(16));
    for _ in 0..16 {
        let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else { return Err(bad()) };
        out.put_u8((high * 16 + low) as u8);
    }
    if digits.next().is_some() { Err(bad()) } else { Ok(()) }
}

#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Date,
    Timestamp,
}

/// The point on the calendar that a text names.
fn calendar(value: &Value, wanted: Wanted) -> Result<Calendar, Bad> {
    let Value::Text(text) = value else {
        return Err(Bad::new(format!("{} is neither a date nor a time", shown(value))));
    };
    let Some(at) = Calendar::parse(text) else {
        return Err(Bad::new(format!("{} is neither YYYY-MM-DD nor YYYY-MM-DD HH:MM:SS", shown(value))));
    };
    if at.is_zero_date() {
        return Err(Bad::ZeroDate(text.to_string()));
    }
    if !at.is_valid() {
        return Err(Bad::new(format!("'{text}' is no day of the calendar")));
    }
    if wanted == Wanted::Date && at.micros_of_day() != 0 {
        return Err(Bad::new(format!("'{text}' has a time of day, and the column is date: use timestamp")));
    }
    Ok(at)
}
