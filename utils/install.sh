#!/usr/bin/env bash
# Sets up the Python environment that the recipes and the tests run in: exact versions,
# checked against the hashes in utils/lock. Run it as often as you like: it does only what
# is missing.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOCK=$ROOT/utils/lock
OLDEST=10 # Python 3.OLDEST to 3.NEWEST are tested with everything in the lock
NEWEST=13
NEEDED_GB=7

python=""
versions=locked
transformers=""
force=false

usage() {
    cat <<EOF
Usage: utils/install.sh [--python PYTHON] [--versions locked|newest|oldest]
                        [--transformers VERSION] [--force]

Installs espnet_mtla and what it needs into the active virtual environment, or else into
$ROOT/.venv (made when it is missing). Nothing outside of that
folder and the checkout is written, unless UV_CACHE_DIR names a cache.

  --python PYTHON    the interpreter that .venv is made with (the first of python3.11,
                     python3.12, python3.13, python3.10 and python3 that fits)
  --versions WHICH   locked: what utils/lock names (the default). newest: the newest
                     release of everything; oldest: the lower bounds in pyproject.toml.
                     These two go into .venv-newest and .venv-oldest
  --transformers VERSION
                     another locked release of Transformers, which is put into a folder
                     transformers-VERSION beside the installed one, for tests
  --force            install even if the stamp says that everything is there
EOF
}

say() { echo "install: $*"; }
die() {
    echo "error: $*" >&2
    exit 1
}

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --versions=* | --python=* | --transformers=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            --versions | --python | --transformers)
                [ $# -ge 2 ] || die "$1 needs a value (see --help)"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            --extras | --extras=*)
                die "--extras: the lock holds every part, so this option is gone; for" \
                    "some parts only: pip install \"${ROOT}[hf]\" (recipes hf lora ssl flash dev)"
                ;;
            --force) force=true && shift ;;
            -h | --help) usage && exit 0 ;;
            *) die "unknown option $1; known are --python, --versions, --transformers," \
                "--force, --help" ;;
        esac
    done
    case $versions in
        locked | newest | oldest) ;;
        *) die "--versions: '$versions' is none of locked, newest, oldest" ;;
    esac
    [ -z "$transformers" ] || [ -f "$LOCK/transformers-$transformers.txt" ] ||
        die "--transformers: '$transformers' is none of" \
            "$(find "$LOCK" -name 'transformers-*.txt' | sed 's/.*-\(.*\)\.txt/\1/' | sort | xargs)"
}

fits() { # fits PYTHON: true when its version is a supported one
    "$1" -c "import sys; sys.exit(not (3, $OLDEST) <= sys.version_info[:2] <= (3, $NEWEST))" \
        >/dev/null 2>&1
}

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }

find_python() { # prints the interpreter that the environment is made with
    local name names=(python3.11 python3.12 python3.13 python3.10 python3)
    [ -z "$python" ] || names=("$python")
    for name in "${names[@]}"; do
        if fits "$name"; then
            echo "$name"
            return
        fi
    done
    name=${python:-python3}
    die "$name is Python $(version_of "$name" || echo '(not found)'), and 3.$OLDEST to" \
        "3.$NEWEST are needed: install one of them (for example python3.11 with" \
        "python3.11-venv) and name it with --python"
}

make_venv() {
    local chosen
    chosen=$(find_python)
    say "making $env with $chosen ($(version_of "$chosen"))"
    if "$chosen" -c 'import ensurepip' 2>/dev/null; then
        "$chosen" -m venv "$env" || die "$chosen -m venv $env failed"
    elif command -v uv >/dev/null; then
        uv venv --quiet --python "$chosen" "$env" || die "uv venv failed"
    else
        die "$chosen cannot make virtual environments: apt-get install" \
            "python3-venv (as root), and run this again"
    fi
}

choose_environment() { # sets env and py
    env=${VIRTUAL_ENV:-}
    [ "${CONDA_DEFAULT_ENV:-base}" = base ] || env=${env:-${CONDA_PREFIX:-}}
    [ $versions = locked ] || env=$ROOT/.venv-$versions
    env=${env:-$ROOT/.venv}
    case $env in
        "$ROOT"/.venv*) [ -x "$env/bin/python3" ] || make_venv ;;
    esac
    py=$env/bin/python3
    [ -x "$py" ] || die "$env is active but has no bin/python3: leave it (deactivate)" \
        "and run this again"
    [ -z "$python" ] || [ "$(version_of "$python")" = "$(version_of "$py")" ] ||
        die "--python: $env is there already, with Python $(version_of "$py"):" \
            "deactivate or remove it first"
    fits "$py" || die "$env holds Python $(version_of "$py"), and 3.$OLDEST to" \
        "3.$NEWEST are needed: leave it (deactivate), or remove it if it is .venv," \
        "and run this again"
}

fingerprint() { # one line for the requirements, the interpreter and the checkout
    {
        cat "$ROOT/pyproject.toml" "$ROOT/setup.py" "$LOCK"/*.txt
        version_of "$py"
        echo "$ROOT"
    } | sha256sum | cut -d' ' -f1
}

is_installed() { # the stamp is of these requirements, and the packages are there
    $force && return 1
    [ $versions = locked ] || return 1
    grep -qsx "$(fingerprint)" "$stamp" || return 1
    "$py" -c 'import sys
from importlib.util import find_spec
sys.exit(any(find_spec(name) is None for name in sys.argv[1:]))' torch espnet_mtla
}

check_space() {
    "$py" -c 'from importlib.util import find_spec as f; exit(f("torch") is None)' && return
    local free
    free=$(df -Pk "$env" | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge $NEEDED_GB ] || die "$env: ${free} GB free, and the packages need" \
        "$NEEDED_GB GB: free some, or activate a virtual environment on a bigger disk"
}

use_certificates() { # sets bundle: the authorities that pip and uv trust
    # Proxies that sign by an authority of their own are known to the system, or named in
    # one of these variables or in pip's settings. uv and older releases of pip would only
    # trust the authorities that they bring along.
    local name file
    bundle=""
    for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE; do
        [ -n "${!name:-}" ] || continue
        [ -e "${!name}" ] || die "$name: ${!name}: no such file"
        bundle=${!name}
        break
    done
    [ -n "$bundle" ] || bundle=$("$py" -m pip config get global.cert 2>/dev/null) || bundle=""
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        [ -n "$bundle" ] || [ ! -f $file ] || bundle=$file
    done
    [ -z "$bundle" ] || export PIP_CERT=$bundle
    if [ -d "$bundle" ]; then
        unset SSL_CERT_FILE
        export SSL_CERT_DIR=$bundle
    elif [ -n "$bundle" ]; then
        export SSL_CERT_FILE=$bundle
    fi
}

explain() { # explain LOG WHAT: ends with the reason that an installer's log gives
    if grep -qiE 'peer certificate|certificate.verify|ssl certificate|UnknownIssuer' "$1"; then
        die "the certificate of the package index, or of the proxy before it, is not" \
            "signed by an authority in ${bundle:-the list that the installer brings}: name" \
            "the file with the right one, SSL_CERT_FILE=/path/to/ca.pem (details in $1)"
    elif grep -qiE 'hash mismatch|do not match the hashes' "$1"; then
        die "a package is not the one that utils/lock names (see above): if the index is" \
            "right, run utils/lock.sh and commit what it changes"
    elif grep -qiE 'dns error|name resolution|error sending request|new connection|timed out|unreachable' "$1"; then
        die "no network: cannot reach the package index (behind a proxy, set https_proxy;" \
            "details in $1)"
    fi
    die "$2"
}

find_uv() { # sets uv: the installer, put into the environment itself when missing
    local log=$env/install.log
    if "$py" -m pip --version >/dev/null 2>&1; then
        say "fetching the installer ($(sed -n 's/^\(uv==[^ ]*\).*/\1/p' "$LOCK/installer.txt"))"
        : >"$log" # pip appends to it, and only there says why it found nothing
        "$py" -m pip install --quiet --log "$log" --no-cache-dir \
            --disable-pip-version-check --require-hashes \
            --requirement "$LOCK/installer.txt" ||
            explain "$log" "pip could not fetch uv (see above, and $log)"
        uv=("$py" -m uv)
    elif "$py" -m uv --version >/dev/null 2>&1; then
        uv=("$py" -m uv)
    elif command -v uv >/dev/null; then
        uv=(uv)
    else
        die "$env has neither pip nor uv: run '$py -m ensurepip', or install uv"
    fi
    export UV_CACHE_DIR=${UV_CACHE_DIR:-$env/.cache-uv}
    local index
    index=${PIP_INDEX_URL:-$("$py" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
}

pip_install() { # pip_install OPTION ...: by uv, with its words shown and kept
    local log=$env/install.log
    if "${uv[@]}" pip install --python "$py" "$@" 2>&1 | tee "$log"; then return; fi
    explain "$log" "the installation into $env broke off (see the lines above); run this again"
}

install_packages() {
    local parts="[recipes,hf,lora,ssl,dev]" ranges
    # Byte code now: where Python is told to write none, each command would compile torch
    # and espnet anew, and a recipe runs dozens of them.
    if [ $versions = locked ]; then
        say "installing what $LOCK/environment.txt names into $env" \
            "(up to 3 GB to fetch the first time)"
        # The lock is complete, and holds versions that ESPnet's own bounds leave out.
        pip_install --no-deps --require-hashes --compile-bytecode \
            --build-constraints "$LOCK/build.txt" \
            --requirement "$LOCK/environment.txt"
        pip_install --no-deps --no-build-isolation --quiet --editable "$ROOT"
        return
    fi
    ranges=(--overrides "$LOCK/overrides.txt" --excludes "$LOCK/excluded.txt")
    [ $versions = newest ] || ranges+=(--resolution lowest-direct)
    say "installing the $versions versions into $env (up to 3 GB to fetch)"
    pip_install --upgrade --compile-bytecode "${ranges[@]}" --editable "$ROOT$parts"
}

install_transformers() { # the other release, in a folder to put first on PYTHONPATH
    pip_install --quiet --no-deps --require-hashes \
        --target "$env/transformers-$transformers" \
        --requirement "$LOCK/transformers-$transformers.txt"
}

main() {
    parse_options "$@"
    choose_environment
    stamp=$env/.espnet_mtla_stamp
    local there=false
    if is_installed; then
        there=true
        say "everything is there: $env"
        [ -n "$transformers" ] || return 0
    fi
    check_space
    use_certificates
    find_uv
    if ! $there; then
        rm -f "$stamp" # what breaks off must not pass for whole
        install_packages
        [ $versions != locked ] || fingerprint >"$stamp"
    fi
    [ -z "$transformers" ] || install_transformers
    # The default cache is this environment's own: its files are linked to from the
    # environment, and once all is installed it is of no more use.
    [ "$UV_CACHE_DIR" != "$env/.cache-uv" ] || rm -rf "$UV_CACHE_DIR"
    say "done in $SECONDS s: $env"
    [ "${VIRTUAL_ENV:-}" = "$env" ] || say "to use it by hand: source $env/bin/activate"
}

main "$@"
