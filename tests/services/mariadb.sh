# shellcheck shell=bash
# MariaDB, Debian's package: the server's core without its service, in a data folder of its own.

mariadb_config() { # FOLDER PORT
  cat <<EOC
[mariadbd]
datadir=$1/data
socket=my.sock
pid-file=my.pid
tmpdir=$1
bind-address=${ADDRESSES[mariadb]}
port=$2
init_file=$1/users.sql
character-set-server=utf8mb4
default_time_zone=+00:00
skip_name_resolve=ON
server_id=1
log_bin=binlog
binlog_format=ROW
binlog_row_image=FULL
binlog_row_metadata=FULL
innodb_buffer_pool_size=512M
innodb_flush_log_at_trx_commit=2
sync_binlog=0
max_allowed_packet=64M
EOC
}

mariadb_create() { # FOLDER PORT
  printf "set sql_log_bin=0;\ncreate user if not exists r@'%%' identified by 'r';\ngrant all on *.* to r@'%%' with grant option;\n" \
    >"$1/users.sql"
  mariadb_config "$1" "$2" >"$1/my.cnf"
  "${RUN_AS[@]}" mariadb-install-db --no-defaults --datadir="$1/data" --auth-root-authentication-method=normal \
    --skip-name-resolve --skip-test-db
}

mariadb_run() { # FOLDER PORT
  exec "${RUN_AS[@]}" mariadbd --defaults-file="$1/my.cnf"
}

mariadb_ready() { # FOLDER PORT
  timeout 5 mariadb --no-defaults -h"${ADDRESSES[mariadb]}" -P"$2" -ur -pr -e 'select 1'
}

mariadb_url() { printf 'MARIADB_URL=mysql://r:r@%s:%s/\n' "${ADDRESSES[mariadb]}" "$1"; }
