//! Connections to servers that may be others than they are taken for.
//!
//! Another kind of server may take what is said to it for the beginning of something longer, and wait for the rest; and what is
//! stopped or cut off says nothing either. The clients have no limit for that. So they open connections on a thread of
//! their own, which is left behind if it takes too long.

use std::time::Duration;

/// How long a server may take to say who it is once it is reached. Some look up the client's name before that.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);

/// Why there is no connection.
pub(crate) enum Unreached<E> {
    /// Nothing was heard, as this sentence says.
    Silent(String),
    /// The client's error.
    Failed(E),
}

/// What `open` connects to, or that it is no server of that `kind`, as far as one can tell after so long.
fn reach<C: Send + 'static, E: Send + 'static>(
    kind: &str,
    patience: Duration,
    open: impl FnOnce() -> Result<C, E> + Send + 'static,
) -> Result<C, Unreached<E>> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let opening = move || drop(sender.send(open())); // nobody may hear it any more
    std::thread::Builder::new()
        .name("connect".into())
        .spawn(opening)
        .map_err(|error| Unreached::Silent(format!("no thread to connect with: {error}")))?;
    match receiver.recv_timeout(patience) {
        Ok(opened) => opened.map_err(Unreached::Failed),
        Err(_) => Err(Unreached::Silent(format!(
            "it has not answered as a {kind} server does for {patience:?}: is it stopped, or another server's port?"
        ))),
    }
}

/// A session of a PostgreSQL server. Its client takes `connect_timeout` for each address of each host; more than one of a name do
/// not count here.
pub(crate) fn reach_postgres(config: postgres::Config) -> Result<postgres::Client, Unreached<postgres::Error>> {
    let connecting = config.get_connect_timeout().copied().unwrap_or_default()
        * config.get_hosts().len().max(config.get_hostaddrs().len()).max(1) as u32;
    reach("PostgreSQL", connecting + HANDSHAKE_MAX, move || config.connect(postgres::NoTls))
}

/// A session of a MySQL or MariaDB server.
pub(crate) fn reach_mysql(options: mysql::Opts) -> Result<mysql::Conn, Unreached<mysql::Error>> {
    let connecting = options.get_tcp_connect_timeout().unwrap_or_default();
    reach("MySQL", connecting + HANDSHAKE_MAX, || mysql::Conn::new(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_silent_is_not_waited_for() {
        let (wakes, sleeps) = crossbeam_channel::bounded::<()>(0);
        let silent = move || {
            let _ = sleeps.recv();
            Ok::<(), ()>(())
        };
        let said = reach("MySQL", Duration::from_millis(20), silent);
        let Err(Unreached::Silent(said)) = said else { panic!("it was waited for") };
        assert!(said.starts_with("it has not answered as a MySQL server does for 20ms"), "{said}");
        drop(wakes);
        assert!(matches!(reach("MySQL", HANDSHAKE_MAX, || Err::<(), _>(7)), Err(Unreached::Failed(7))));
        assert!(matches!(reach("MySQL", HANDSHAKE_MAX, || Ok::<_, ()>(8)), Ok(8)));
    }
}
