# shellcheck shell=bash
# PostgreSQL, Debian's package, in a data folder of its own, TCP only. Durability is as by default (fsync and
# synchronous_commit on), so that what is measured here is what a careful server gives.

POSTGRES_BIN=/usr/lib/postgresql/15/bin

postgres_create() { # FOLDER PORT
  "${RUN_AS[@]}" "$POSTGRES_BIN/initdb" -D "$1/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync
  printf 'host all all all trust\n' >>"$1/data/pg_hba.conf" # initdb trusts loopback; it may be told to listen elsewhere
}

postgres_run() { # FOLDER PORT
  exec "${RUN_AS[@]}" "$POSTGRES_BIN/postgres" -D "$1/data" -p "$2" -c listen_addresses="${ADDRESSES[postgres]}" \
    -c unix_socket_directories= -c timezone=UTC -c shared_buffers=512MB -c max_wal_size=4GB
}

postgres_ready() { # FOLDER PORT
  timeout 5 "$POSTGRES_BIN/psql" -X "postgres://postgres@${ADDRESSES[postgres]}:$2/postgres" -c 'select 1'
}

postgres_url() { printf 'PG_URL=postgres://postgres@%s:%s/postgres\n' "${ADDRESSES[postgres]}" "$1"; }
