#!/usr/bin/env bash
# Runs the tests: ./launch/test.sh [any arguments of pytest], for example
#   ./launch/test.sh -k packing      ./launch/test.sh -m slow      ./launch/test.sh -n 4
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/install.sh"

ensure_venv requirements-test
cd "$ROOT"
# Without arguments: all tests in two processes, each file in one of them.
[ $# -gt 0 ] || set -- -n 2 --dist loadfile
exec "$VENV_PYTHON" -m pytest "$@"
