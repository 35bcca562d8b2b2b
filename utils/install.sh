#!/usr/bin/env bash
# Sets up the Python environment that the recipes and the tests run in. Run it as often
# as you like: it does only what is missing.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OLDEST=10 # Python 3.OLDEST to 3.NEWEST have been tried with everything below
NEWEST=12
NEEDED_GB=6

extras="recipes"
python=""
force=false

usage() {
    cat <<EOF
Usage: utils/install.sh [--extras "NAME ..."] [--python PYTHON] [--force]

Installs espnet_mtla and what it needs into the virtual environment that is active, or
else into $ROOT/.venv (made when it is missing). Nothing outside of
that folder and the checkout is written, unless UV_CACHE_DIR names a cache.

  --extras "NAME ..."  parts to install, of: recipes hf ssl flash dev ($extras)
  --python PYTHON      the interpreter that .venv is made with (the first of python3.11,
                       python3.12, python3.10 and python3 that fits)
  --force              install even if the stamp says that all is there
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
            --extras=* | --python=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            --extras | --python)
                [ $# -ge 2 ] || die "$1 needs a value (see --help)"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            --force) force=true && shift ;;
            -h | --help) usage && exit 0 ;;
            *) die "unknown option $1; known are --extras, --python, --force, --help" ;;
        esac
    done
    extras=${extras//,/ }
    local name
    for name in $extras; do
        case $name in
            recipes | hf | ssl | flash | dev) ;;
            *) die "--extras: unknown part '$name'; known are recipes hf ssl flash dev" ;;
        esac
    done
}

fits() { # fits PYTHON: true when its version is one that we know to work
    "$1" -c "import sys; sys.exit(not (3, $OLDEST) <= sys.version_info[:2] <= (3, $NEWEST))" \
        >/dev/null 2>&1
}

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }

find_python() { # prints the interpreter that .venv is made with
    local name
    for name in ${python:-python3.11 python3.12 python3.10 python3}; do
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
    say "making $ROOT/.venv with $chosen ($(version_of "$chosen"))"
    if "$chosen" -c 'import ensurepip' 2>/dev/null; then
        "$chosen" -m venv "$ROOT/.venv" || die "$chosen -m venv $ROOT/.venv failed"
    elif command -v uv >/dev/null; then
        uv venv --quiet --python "$chosen" "$ROOT/.venv" || die "uv venv failed"
    else
        die "$chosen cannot make virtual environments: apt-get install" \
            "python3-venv (as root), and run this again"
    fi
}

choose_environment() { # sets env and py
    env=${VIRTUAL_ENV:-}
    [ "${CONDA_DEFAULT_ENV:-base}" = base ] || env=${env:-${CONDA_PREFIX:-}}
    if [ -z "$env" ]; then
        env=$ROOT/.venv
        [ -x "$env/bin/python3" ] || make_venv
    fi
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

fingerprint() { # one line for the requirement files, the interpreter and the checkout
    {
        cat "$ROOT/setup.py" "$ROOT/utils/constraints.txt" "$ROOT/utils/overrides.txt"
        version_of "$py"
        echo "$ROOT"
    } | sha256sum | cut -d' ' -f1
}

is_installed() { # every part asked for stands in the stamp, and the packages are there
    local name
    $force && return 1
    for name in core $extras; do
        grep -qsx "$(fingerprint) $name" "$stamp" || return 1
    done
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

find_uv() { # sets uv: the installer, put into the environment itself when missing
    if "$py" -m uv --version >/dev/null 2>&1; then
        uv=("$py" -m uv)
    elif "$py" -m pip --version >/dev/null 2>&1; then
        say "fetching the installer (uv)"
        "$py" -m pip install --quiet --no-cache-dir --disable-pip-version-check uv ||
            die "pip could not fetch uv: is there a network (and a proxy, if you need" \
                "one, in https_proxy)? If so, see pip's words above"
        uv=("$py" -m uv)
    elif command -v uv >/dev/null; then
        uv=(uv)
    else
        die "$env has neither pip nor uv: run '$py -m ensurepip', or install uv"
    fi
    export UV_CACHE_DIR=${UV_CACHE_DIR:-$env/.cache-uv}
    local index
    index=$("$py" -m pip config get global.index-url 2>/dev/null || true)
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
}

install_packages() {
    local parts=${extras:+[${extras// /,}]} files resolved log=$env/install.log
    files=(--override "$ROOT/utils/overrides.txt" --constraint "$ROOT/utils/constraints.txt")
    say "looking up versions"
    if ! resolved=$(cd "$ROOT" && echo ".$parts" |
        "${uv[@]}" pip compile --no-annotate --no-header --python "$py" "${files[@]}" - \
            2>"$log"); then
        if grep -qiE 'dns|connect|timed out|network|sending request' "$log"; then
            die "no network: cannot reach the package index (behind a proxy, set" \
                "https_proxy; details in $log)"
        fi
        cat "$log" >&2
        die "no set of versions fits together (see above)"
    fi
    say "installing $(wc -l <<<"$resolved") packages into $env" \
        "(up to 3 GB to fetch the first time)"
    # Byte code now: where Python is told to write none, each command would compile torch
    # and espnet anew, and a recipe runs dozens of them.
    "${uv[@]}" pip install --python "$py" "${files[@]}" --compile-bytecode \
        --editable "$ROOT$parts" ||
        die "the installation into $env broke off (see the lines above); run this" \
            "again, and it goes on where it stopped"
}

main() {
    parse_options "$@"
    choose_environment
    stamp=$env/.espnet_mtla_stamp
    if is_installed; then
        say "everything is there: $env (core $extras)"
        return
    fi
    check_space
    find_uv
    install_packages
    # The default cache is this environment's own: its files are linked to from the
    # environment, and once all is installed it is of no more use.
    [ "$UV_CACHE_DIR" != "$env/.cache-uv" ] || rm -rf "$UV_CACHE_DIR"
    local name
    touch "$stamp"
    { grep "^$(fingerprint) " "$stamp" || true; } >"$stamp.new"
    for name in core $extras; do echo "$(fingerprint) $name"; done >>"$stamp.new"
    sort -u "$stamp.new" >"$stamp"
    rm "$stamp.new"
    say "done in $SECONDS s: $env (core $extras)"
    [ "${VIRTUAL_ENV:-}" = "$env" ] || say "to use it by hand: source $env/bin/activate"
}

main "$@"
