#!/usr/bin/env bash
# Proves the two commands of a newcomer on a machine that has nothing: a minimal Debian 12 made by debootstrap, with
# python3, python3-venv, make, git and ca-certificates only; a clone of this checkout's last commit; then `make demo` as
# an ordinary user and `make test` as root (where it may install what only tests need).
#
#   FRESH_TESTS=quick   runs a smaller selection of tests      FRESH_ONLY=demo|test  runs one of the two
#   FRESH_KEEP=1        keeps the root folder and says where it is
#
# The base system is cached as a tarball in .cache/fresh. Mounts live in a private mount namespace, so they are gone with
# the process, however it ends. What the host says about package sources, proxies and certificates (environment, pip's
# and apt's configuration) is carried over as it stands; nothing of it is written here.
set -euo pipefail
cd "$(dirname "$0")/.."
repo=$PWD
cache=$repo/.cache/fresh
base=$cache/bookworm-minimal.tar
packages=python3,python3-venv,make,git,ca-certificates
QUICK_TESTS="tests/test_imports.py tests/test_support.py tests/test_docs.py tests/protocol tests/e2e"

say() { printf 'fresh: %s\n' "$*" >&2; }

need_root() {
    [ "$(id -u)" = 0 ] && return
    say "needs root for chroot and mounts. Run: sudo make fresh"
    exit 1
}

need_debootstrap() {
    command -v debootstrap >/dev/null && return
    say "debootstrap is missing: apt-get install -y debootstrap"
    apt-get install -y -qq debootstrap >/dev/null && return
    say "could not install it. Run: apt-get install debootstrap   then this command again"
    exit 1
}

make_base() {
    [ -f "$base" ] && return
    mkdir -p "$cache"
    local folder mirror
    folder=$(mktemp -d "$cache/base.XXXXXX")
    mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 2>/dev/null | awk '$2 == "bookworm" {print $1; exit}')
    say "debootstrap of a minimal Debian 12 (once; a few minutes)"
    debootstrap --variant=minbase --include="$packages" bookworm "$folder" ${mirror:+"$mirror"} >"$cache/debootstrap.log" 2>&1 || {
        say "debootstrap failed; its last lines:"
        tail -n 5 "$cache/debootstrap.log" >&2
        exit 1
    }
    rm -rf "$folder"/var/cache/apt/archives/*.deb
    tar -C "$folder" -cf "$base.part" . && mv "$base.part" "$base"
    rm -rf "$folder"
}

# Variables about certificates, proxies and indexes; only those, so that nothing else of the host's leaks in.
carried() {
    env | grep -E '^(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE=|CURL_CA_BUNDLE=|GIT_SSL_CAINFO=|GOPROXY=|GOSUMDB=|(https?|no|all|HTTPS?|NO|ALL)_(proxy|PROXY)=)' |
        grep -v '^PIP_FIND_LINKS='
}

copy_settings() {
    local root=$1 file
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt \
        $(carried | cut -d= -f2- | grep '^/etc/' || true); do
        [ -f "$file" ] && install -D -m 644 "$file" "$root$file"
    done
    [ -f /etc/apt/sources.list ] && cp /etc/apt/sources.list "$root/etc/apt/"
    if [ -f /etc/apt/sources.list.d/debian.sources ]; then
        cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/"
    fi
    apt-config dump Acquire | grep -iE '::(http|https)::|Retries' >"$root/etc/apt/apt.conf.d/90host" || true
}

# What runs inside the private namespaces: mounts, then the commands in the chroot.
inside() {
    local root=$1
    mount --bind "$root" "$root" # a root that is a mount point, so that tests may make mount namespaces of their own
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/shm" "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    local node
    for node in null zero full random urandom tty; do
        touch "$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    mkdir -p "$root/mnt/checkout"
    mount --bind "$repo" "$root/mnt/checkout"
    mount -o remount,bind,ro "$root/mnt/checkout"
    ip link set lo up 2>/dev/null || true

    if [ "${FRESH_ONLY:-demo}" = demo ]; then
        in_chroot "$root" 'adduser --quiet --disabled-password --gecos "" user'
        in_chroot "$root" 'runuser -u user -- sh -ec "git config --global --add safe.directory /mnt/checkout/.git
            git clone -q file:///mnt/checkout ~/skep; cd ~/skep; make demo"'
    fi
    if [ "${FRESH_ONLY:-test}" = test ]; then
        local selection=tests
        [ "${FRESH_TESTS:-}" = quick ] && selection=$QUICK_TESTS
        in_chroot "$root" "git config --global --add safe.directory /mnt/checkout/.git
            git clone -q file:///mnt/checkout /srv/skep; cd /srv/skep; make test TESTS='$selection'"
    fi
}

in_chroot() {
    local root=$1 command=$2 settings
    mapfile -t settings < <(carried)
    env -i HOME=/tmp/home PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 NO_COLOR=1 \
        "${settings[@]}" chroot "$root" sh -ec 'mkdir -p "$HOME"; chmod 1777 "$HOME"; '"$command" </dev/null
}

if [ "${1:-}" = --inside ]; then
    inside "$2"
    exit
fi

need_root
need_debootstrap
make_base
root=$(mktemp -d "$cache/root.XXXXXX")
finish() {
    if [ -n "${FRESH_KEEP:-}" ]; then
        say "kept: $root"
    else
        rm -rf --one-file-system "$root"
    fi
}
trap finish EXIT
tar -C "$root" -xf "$base"
chmod 755 "$root"
copy_settings "$root"
started=$(date +%s)
unshare --mount --pid --fork --kill-child --propagation private -- nice -n "${FRESH_NICE:-0}" "$0" --inside "$root"
say "ok: a minimal Debian, a clone, ${FRESH_ONLY:-demo and test}${FRESH_TESTS:+ ($FRESH_TESTS)}, in $(($(date +%s) - started)) s"
