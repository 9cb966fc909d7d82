# shellcheck shell=bash
# Brings what the machine lacks. Debian's own packages go into the system; what Debian 12 doesn't have (Kafka, MySQL 9)
# goes into a cache folder outside the repository, filled aside and moved in whole, so that a broken-off download is
# never taken for a finished one.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tidegate
PATH=$PATH:/usr/sbin:/sbin # where Debian keeps servers; not every user has it

# install_missing WHAT=PACKAGE...: installs the packages whose WHAT, a command or a path, isn't there.
install_missing() {
  local pair packages=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || [[ -e ${pair%%=*} ]] || packages+=("${pair#*=}")
  done
  ((${#packages[@]})) || return 0
  ((EUID == 0)) || die "these Debian packages are missing and only root can install them: ${packages[*]}"
  say "installing ${packages[*]}"
  # RUNLEVEL=1 keeps the packages' own scripts from starting servers on the default ports.
  {
    apt-get update
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}"
  } >&3 2>&3 </dev/null || die "apt-get could not install ${packages[*]}"
}

# What the crates that hold C and C++ need (librdkafka with zlib, SQLite); Rust itself must be there.
install_build_tools() {
  command -v cargo >/dev/null || die "cargo is missing: install Rust first"
  install_missing gcc=gcc g++=g++ make=make pkg-config=pkg-config /usr/include/zlib.h=zlib1g-dev
}

# cached NAME FILL: makes sure that $CACHE/NAME is there; FILL is called with an empty folder to fill.
cached() {
  local name=$1 fill=$2 aside
  [[ ! -d $CACHE/$name ]] || return 0
  mkdir -p "$CACHE"
  find "$CACHE" -maxdepth 1 -name 'filling.*' -mmin +60 -exec rm -rf {} + # left by runs that were broken off
  aside=$(mktemp -d "$CACHE/filling.XXXXXXXX")
  say "fetching $name into $CACHE"
  "$fill" "$aside"
  chmod 755 "$aside"
  mv -T "$aside" "$CACHE/$name" 2>/dev/null || rm -rf -- "$aside" # another run was faster
  [[ -d $CACHE/$name ]]
}

# borrow NAME FOLDER: the cached NAME as FOLDER, which the servers' user can read wherever the cache is (root's home is
# closed to it): hard links, or copies where those can't be.
borrow() {
  cp -al "$CACHE/$1" "$2" 2>/dev/null || {
    rm -rf -- "$2"
    cp -a "$CACHE/$1" "$2"
  }
}
