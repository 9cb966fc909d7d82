//! Odd tables, keys, columns and rows on real servers: published, landed and found identical.

use crate::job::env;
use crate::job::source::{Source, arrives};

const SERVERS: [&str; 2] = ["MYSQL_URL", "MARIADB_URL"];

#[test]
fn keys_of_text_are_told_apart_as_the_source_stores_them() {
    for server in SERVERS {
        let mut job = arrives(
            server,
            "text_keys",
            &[
                "CREATE TABLE ci (k varchar(20) CHARACTER SET latin1 COLLATE latin1_swedish_ci PRIMARY KEY, v int)",
                "INSERT INTO ci VALUES ('a', 1), ('b', 1), ('ü', 1), ('', 1), ('c ', 1)",
                "UPDATE ci SET k = 'A' WHERE k = 'a'",
                "REPLACE INTO ci VALUES ('B', 2)",
                "UPDATE ci SET k = 'c', v = 2 WHERE k = 'c'",
                "INSERT INTO ci VALUES ('Y', 3) ON DUPLICATE KEY UPDATE v = 4",
                "DELETE FROM ci WHERE k = 'Ü'",
                "INSERT INTO ci VALUES ('Ü', 5)",
                "CREATE TABLE pair (a char(5), b varbinary(5), c enum('x','Y'), PRIMARY KEY (a, b, c))",
                "INSERT INTO pair VALUES ('a ', 'a ', 'x'), ('a', 'a', 'Y'), ('', '', 'x'), ('[\"', '\\\\', 'Y')",
                "UPDATE pair SET b = 'A' WHERE b = 'a'",
                "CREATE TABLE prefixed (k varchar(30) NOT NULL, v int, UNIQUE (k(3)))",
                "INSERT INTO prefixed VALUES ('abcd', 1), ('abd', 2)",
                "UPDATE prefixed SET k = 'abce' WHERE v = 1",
                "CREATE TABLE second (a int NULL, b int NOT NULL, c int NOT NULL, UNIQUE a (a), UNIQUE z (b, c))",
                "INSERT INTO second VALUES (NULL, 1, 1), (NULL, 1, 2), (3, 2, 1)",
                "UPDATE second SET c = 3, a = NULL WHERE b = 2",
            ],
        );
        assert_eq!(job.count("ci", "k IN ('A', 'B', 'c', 'Ü', '')"), 5, "{server}"); // a Swedish ü is a y
        assert_eq!(job.count("prefixed", "k = 'abce'"), 1, "{server}");
    }
}

#[test]
fn wide_tables_and_odd_names_arrive() {
    for server in SERVERS {
        let wide: Vec<String> = (0..600).map(|n| format!("c{n} tinyint")).collect();
        let values = vec!["-1"; 600].join(", ");
        let members: Vec<String> = (0..300).map(|n| format!("'m{n},'")).collect();
        let flags: Vec<String> = (0..64).map(|n| format!("'f{n}'")).collect();
        let mut job = arrives(
            server,
            "odd",
            &[
                &format!("CREATE TABLE wide (id int PRIMARY KEY, {})", wide.join(", ")),
                &format!("INSERT INTO wide VALUES (1, {values})"),
                "UPDATE wide SET c599 = NULL",
                "CREATE TABLE `a.b \"c\" ``d``'é` (`i d` int, `\"x\".y` varchar(9), `ключ` char(3), PRIMARY KEY (`i d`, `ключ`))",
                "INSERT INTO `a.b \"c\" ``d``'é` VALUES (1, 'x', 'ц'), (2, NULL, '')",
                "UPDATE `a.b \"c\" ``d``'é` SET `i d` = 3 WHERE `i d` = 2",
                &format!("CREATE TABLE chosen (id int PRIMARY KEY, e enum({}))", members.join(", ")),
                "INSERT INTO chosen VALUES (1, 'm299,'), (2, 'm0,')",
                &format!("CREATE TABLE flags (id bigint unsigned PRIMARY KEY, s set({}))", flags.join(", ")),
                "INSERT INTO flags VALUES (18446744073709551615, 'f0,f63'), (0, '')",
                "CREATE TABLE moments (at timestamp(6) NOT NULL, d date NOT NULL, n decimal(20,3), PRIMARY KEY (d, at, n))",
                "INSERT INTO moments VALUES ('2026-01-02 03:04:05.000006', '0001-01-01', -0.001), \
                 ('2026-01-02 03:04:05.000006', '9999-12-31', 0)",
            ],
        );
        assert_eq!(job.count("chosen", "e IN ('m299,', 'm0,')"), 2, "{server}");
        assert_eq!(job.count("wide", "c599 IS NULL AND c598 = -1"), 1, "{server}");
    }
}

#[test]
fn a_row_that_kafka_does_not_take_stops_publish_by_table_and_key_until_it_does() {
    for server in SERVERS {
        let mut source = Source::new(server, "large");
        let mut job = source.job(&[".*"]);
        source.run(&[
            "CREATE TABLE t (id int PRIMARY KEY, b longblob)",
            "INSERT INTO t VALUES (1, 'small'), (2, repeat('x', 500000))",
            "INSERT INTO t VALUES (3, repeat(x'00ff', 8 << 20))",
            "INSERT INTO t VALUES (4, 'behind')",
        ]);
        for _ in 0..2 {
            let output = job.try_run("publish");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(3), "{said}");
            for word in [".t", "key 3", "Message size too large", "max.message.bytes of the topic"] {
                assert!(said.contains(word), "{server}: '{word}' is not in: {said}");
            }
        }
        take_large_records(&job.name);
        job.configure("[kafka.properties]\n\"message.max.bytes\" = \"67108864\"");
        ["publish", "land", "verify"].iter().for_each(|command| job.run(command));
        assert_eq!(job.count("t", "octet_length(b) IN (5, 500000, 16777216, 6)"), 4, "{server}");
    }
}

/// Has Kafka take records of up to 64 MB for the topic.
fn take_large_records(topic: &str) {
    use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
    let admin: AdminClient<rdkafka::client::DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", env("KAFKA_ADDR")).create().unwrap();
    let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", "67108864");
    let altered = admin.alter_configs([&config], &AdminOptions::new());
    futures_executor::block_on(altered).unwrap().pop().unwrap().unwrap();
}

#[test]
fn doubles_of_every_size_arrive() {
    // Many lie in the middle between the two shortest texts that read back as them.
    let microseconds = (0..2_000).map(|n| 1.79e15 + f64::from(n) * 2_500_000.25);
    let sizes = (-1_000..1_000).map(|n| f64::from_bits(0x3ff5_5555_5555_5555 ^ ((n as u64) << 50) ^ (n as u64 * 977)));
    let doubles: Vec<f64> = microseconds.chain(sizes).filter(|double| double.is_finite()).collect();
    let rows: Vec<String> = doubles
        .iter()
        .enumerate()
        .map(|(id, double)| format!("({id}, {double:e}, {:e})", (*double as f32).clamp(-1e38, 1e38)))
        .collect();
    let insert = format!("INSERT INTO doubles VALUES {}", rows.join(","));
    for server in SERVERS {
        let statements = ["CREATE TABLE doubles (id int PRIMARY KEY, d double, f float)", insert.as_str()];
        let mut job = arrives(server, "doubles", &statements);
        let landed: Vec<f64> =
            job.target.query("SELECT d FROM doubles ORDER BY id", &[]).unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(landed, doubles, "{server}");
    }
}
