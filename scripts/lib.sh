# Sourced by the other scripts: installs what is missing.

# apt packages that a build needs, and those that only the tests need.
BUILD_PACKAGES=(build-essential pkg-config fuse3)
TEST_PACKAGES=(acl attr rsync sqlite3 git python3 e2fsprogs iproute2)
# Versions that the lists of known results were made with.
PJDFSTEST_VERSION=0.2.2
FSX_VERSION=0.3.2

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@" || die "needs root to run: $*"; fi
}

# Installs those of the given Debian packages that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep 'ok installed' >/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# need_cargo_tool BINARY CRATE VERSION
need_cargo_tool() {
    command -v "$1" >/dev/null && return
    say "installing $2"
    cargo install --quiet --locked "$2" ${3:+--version "$3"}
}

need_rust() {
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    command -v cargo >/dev/null || die "Rust is missing: install it from https://rustup.rs, version 1.90 or later"
}
