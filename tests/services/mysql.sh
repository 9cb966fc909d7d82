# shellcheck shell=bash
# MySQL 9, which Debian 12 doesn't have: Debian sid's packages, unpacked into a private folder with sid's own C library
# and run by sid's own loader. Nothing of the system is touched. Its binlog differs from MariaDB's (GTID events,
# checksums, metadata).
# The user r keeps MySQL's default, caching_sha2_password: 9.x has no mysql_native_password any more. Over plain TCP a
# client asks the server for its RSA key, as the Rust client does.

# Prints the mirror that this machine takes Debian from.
debian_mirror() {
  cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
    awk '$1 == "URIs:" {print $2; exit} $1 == "deb" {for (i = 2; i < NF; i++) if ($i ~ /:\//) {print $i; exit}}'
}

# fill_mysql FOLDER: downloads with an apt of its own, which believes that nothing is installed and so brings every
# library, down to libc.
fill_mysql() {
  local apt=$SCRATCH/mysql-apt deb options
  mkdir -p "$apt"/{sources,state/lists/partial,cache,debs/partial}
  : >"$apt/state/status"
  printf 'deb [signed-by=%s] %s sid main\n' /usr/share/keyrings/debian-archive-keyring.gpg "$(debian_mirror)" \
    >"$apt/sources/sid.list"
  options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/sources" -o "Dir::State=$apt/state"
    -o "Dir::State::status=$apt/state/status" -o "Dir::Cache=$apt/cache" -o "Dir::Cache::archives=$apt/debs"
    -o APT::Sandbox::User=root -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" -y --no-install-recommends --download-only install mysql-server-core mysql-client-core
  for deb in "$apt"/debs/*.deb; do
    [[ $deb == */*perl* ]] || dpkg -x "$deb" "$1" # only scripts that aren't used here need it
  done
  rm -rf "$1"/usr/share/{doc,man} "$apt"
}

# mysql_program ROOT: sets MYSQL_RUN to the words that run a program of the private folder.
mysql_program() {
  local libraries=("$1"/usr/lib/*-linux-gnu) loader
  loader=("${libraries[0]}"/ld-linux-*.so.*)
  MYSQL_RUN=("${loader[0]}" --library-path "${libraries[0]}")
}

mysql_config() { # ROOT FOLDER PORT
  cat <<EOC
[mysqld]
basedir=$1/usr
lc-messages-dir=$1/usr/share/mysql
character-sets-dir=$1/usr/share/mysql/charsets
plugin-dir=$1/usr/lib/mysql/plugin
datadir=$2/data
socket=my.sock
pid-file=my.pid
secure_file_priv=
tmpdir=$2
bind-address=${ADDRESSES[mysql]}
port=$3
mysqlx=OFF
default_time_zone=+00:00
skip_name_resolve=ON
server_id=2
log_bin=binlog
binlog_row_image=FULL
binlog_row_metadata=FULL
gtid_mode=ON
enforce_gtid_consistency=ON
innodb_buffer_pool_size=512M
innodb_flush_log_at_trx_commit=2
sync_binlog=0
max_allowed_packet=64M
EOC
}

# mysql_server FOLDER: sets MYSQL_SERVER to the words that run the server.
mysql_server() {
  mysql_program "$SCRATCH/mysql-root"
  MYSQL_SERVER=("${RUN_AS[@]}" "${MYSQL_RUN[@]}" "$SCRATCH/mysql-root/usr/sbin/mysqld" --defaults-file="$1/my.cnf")
}

mysql_create() { # FOLDER PORT
  local root=$SCRATCH/mysql-root
  cached mysql-9 fill_mysql
  borrow mysql-9 "$root"
  printf "set sql_log_bin=0;\ncreate user if not exists r@'%%' identified by 'r';\ngrant all on *.* to r@'%%' with grant option;\n" \
    >"$1/users.sql"
  mysql_config "$root" "$1" "$2" >"$1/my.cnf"
  mysql_server "$1"
  "${MYSQL_SERVER[@]}" --initialize-insecure # makes the data folder; users can't be made in the same run
}

mysql_run() { # FOLDER PORT
  mysql_server "$1"
  exec "${MYSQL_SERVER[@]}" --init-file="$1/users.sql"
}

mysql_ready() { # FOLDER PORT
  mysql_program "$SCRATCH/mysql-root"
  timeout 5 "${MYSQL_RUN[@]}" "$SCRATCH/mysql-root/usr/bin/mysql" --no-defaults -h"${ADDRESSES[mysql]}" -P"$2" -ur -pr -e 'select 1'
}

mysql_url() { printf 'MYSQL_URL=mysql://r:r@%s:%s/\n' "${ADDRESSES[mysql]}" "$1"; }
