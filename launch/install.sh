# Sourced by quickstart.sh, test.sh and .ci/run: makes or reuses .venv with exactly the packages of
# a lock file. Sets ROOT (the checkout) and VENV_PYTHON; needs bash 3.2 or newer.
#
#   ensure_venv requirements        # for a run on a CPU
#   ensure_venv requirements-test   # for a run and the tests
#
# The environment variable PYTHON names the interpreter for .venv.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
VENV_PYTHON="$VENV/bin/python"

say() { printf 'star_jax: %s\n' "$*" >&2; }

# Prints an error in one line and exits with code $1.
die() {
  local code="$1"
  shift
  say "error: $*"
  exit "$code"
}

# Whether the lock files support the Python $1.
usable_python() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# Prints the first usable Python, or nothing. 3.13 comes late, since one package has no wheel for it
# and needs a C++ compiler.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.13 python3; do
    if usable_python "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# Prints the content that the stamp of lock file $1 must have. An editable install depends on the
# path of the checkout and on setup.py, so both count.
expected_stamp() {
  "$VENV_PYTHON" -I -S -c '
import hashlib, sys
root, *files = sys.argv[1:]
content = b"".join(open(file, "rb").read() for file in files)
print(sys.version.split()[0], hashlib.sha256(content).hexdigest(), root)
' "$ROOT" "$ROOT/launch/$1.lock" "$ROOT/setup.py"
}

stamp_file() { printf '%s\n' "$VENV/star_jax-$1.stamp"; }

# Whether the packages of lock file $1 are already in .venv.
is_installed() {
  [ -f "$(stamp_file "$1")" ] && usable_python "$VENV_PYTHON" &&
    [ "$(cat "$(stamp_file "$1")")" = "$(expected_stamp "$1")" ]
}

make_venv() {
  local python
  python="$(find_python)"
  if command -v uv >/dev/null; then
    say "making .venv with uv (${python:-Python 3.12, which uv downloads})"
    uv venv --quiet --clear --prompt star_jax --python "${python:-3.12}" "$VENV" ||
      die 1 "uv could not make $VENV; see its output above"
    return
  fi
  [ -n "$python" ] || die 1 "no Python 3.11, 3.12 or 3.13 found; install one, or uv, or name one" \
    "with PYTHON=/path/to/python3.12"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die 1 "$python has no venv module; install python3-venv (Debian, Ubuntu) or uv"
  say "making .venv with $("$python" --version)"
  "$python" -m venv --clear --prompt star_jax "$VENV" || die 1 "$python could not make $VENV"
}

# Ensures a .venv whose Python runs. One that was not made here is used as it is, never removed.
usable_venv() {
  if [ ! -e "$VENV" ]; then
    make_venv
  elif ! usable_python "$VENV_PYTHON"; then
    if [ -n "$(ls -A "$VENV")" ] && ! grep -qs '^prompt *=.*star_jax' "$VENV/pyvenv.cfg"; then
      die 1 "$VENV has no working Python 3.11, 3.12 or 3.13, and was not made here; move it away"
    fi
    say "the Python of .venv does not work: making .venv again"
    make_venv
  fi
}

# Installs the given requirements with uv or pip. Pip's output goes to a log, and the screen shows a
# count of packages.
install() {
  local log="$VENV/install.log"
  if command -v uv >/dev/null; then
    uv pip install --python "$VENV_PYTHON" "$@" && return
    die 1 "uv could not install the packages; see its output above. The next run resumes"
  fi
  "$VENV_PYTHON" -m pip --version >/dev/null 2>&1 || "$VENV_PYTHON" -m ensurepip >/dev/null
  if ! "$VENV_PYTHON" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 |
    tee "$log" | count_packages; then
    tail -n 15 "$log" >&2
    die 1 "pip could not install the packages (full output: $log). The next run resumes"
  fi
}

# Reads pip's output and shows progress: in one line on a terminal, else every 20 packages.
count_packages() {
  local line count=0
  while IFS= read -r line; do
    case "$line" in
      Collecting*)
        count=$((count + 1))
        if [ -t 2 ]; then
          printf '\r\033[Kstar_jax: package %d, %.60s' "$count" "${line#Collecting }" >&2
        elif [ $((count % 20)) -eq 0 ]; then
          say "package $count ..."
        fi
        ;;
      "Installing collected packages"*)
        [ ! -t 2 ] || printf '\r\033[K' >&2
        say "unpacking"
        ;;
    esac
  done
}

# Makes or reuses .venv with the packages of launch/$1.lock and star_jax itself, editable. The
# stamp is written last, so the next run resumes an interrupted install.
ensure_venv() {
  if is_installed "$1"; then
    return
  fi
  usable_venv
  rm -f "$(stamp_file requirements)" "$(stamp_file requirements-test)"
  say "installing the packages of launch/$1.lock into .venv (the first time takes a few minutes)"
  install -r "$ROOT/launch/$1.lock"
  # The lock file contains setuptools: no build environment, so nothing else is downloaded.
  install --quiet --no-deps --no-build-isolation --editable "$ROOT"
  write_stamp "$1"
  # The test packages contain the packages of a run.
  [ "$1" != requirements-test ] || write_stamp requirements
  say "installed"
}

write_stamp() {
  expected_stamp "$1" >"$VENV/stamp.part" && mv "$VENV/stamp.part" "$(stamp_file "$1")"
}
