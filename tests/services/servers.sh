# shellcheck shell=bash
# The four real servers. Each has a file of its own beside this one with
#   NAME_create FOLDER PORT  sets the server up in FOLDER
#   NAME_run FOLDER PORT     becomes it (exec), its output being its log; so again after it has ended
#   NAME_ready FOLDER PORT   succeeds once the server answers a client
#   NAME_url PORT            prints the line that tells tests where it is
# They are set up side by side, listen on loopback unless ADDRESSES says otherwise, and run as an unprivileged user.

SERVERS=(mysql mariadb kafka postgres)
START_LIMIT=300 # seconds, downloads included
declare -A PORTS=()
declare -A ADDRESSES=([mysql]=127.0.0.1 [mariadb]=127.0.0.1 [kafka]=127.0.0.1 [postgres]=127.0.0.1)
RUN_AS=() # the words before a server's command

for server in "${SERVERS[@]}"; do
  # shellcheck source=/dev/null
  . "${BASH_SOURCE[0]%/*}/$server.sh"
done
unset server

# MySQL and PostgreSQL refuse to run as root. A server also dies with this script, should that be killed outright.
choose_user() {
  RUN_AS=(setpriv --pdeathsig=KILL)
  ((EUID != 0)) || RUN_AS+=(--reuid=nobody --regid=nogroup --clear-groups)
  RUN_AS+=(env -u TMPDIR LC_ALL=C TZ=UTC) # TMPDIR may be a folder that this user can't write to
  "${RUN_AS[@]}" test -x "$SCRATCH" || die "the servers' user can't enter $SCRATCH: set TMPDIR to a folder open to all"
}

listens() { (: <>"/dev/tcp/$1/$2") 2>/dev/null; } # ADDRESS PORT

# pick_port NAME: PORTS[NAME] becomes a free port, below those that the kernel hands out to clients.
pick_port() {
  local port
  while
    port=$((12000 + RANDOM % 20000))
    [[ " ${PORTS[*]} " == *" $port "* ]] || listens 127.0.0.1 "$port"
  do :; done
  PORTS[$1]=$port
}

server_log() { printf '%s' "$SCRATCH/$1.log"; }

serve() {
  local folder=$SCRATCH/$1
  mkdir "$folder"
  ((EUID != 0)) || chown nobody:nogroup "$folder"
  "$1_create" "$folder" "${PORTS[$1]}" >"$(server_log "$1")" 2>&1
  run_again "$1"
}

# Becomes a server that is set up.
run_again() { "$1_run" "$SCRATCH/$1" "${PORTS[$1]}" >"$(server_log "$1")" 2>&1; }

# Starts all of SERVERS and returns when each answers; ends the script when one doesn't.
start_servers() {
  local name
  install_missing setpriv=util-linux java=openjdk-17-jre-headless mvn=maven \
    "$POSTGRES_BIN/postgres=postgresql-15" mariadbd=mariadb-server-core mariadb=mariadb-client-core
  choose_user
  for name in "${SERVERS[@]}"; do pick_port "$name"; done
  SECONDS=0
  for name in "${SERVERS[@]}"; do start "$name" serve "$name"; done
  await_servers
}

await_servers() {
  local waiting=("${SERVERS[@]}") still name
  while ((${#waiting[@]})); do
    ((SECONDS < START_LIMIT)) || give_up "${waiting[0]}" "was not ready within $START_LIMIT s"
    still=()
    for name in "${waiting[@]}"; do
      is_running "$name" || give_up "$name" "stopped before it was ready"
      is_ready "$name" || still+=("$name")
    done
    waiting=("${still[@]}")
    sleep 0.1
  done
}

is_ready() {
  listens "${ADDRESSES[$1]}" "${PORTS[$1]}" || return 1
  "$1_ready" "$SCRATCH/$1" "${PORTS[$1]}" >/dev/null 2>&1 || return 1
  say "$1 is ready after $SECONDS s"
}

# give_up NAME WHAT: shows the end of the server's log, says what happened and ends the script.
give_up() {
  tail -n 30 "$(server_log "$1")" >&3 2>/dev/null || true
  die "$1 $2; above is the end of its log"
}

# Returns, with nothing said, while all four run.
check_servers() {
  local name
  for name in "${SERVERS[@]}"; do is_running "$name" || give_up "$name" "stopped by itself"; done
}

# Never returns: ends the script when a server stops.
watch_servers() {
  while check_servers; do wait -n "${CHILDREN[@]}" 2>/dev/null || true; done
}

print_urls() {
  local name
  for name in "${SERVERS[@]}"; do "${name}_url" "${PORTS[$name]}"; done
}
