#!/usr/bin/env bash
# `make up` and `make test-all` on a bare machine: Debian stable with python3, its venv module, make and git, nothing else,
# by a user who is not root. Arguments go to `make test-all`:
#   scripts/bare_machine.sh ARGS='-k rsync'
# Needs mmdebstrap, and root or user namespaces. The last commit is tried. Debian's mirror, the package indexes and the
# proxy are those that apt, pip and npm use on this machine; the network is this machine's, too: a system that runs here
# already holds the ports of the second one.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }

# As root of the namespace: the machine's files, and the settings of pip and npm with the files that they name.
boot() {
  local place=$1 file path root=$1/root settings=()
  shift
  mkdir "$root"
  tar -x --numeric-owner --exclude='./dev/*' -f "$place/root.tar" -C "$root"
  mount --rbind /dev "$root/dev" && mount -t tmpfs tmpfs "$root/dev/shm"
  mount --rbind /sys "$root/sys" && mount -t proc proc "$root/proc"
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash trader
  cp -r "$place/fks" "$root/home/trader/fks"
  for file in /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf ~/.npmrc; do
    [ -f "$file" ] || continue
    path=$root/${file/#"$HOME"//home/trader}
    mkdir -p "$(dirname "$path")" && cp "$file" "$path" && cat "$file" >>"$place/settings"
  done
  mapfile -t settings < <(env | grep -iE '^(pip|npm_config)_|^(ssl_cert_file|node_extra_ca_certs|(https?|all|no)_proxy)=')
  printf '%s\n' "${settings[@]}" >>"$place/settings"
  for file in $(grep -oE '(file:/)?/[^ ,:;"'\'']+' "$place/settings" | sort -u); do
    path=${file#file://}
    [ "$path" = "$file" ] || path=$(dirname "$path") # an index, whose files may lie beside it
    if [ -d "$path" ] && ! [ -e "$root$path" ]; then
      mkdir -p "$root$path"
    elif [ -f "$path" ]; then # a certificate, which the bare machine may have in its own version
      mkdir -p "$(dirname "$root$path")" && touch "$root$path"
    else
      continue
    fi
    mount --bind "$path" "$root$path"
  done
  chroot "$root" chown -R trader: /home/trader
  exec chroot --userspec=1000:1000 --groups=1000 "$root" env -i HOME=/home/trader USER=trader LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/bin:/bin "${settings[@]}" bash -euc "$(declare -f say try); try \"\$@\"" try "$@" </dev/null
}

# As the user of the bare machine.
try() {
  local up start code=0
  set -m # each job in a process group of its own, as in a terminal
  cd ~/fks
  say "Debian $(cat /etc/debian_version), $(python3 --version), user $(id -un), tree of fks/ $(git rev-parse --short=12 HEAD:fks)"
  start=$SECONDS
  make up >../up.log 2>&1 &
  up=$!
  until grep -q '  fill  ' ../up.log; do
    if ! kill -0 "$up" 2>/dev/null || ((SECONDS - start > 900)); then
      tail -40 ../up.log
      say "make up: no order was filled in $((SECONDS - start)) s"
      exit 1
    fi
    sleep 1
  done
  say "make up: trades after $((SECONDS - start)) s, with the installation"
  kill -INT -- "-$up" && wait "$up" || code=$?
  say "make up: stopped with Ctrl-C, status $code"
  start=$SECONDS code=0
  make test-all "$@" >../test.log 2>&1 || code=$?
  ((code == 0)) || sed -n '/^=* \(FAILURES\|ERRORS\) =*$/,/^=* short test summary info =*$/p' ../test.log | grep -E '^(E  |____)' | cut -c1-300
  sed -n '/^== make test-all/,$p' ../test.log | grep . || tail -60 ../test.log
  say "make test-all $*: status $code after $((SECONDS - start)) s"
  exit "$code"
}

command -v mmdebstrap >/dev/null || { echo "error: mmdebstrap is not installed: apt-get install mmdebstrap" >&2; exit 1; }
namespace=(unshare --mount --pid --fork --kill-child)
[ "$(id -u)" = 0 ] || namespace+=(--map-root-user --map-auto)
place=$(mktemp -d "${TMPDIR:-/tmp}/fks-bare-XXXXXX")
chmod 755 "$place"
install -m 600 /dev/null "$place/settings" # they may hold passwords of an index or a proxy
install -m 600 /dev/null "$place/apt.conf"
# outside the namespace nothing is mounted below it; its files belong to the users of the namespace
trap 'if [ "$(id -u)" = 0 ]; then rm -rf "$place"; else unshare --map-root-user --map-auto rm -rf "$place"; fi' EXIT
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p' | head -1)
apt-config dump --no-empty --format '%F "%v";%n' Acquire::http Acquire::https >"$place/apt.conf"
say "making a machine of Debian stable with python3, python3-venv, make and git"
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,make,git --aptopt="$place/apt.conf" \
  stable "$place/root.tar" ${mirror:+"$mirror"}
git clone --quiet . "$place/fks"
"${namespace[@]}" bash -euc "$(declare -f say try boot); boot \"\$@\"" boot "$place" "$@"
