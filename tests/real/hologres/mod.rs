//! A stand-in for Hologres: a proxy in front of PostgreSQL that refuses what Hologres refuses (`dialect`) and, on demand,
//! breaks what Hologres may break.
//!
//! A connection works in lockstep: what the client sends up to a Sync or a simple query is one request; it is looked at,
//! handed on or not, and its answers go back up to ReadyForQuery. So a fault has an exact place: before the server has
//! executed anything, after a part of a batch's rows, or after all of them and before the client hears of it.

pub mod dialect;
mod wire;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::wire::{Message, Way};

/// How often the proxy breaks something.
#[derive(Default)]
pub struct Faults {
    /// Of so many writing requests about one is broken; 0: none.
    one_in: AtomicU64,
    /// Whether sessions can't be ended from outside, as where a role may not.
    pub stubborn: AtomicBool,
    /// State of the random numbers.
    random: AtomicU64,
    /// How often each fault has struck.
    pub struck: [AtomicU64; FAULTS.len()],
}

/// What may happen to a request that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some rows of the batch are written, any of them, and the others not; then there is an error.
    Torn,
    /// Everything is executed, and the connection is lost before the answer.
    AnswerLost,
    /// The connection is lost, and only then everything is executed.
    Late,
    /// Nothing is executed: the table has a newer version.
    Stale,
    /// Everything is executed, and the answer is that it took too long.
    TimedOut,
    /// Nothing is executed, and the connection is lost.
    Cut,
}

pub const FAULTS: [Fault; 6] = [Fault::Torn, Fault::AnswerLost, Fault::Late, Fault::Stale, Fault::TimedOut, Fault::Cut];

impl Faults {
    /// Breaks about one writing request of so many from now on.
    pub fn strike(&self, one_in: u64, seed: u64) {
        self.random.store(seed, Ordering::Relaxed);
        self.one_in.store(one_in, Ordering::Relaxed);
    }

    /// The next random number below `below` (splitmix64).
    fn random(&self, below: u64) -> u64 {
        let mut z = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn next(&self) -> Option<Fault> {
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == 0 || self.random(one_in) != 0 {
            return None;
        }
        let chosen = self.random(FAULTS.len() as u64) as usize;
        self.struck[chosen].fetch_add(1, Ordering::Relaxed);
        Some(FAULTS[chosen])
    }
}

/// A running stand-in; its threads end with the process.
pub struct Hologres {
    address: SocketAddr,
    behind: postgres::Config,
    pub faults: Arc<Faults>,
}

impl Hologres {
    /// Starts a stand-in in front of the PostgreSQL at `url`.
    pub fn start(url: &str) -> Hologres {
        let behind: postgres::Config = url.parse().unwrap();
        let host = match &behind.get_hosts()[0] {
            postgres::config::Host::Tcp(host) => host.clone(),
            other => panic!("a TCP host is expected, not {other:?}"),
        };
        let upstream = format!("{host}:{}", behind.get_ports().first().unwrap_or(&5432));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, faults) = (listener.local_addr().unwrap(), Arc::new(Faults::default()));
        let (shared, keys) = (Arc::clone(&faults), behind.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (faults, keys, upstream) = (Arc::clone(&shared), keys.clone(), upstream.clone());
                std::thread::spawn(move || {
                    let Ok(server) = TcpStream::connect(upstream) else { return };
                    // Whatever ends it: both ends hear of it.
                    let ends = [client.try_clone(), server.try_clone()];
                    let _ = Connection::new(client, server, faults, keys).serve();
                    ends.into_iter().flatten().for_each(|end| drop(end.shutdown(Shutdown::Both)));
                });
            }
        });
        Hologres { address, behind, faults }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let database = self.behind.get_dbname().unwrap_or("postgres");
        format!("postgres://{}@{}/{database}", self.behind.get_user().unwrap_or("postgres"), self.address)
    }
}

/// Where jobs land in this run of the tests: in PostgreSQL, or, with `TARGET=hologres`, in the stand-in before it.
pub fn target_url(postgres: &str) -> String {
    static STAND_IN: OnceLock<Hologres> = OnceLock::new();
    match std::env::var("TARGET").as_deref() {
        Ok("hologres") => STAND_IN.get_or_init(|| Hologres::start(postgres)).url(),
        Ok(other) => panic!("TARGET={other}: there is only 'hologres'"),
        Err(_) => postgres.to_string(),
    }
}

/// Whether jobs land in the stand-in in this run of the tests.
pub fn on_hologres() -> bool {
    std::env::var_os("TARGET").is_some()
}

/// A client and its server.
struct Connection {
    client: Way,
    server: Way,
    faults: Arc<Faults>,
    behind: postgres::Config,
    /// Statements that write rows, by name, as long as they are prepared.
    writing: std::collections::HashSet<Vec<u8>>,
}

impl Connection {
    fn new(client: TcpStream, server: TcpStream, faults: Arc<Faults>, behind: postgres::Config) -> Connection {
        Connection { client: Way::new(client), server: Way::new(server), faults, behind, writing: Default::default() }
    }

    fn serve(mut self) -> std::io::Result<()> {
        let mut startup = self.client.startup()?;
        while wire::asks_for_encryption(&startup) {
            self.client.write(b"N")?;
            startup = self.client.startup()?;
        }
        // Its sessions are in the server's own time zone, which is not UTC, and times may lie far back.
        self.server.write(&wire::with_setting(&startup, "TimeZone", "Asia/Shanghai"))?;
        if wire::is_cancel(&startup) {
            return Ok(());
        }
        self.answer()?;
        loop {
            let mut request = Vec::new();
            loop {
                let message = self.client.message()?;
                let ends = matches!(message.tag, b'S' | b'Q' | b'X' | b'H');
                request.push(message);
                if ends {
                    break;
                }
            }
            if request.iter().any(|message| message.tag == b'X') {
                return self.server.send(&request);
            }
            match self.look(&mut request) {
                Err((code, said)) => self.client.write(&wire::refusal(code, &said))?,
                Ok(writes) => match if writes { self.faults.next() } else { None } {
                    None => {
                        self.server.send(&request)?;
                        self.answer()?;
                    }
                    Some(fault) => self.strike(fault, request)?,
                },
            }
        }
    }

    /// Looks at a request: what Hologres refuses is refused, what PostgreSQL does not know is rewritten. Says whether it
    /// writes rows.
    fn look(&mut self, request: &mut [Message]) -> Result<bool, (&'static str, String)> {
        let mut writes = false;
        for message in request {
            match message.tag {
                b'Q' => {
                    let sql = message.text(0);
                    let rewritten = self.judge(&sql)?;
                    writes |= dialect::writes_rows(&sql);
                    message.replace_text(0, &rewritten);
                }
                b'P' => {
                    let name = message.bytes_at(0).to_vec();
                    let sql = message.text(name.len() + 1);
                    let rewritten = self.judge(&sql)?;
                    match dialect::writes_rows(&sql) {
                        true => self.writing.insert(name.clone()),
                        false => self.writing.remove(&name),
                    };
                    message.replace_text(name.len() + 1, &rewritten);
                }
                b'B' => {
                    let portal = message.bytes_at(0).len();
                    writes |= self.writing.contains(message.bytes_at(portal + 1));
                }
                _ => {}
            }
        }
        Ok(writes)
    }

    fn judge(&self, sql: &str) -> Result<String, (&'static str, String)> {
        let keys = |table: &str| primary_key(&self.behind, table);
        if let Some(why) = dialect::refuses(sql, &keys) {
            return Err(("0A000", format!("not supported by Hologres: {why}: {sql}")));
        }
        let stubborn = self.faults.stubborn.load(Ordering::Relaxed);
        Ok(dialect::for_postgres(sql, stubborn))
    }

    /// Hands the server's answers on, with counts of affected rows that say nothing.
    fn answer(&mut self) -> std::io::Result<()> {
        loop {
            let mut message = self.server.message()?;
            if message.tag == b'C' {
                message.forget_count();
            }
            let ends = message.tag == b'Z';
            self.client.send(std::slice::from_ref(&message))?;
            if ends {
                return self.client.flush();
            }
        }
    }

    /// Has the server execute a request, and keeps its answers to itself. Returns whether it went well.
    fn execute(&mut self, request: &[Message]) -> std::io::Result<bool> {
        self.server.send(request)?;
        let mut well = true;
        loop {
            let message = self.server.message()?;
            well &= message.tag != b'E';
            if message.tag == b'Z' {
                return Ok(well);
            }
        }
    }

    fn strike(&mut self, fault: Fault, mut request: Vec<Message>) -> std::io::Result<()> {
        let lost = || Err(std::io::ErrorKind::ConnectionReset.into());
        match fault {
            Fault::Torn => {
                let faults = Arc::clone(&self.faults);
                for message in request.iter_mut().filter(|message| message.tag == b'B') {
                    message.keep_rows(|_| faults.random(2) == 0);
                }
                self.execute(&request)?;
                self.client.write(&wire::refusal("53200", "the query ran out of memory"))
            }
            Fault::AnswerLost => {
                self.execute(&request)?;
                lost()
            }
            Fault::Late => {
                self.client.close();
                std::thread::sleep(Duration::from_millis(self.faults.random(400)));
                self.execute(&request)?;
                lost()
            }
            Fault::Stale => {
                let said = "the schema version 7 of the query mismatches the version of the table 8";
                self.client.write(&wire::refusal("XX000", said))
            }
            Fault::TimedOut => {
                self.execute(&request)?;
                self.client.write(&wire::refusal("57014", "canceling statement due to statement timeout"))
            }
            Fault::Cut => lost(),
        }
    }
}

/// The columns of a table's primary key, as the server behind has them.
fn primary_key(behind: &postgres::Config, table: &str) -> Vec<String> {
    let sql = "SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid \
               AND a.attnum = ANY(i.indkey) WHERE i.indisprimary AND i.indrelid = to_regclass($1)";
    let mut client = behind.connect(postgres::NoTls).unwrap();
    client.query(sql, &[&table]).unwrap().iter().map(|row| row.get(0)).collect()
}
