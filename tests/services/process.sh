# shellcheck shell=bash
# Child processes and how they end. Every child leads a process group of its own, so that stopping it by its id also
# stops what it started, and nothing else. What the servers keep is thrown away with the scratch folder, so nobody is
# asked to flush: they are killed. (PostgreSQL gets SIGQUIT, its "immediate" stop: its backends are in groups of their
# own, and it ends them itself.)
# The script that reads this file sets SELF, its name, and opens descriptor 3 for what it has to say.

declare -A CHILDREN=() # name -> process id, which is the process group's id too
SCRATCH=

say() { printf '%s: %s\n' "$SELF" "$*" >&3; }
die() { say "$*"; exit 1; }

# Makes the scratch folder, and sees to it that it and the children are gone at the end, however the script ends.
open_scratch() {
  trap close_scratch EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/tidegate.XXXXXXXX")
  chmod 755 "$SCRATCH" # the servers run as another user
}

close_scratch() {
  local status=$?
  trap - EXIT
  trap '' HUP INT TERM
  stop_children
  [[ -z $SCRATCH ]] || rm -rf -- "$SCRATCH" || rm -rf -- "$SCRATCH" # again: what was just killed may still write
  exit "$status"
}

# start NAME COMMAND...: runs the command (a function will do) in the background as CHILDREN[NAME].
start() {
  local name=$1
  shift
  set -m # job control is what gives a background job its own process group
  "$@" </dev/null &
  set +m
  CHILDREN[$name]=$!
}

is_running() { kill -0 "${CHILDREN[$1]}" 2>/dev/null; }

stop_children() { signal_and_reap 2>/dev/null; } # the shell would remark on each

signal_and_reap() {
  local name signal
  for name in "${!CHILDREN[@]}"; do
    signal=KILL
    [[ $name != postgres ]] || signal=QUIT
    kill -"$signal" -- -"${CHILDREN[$name]}" 2>/dev/null || true
  done
  for name in "${!CHILDREN[@]}"; do stop_child "$name"; done
}

# Waits until the signalled child is gone, ten seconds at most; then kills what is left of its group.
stop_child() {
  local pid=${CHILDREN[$1]} tries
  for ((tries = 0; tries < 100; tries++)); do
    is_running "$1" || break
    sleep 0.1
  done
  kill -KILL -- -"$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  unset "CHILDREN[$1]"
}
