//! Every column type of MySQL and MariaDB with a value, the same value as the target has it, and one that is nearly it.

/// A column type with a value.
pub struct Sample {
    /// The type, as in CREATE TABLE.
    pub ty: &'static str,
    /// The value in SQL of the source, in a session that is 5:30 hours east of UTC.
    pub source: &'static str,
    /// The value at the target: text, or bytes in hexadecimal behind `\x`.
    pub target: &'static str,
    /// A near miss of it.
    pub near: &'static str,
}

const fn sample(ty: &'static str, source: &'static str, target: &'static str, near: &'static str) -> Sample {
    Sample { ty, source, target, near }
}

/// What both servers have.
pub const BOTH: &[Sample] = &[
    sample("tinyint", "-128", "-128", "-127"),
    sample("tinyint unsigned", "255", "255", "-1"),
    sample("boolean", "true", "1", "0"),
    sample("smallint", "-32768", "-32768", "32767"),
    sample("smallint unsigned", "65535", "65535", "65534"),
    sample("mediumint", "-8388608", "-8388608", "8388608"),
    sample("mediumint unsigned", "16777215", "16777215", "0"),
    sample("int", "-2147483648", "-2147483648", "2147483647"),
    sample("int(5) unsigned zerofill", "42", "42", "43"),
    sample("int unsigned", "4294967295", "4294967295", "-1"),
    sample("bigint", "-9223372036854775808", "-9223372036854775808", "-9223372036854775807"),
    sample("bigint unsigned", "18446744073709551615", "18446744073709551615", "18446744073709551614"),
    sample("float", "0.1", "0.1", "0.10000001"),
    sample("float", "16777217", "16777216", "16777218"),
    sample("float", "1.23456789e-30", "1.23456789e-30", "1.2345679e-31"),
    sample("float(9,3)", "12345.679", "12345.679", "12345.68"),
    sample("double", "0.1", "0.1", "0.10000000000000002"),
    sample("double", "1.7976931348623157e308", "1.7976931348623157e308", "1.7976931348623155e308"),
    sample("double", "-2.2250738585072014e-308", "-2.2250738585072014e-308", "2.2250738585072014e-308"),
    sample("decimal(10,2)", "-12.5", "-12.50", "-12.51"),
    sample("decimal(10,0)", "9999999999", "9999999999", "9999999998"),
    sample("decimal(8,3) zerofill", "1.5", "1.500", "1.501"),
    sample(
        "decimal(38,10)",
        "1234567890123456789012345678.0123456789",
        "1234567890123456789012345678.0123456789",
        "1234567890123456789012345678.0123456788",
    ),
    sample(
        "decimal(65,30)",
        "-12345678901234567890123456789012345.012345678901234567890123456789",
        "-12345678901234567890123456789012345.012345678901234567890123456789",
        "-12345678901234567890123456789012345.012345678901234567890123456788",
    ),
    // As text: the scale is part of it.
    sample("decimal(50,2)", "7.1", "7.10", "7.1"),
    sample("bit(1)", "b'1'", "1", "0"),
    sample("bit(17)", "b'10000000000000001'", "65537", "65536"),
    sample("bit(64)", "b'1111111111111111111111111111111111111111111111111111111111111111'", MAX_U64, "-1"),
    sample("year", "2155", "2155", "55"),
    sample("date", "'1000-01-01'", "1000-01-01", "1000-01-02"),
    sample("date", "'9999-12-31'", "9999-12-31", "9999-12-30"),
    sample("time", "'-838:59:59'", "-838:59:59", "838:59:59"),
    sample("time(6)", "'00:00:00.000001'", "00:00:00.000001", "00:00:00.000010"),
    sample("datetime", "'1969-12-31 23:59:59'", "1969-12-31 23:59:59", "1970-01-01 00:00:00"),
    sample("datetime(3)", "'2024-02-29 12:00:00.5'", "2024-02-29 12:00:00.500", "2024-02-29 12:00:00.501"),
    sample("datetime(6)", "'9999-12-31 23:59:59.999999'", "9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999998"),
    sample("timestamp null", "'2026-02-03 09:35:06'", "2026-02-03T04:05:06Z", "2026-02-03T09:35:06Z"),
    sample(
        "timestamp(6) null",
        "'2038-01-19 08:44:07.999999'",
        "2038-01-19T03:14:07.999999Z",
        "2038-01-19T03:14:07.999998Z",
    ),
    sample("char(10)", "'a'", "a", "A"),
    sample("varchar(50)", "'a '", "a ", "a"),
    sample("varchar(50)", "'née 日本 😀'", "née 日本 😀", "ne\u{301}e 日本 😀"),
    sample("varchar(50)", "'it''s \\\\ \"x\"\\n'", "it's \\ \"x\"\n", "it's \\ \"x\""),
    sample("varchar(50)", "'null'", "null", "NULL"),
    sample("varchar(50) character set latin1", "'née'", "née", "nee"),
    sample("varchar(50) character set utf16", "'née 😀'", "née 😀", "née"),
    sample("tinytext", "''", "", " "),
    sample("text", "'tab\\t'", "tab\t", "tab"),
    sample("mediumtext", "repeat('é', 100)", TEN_TENS, "éé"),
    sample("longtext character set gbk", "'日本'", "日本", "日"),
    sample("binary(4)", "x'00ff'", "\\x00ff0000", "\\x00ff"),
    sample("varbinary(10)", "x'00'", "\\x00", "\\x"),
    sample("tinyblob", "x''", "\\x", "\\x00"),
    sample("blob", "x'27005c'", "\\x27005c", "\\x27005d"),
    sample("mediumblob", "'abc'", "\\x616263", "\\x61626300"),
    sample("longblob", "x'ff'", "\\xff", "\\xfe"),
    sample(
        "json",
        "'{\"b\": [1, null, \"é\"], \"a\": 18446744073709551615}'",
        "{\"b\": [1, null, \"é\"], \"a\": 18446744073709551615}",
        "{\"b\": [1, null, \"é\"], \"a\": 18446744073709551614}",
    ),
    sample("enum('red','Green','')", "'Green'", "Green", "green"),
    sample("set('a','b','unsigned')", "'unsigned,a'", "a,unsigned", "unsigned,a"),
    sample("geometry", "ST_GeomFromText('POINT(1 2)')", POINT_1_2, POINT_1_3),
    sample("point", "ST_GeomFromText('POINT(1 2)')", POINT_1_2, POINT_1_3),
];

/// What only MySQL has.
pub const MYSQL: &[Sample] = &[
    sample("vector(2)", "STRING_TO_VECTOR('[1,2]')", "\\x0000803f00000040", "\\x0000803f01000040"),
    // The document, not its text.
    sample("json", "'{\"x\": 1.50, \"a\": \"\\\\u00e9\"}'", "{\"a\":\"é\",\"x\":1.5}", "{\"a\":\"é\",\"x\":1.05}"),
    sample("varchar(50) character set gb18030", "'日本'", "日本", "日"),
];

/// What only MariaDB has.
pub const MARIADB: &[Sample] = &[
    sample(
        "uuid",
        "'123e4567-e89b-12d3-a456-426655440000'",
        "123e4567-e89b-12d3-a456-426655440000",
        "123e4567-e89b-12d3-a456-426655440001",
    ),
    sample("inet6", "'::1'", "::1", "::2"),
    // Text there, to the letter.
    sample("json", "'{\"x\": 1.50}'", "{\"x\": 1.50}", "{\"x\": 1.5}"),
];

const MAX_U64: &str = "18446744073709551615";
const POINT_1_2: &str = "\\x000000000101000000000000000000f03f0000000000000040";
const POINT_1_3: &str = "\\x000000000101000000000000000000f03f0000000000000840";
const TEN_TENS: &str =
    "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé";
