# Sourced by the other scripts: installs what is missing.

# apt packages that a build needs, and those that only the tests need.
BUILD_PACKAGES=(build-essential pkg-config fuse3)
TEST_PACKAGES=(acl attr rsync sqlite3 git python3 python3-venv e2fsprogs iproute2 curl chromium chromium-driver npm prometheus)
# Versions that the lists of known results were made with.
PJDFSTEST_VERSION=0.2.2
FSX_VERSION=0.3.2
HDFS_VERSION=2.7.3
FSSPEC_VERSION=2026.9.0
AXE_VERSION=4
PYSPARK_VERSION=4.3.0
# Where the tests of the gateway find what is no Debian package.
TEST_TOOLS=target/test-tools

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

# The Python clients of WebHDFS, and the accessibility checker of the page.
need_gateway_tools() {
    [ -x "$TEST_TOOLS/venv/bin/python" ] || python3 -m venv "$TEST_TOOLS/venv"
    "$TEST_TOOLS/venv/bin/python" -c 'import hdfs, fsspec, requests' 2>/dev/null ||
        "$TEST_TOOLS/venv/bin/pip" --quiet install "hdfs==$HDFS_VERSION" "fsspec==$FSSPEC_VERSION" requests
    [ -f "$TEST_TOOLS/node_modules/axe-core/axe.min.js" ] ||
        npm install --silent --no-save --prefix "$TEST_TOOLS" "axe-core@$AXE_VERSION"
}

# Hadoop's own client: the jars come inside a Python package of 450 MB.
need_hadoop() {
    [ -d "$TEST_TOOLS/hadoop" ] && return
    local dir
    dir=$(mktemp -d)
    say "downloading Hadoop's client"
    "$TEST_TOOLS/venv/bin/pip" --quiet download --no-deps --no-binary :all: --dest "$dir" "pyspark==$PYSPARK_VERSION" &&
        tar -xzf "$dir"/pyspark-*.tar.gz -C "$dir" --wildcards '*/deps/jars/*' &&
        mkdir -p "$TEST_TOOLS/hadoop" &&
        cp "$dir"/pyspark-*/deps/jars/{hadoop-client-,slf4j-api-,jcl-over-slf4j-,log4j-,commons-cli-}*.jar "$TEST_TOOLS/hadoop/"
    rm -rf "$dir"
}
