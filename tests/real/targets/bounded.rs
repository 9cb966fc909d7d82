//! The memory of `tidegate verify` on tables that are far larger. It takes longest, and tests start in the order of their names:
//! in this module it starts early and nothing has to wait for it alone.

use std::time::Duration;

use crate::place::{Kind, Place, Verified};

#[test]
fn memory_does_not_grow_with_the_tables() {
    // 300 MB of rows on each side, twice as many in a table whose keys are text in two different orders, and a table whose
    // rows all have one leading key.
    const ROWS: u64 = 300_000;
    let mut place = Place::new("MYSQL_URL", Kind::Postgres);
    place.at_source(
        "CREATE TABLE wide (id bigint NOT NULL PRIMARY KEY, body text NOT NULL);\n\
         CREATE TABLE codes (code varchar(80) NOT NULL PRIMARY KEY, n int);\n\
         SET cte_max_recursion_depth = 1000000;\n\
         INSERT INTO wide WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300000) \
         SELECT n * 7 - 1400000, repeat(sha2(n, 256), 16) FROM n;\n\
         INSERT INTO codes SELECT sha2(id, 256), id FROM wide;\n\
         INSERT INTO codes SELECT upper(concat(code, 'x')), n FROM codes;\n\
         CREATE TABLE skewed (shop int NOT NULL, id bigint NOT NULL, PRIMARY KEY (shop, id));\n\
         INSERT INTO skewed SELECT 7, id FROM wide",
    );
    place.at_target(
        "CREATE TABLE wide (id bigint PRIMARY KEY, body text); CREATE TABLE codes (code text PRIMARY KEY, n int); \
         INSERT INTO wide SELECT n * 7 - 1400000, repeat(encode(sha256(n::text::bytea), 'hex'), 16) FROM generate_series(1, 300000) n; \
         INSERT INTO codes SELECT encode(sha256(id::text::bytea), 'hex'), id FROM wide ORDER BY id DESC; \
         INSERT INTO codes SELECT upper(code || 'x'), n FROM codes; \
         CREATE TABLE skewed (shop int, id bigint, PRIMARY KEY (shop, id)); \
         INSERT INTO skewed SELECT 7, id FROM wide ORDER BY id % 1000",
    );
    place.is_identical(4 * ROWS);
    place.at_target(
        "UPDATE wide SET body = body || ' ' WHERE id = -1399993; DELETE FROM wide WHERE id = 700000; \
         DELETE FROM codes WHERE code = encode(sha256('14'), 'hex'); \
         UPDATE codes SET n = 0 WHERE code = upper(encode(sha256('21'), 'hex') || 'x'); \
         DELETE FROM skewed WHERE id = 0; INSERT INTO skewed VALUES (8, 0)",
    );
    let mut verify = place.start(&["--json", "-w", "2"]);
    let status = format!("/proc/{}/status", verify.id());
    let mut most_kb = 0;
    while verify.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most_kb = line.map_or(most_kb, |line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    let verified = Verified::of(&verify.wait_with_output().unwrap());
    assert_eq!((verified.code, verified.found().len()), (1, 6), "{}{}", verified.out, verified.err);
    assert!((1..250_000).contains(&most_kb), "{most_kb} kB");
}
