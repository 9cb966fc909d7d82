//! Values on their way into SQLite, which converts by a column's *affinity* and would round on the way: what it would
//! change is refused here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::Statement;
use rusqlite::types::Null;

use crate::change::Form;
use crate::target::fields::Value;

/// What SQLite makes of a value in a column, from the column's declared type.
/// (<https://www.sqlite.org/datatype3.html>, section 3.1.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    pub(super) fn of(declared: &str) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        match () {
            () if has("INT") => Affinity::Integer,
            () if has("CHAR") || has("CLOB") || has("TEXT") => Affinity::Text,
            () if has("BLOB") || declared.is_empty() => Affinity::Blob,
            () if has("REAL") || has("FLOA") || has("DOUB") => Affinity::Real,
            () => Affinity::Numeric,
        }
    }
}

/// Binds the value with that raw JSON, or says why the column can't hold it.
pub(super) fn bind(
    statement: &mut Statement,
    parameter: usize,
    raw: &str,
    affinity: Affinity,
    form: Option<Form>,
) -> Result<(), String> {
    let value = Value::of(raw);
    let bound = match (&value, affinity) {
        (Value::Null, _) => statement.raw_bind_parameter(parameter, Null),
        (Value::Bool(b), Affinity::Text) => statement.raw_bind_parameter(parameter, if *b { "true" } else { "false" }),
        (Value::Bool(b), _) => statement.raw_bind_parameter(parameter, i64::from(*b)),
        (Value::Text(text), _) if form == Some(Form::Bytes) || (form.is_none() && affinity == Affinity::Blob) => {
            let bytes = BASE64.decode(text.as_bytes()).map_err(|e| format!("the value is not base64 ({e})"))?;
            statement.raw_bind_parameter(parameter, bytes)
        }
        (Value::Text(_), _) if form == Some(Form::Json) => statement.raw_bind_parameter(parameter, raw),
        (Value::Text(text), Affinity::Text | Affinity::Blob) => statement.raw_bind_parameter(parameter, &**text),
        (Value::Nested(_), _) | (Value::Number(_), Affinity::Text) => statement.raw_bind_parameter(parameter, raw),
        (Value::Number(digits), _) => return bind_number(statement, parameter, digits, affinity, form),
        // SQLite turns a text that looks like a number into one.
        (Value::Text(text), _) => match looks_like_a_number(text) {
            true => return bind_number(statement, parameter, text, affinity, form),
            false => statement.raw_bind_parameter(parameter, &**text),
        },
    };
    bound.map_err(|e| e.to_string())
}

fn looks_like_a_number(text: &str) -> bool {
    // Rust also reads "inf" and "nan", which SQLite does not.
    text.bytes().any(|b| b.is_ascii_digit()) && text.trim().parse::<f64>().is_ok()
}

/// Binds a number where the column would keep it as it is.
fn bind_number(
    statement: &mut Statement,
    parameter: usize,
    digits: &str,
    affinity: Affinity,
    form: Option<Form>,
) -> Result<(), String> {
    let lossy = || format!("{digits} has more digits than the column keeps: declare the column TEXT");
    let is_float = matches!(form, Some(Form::Float | Form::Double));
    let bound = match digits.parse::<i64>() {
        // REAL holds whole numbers up to 2⁵³ and only some beyond.
        Ok(whole) if affinity == Affinity::Real && whole.unsigned_abs() > 1 << 53 && !is_float => return Err(lossy()),
        Ok(whole) if whole.to_string() == digits => statement.raw_bind_parameter(parameter, whole),
        Ok(_) => return Err(lossy()),
        Err(_) => {
            let float: f64 = digits.parse().map_err(|_| format!("{digits} is no number"))?;
            let significant = digits.bytes().take_while(|b| !matches!(b, b'e' | b'E')).filter(u8::is_ascii_digit);
            if float.is_infinite() || (!is_float && significant.count() > 15) {
                return Err(lossy());
            }
            statement.raw_bind_parameter(parameter, float)
        }
    };
    bound.map_err(|e| e.to_string())
}
