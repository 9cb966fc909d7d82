//! What a follower says of statements and of halves of transactions, without a server.

use super::*;
use crate::source::Raws;
use crate::source::mysql::place::{Identity, prepared_in};

fn follower(tables: &[&str], clock: Clock) -> Follower {
    let tables: Vec<String> = tables.iter().map(|table| table.to_string()).collect();
    let filter = TableFilter::new(&tables).unwrap();
    let origin = Origin { server: Identity("a".into()), begun: None };
    Follower::new((Flavor::MariaDb, false), filter, origin, Place::new("binlog.000001", 4), 5, clock)
}

#[test]
fn numbers_do_not_depend_on_which_tables_are_wanted() {
    for sql in [
        "UPDATE crm.x SET a = 1",
        "TRUNCATE crm.x",
        "ALTER TABLE crm.x ADD a int",
        "XA COMMIT X'78',X'',1",
        "no SQL at all",
    ] {
        let [all, one] = [["*.*"], ["shop.*"]].map(|tables| {
            let mut follower = follower(&tables, Clock::from(0));
            follower.statement(&sql.into(), "crm", 7, 7_000, &mut Raws::default()).unwrap();
            follower.seq
        });
        assert_eq!(all, one, "{sql}");
    }
}

#[test]
fn a_distributed_transaction_is_known_until_it_is_decided() {
    let mut follower = follower(&["shop.*"], Clock::from(0));
    for (one_phase, decided, known) in [(0, "COMMIT", 1), (0, "ROLLBACK", 1), (1, "", 0)] {
        let mut take = |sql: &str| {
            let mut out = Raws::default();
            follower.statement(&sql.into(), "crm", 7, 7_000, &mut out).unwrap();
            assert!(out.is_empty(), "{sql}");
        };
        take("XA START X'78',X'',1");
        take("XA END X'78',X'',1");
        assert!(follower.open.is_some());
        follower.prepared(&[one_phase]);
        assert_eq!((follower.open.is_some(), follower.prepared.len()), (false, known));
        if known > 0 {
            let mut out = Raws::default();
            follower.statement(&(&*format!("XA {decided} X'78',X'',1")).into(), "crm", 7, 7_000, &mut out).unwrap();
            assert!(out.is_empty() && follower.prepared.is_empty() && follower.open.is_none());
        }
    }
    // Of one that was prepared earlier nobody knows, but who has kept it; the numbers are the same.
    let mut knowing = self::follower(&["shop.*"], Clock::from(0));
    knowing.know_prepared(["X'79',X'',1".to_string()].into());
    let resume = knowing.mark(false).resume;
    assert_eq!(prepared_in(&resume.position).len(), 1);
    let mut out = Raws::default();
    knowing.statement(&"XA COMMIT X'79',X'',1".into(), "crm", 7, 7_000, &mut out).unwrap();
    assert!(out.is_empty());
    let before = follower.seq;
    assert_eq!(prepared_in(&follower.mark(false).resume.position).len(), 0);
    let mut out = Raws::default();
    follower.statement(&"XA COMMIT X'79',X'',1".into(), "crm", 7, 7_000, &mut out).unwrap();
    assert!(!out.is_empty());
    assert_eq!(follower.seq - before, knowing.seq - resume.seq);
}

#[test]
fn of_half_a_transaction_it_is_known_whether_it_was_published_and_whether_tables_kept_it() {
    for (given, published) in [(4, false), (5, true), (7, true), (8, false)] {
        for (flags, kept) in [(0, true), (mariadb::TRANSACTIONAL, false)] {
            let clock = Clock::resuming(1_000, [(given, 2_000)], []);
            let mut follower = follower(&["*.*"], clock);
            let mut gtid = [0; 13];
            gtid[12] = flags;
            follower.mariadb_gtid(&gtid, 7, 7_000).unwrap();
            follower.open.as_mut().unwrap().rows = true;
            follower.seq += 3;
            follower.leave_file(Place::new("binlog.000002", 4));
            let cut_off = follower.take_cut_off().unwrap();
            assert_eq!((cut_off.from, cut_off.published, cut_off.kept), (5, published, kept), "{given} {flags}");
        }
    }
}
