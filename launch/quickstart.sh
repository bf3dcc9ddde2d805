#!/usr/bin/env bash
# STaR on arithmetic with the tiny model, on this machine: see --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: ./launch/quickstart.sh [options] [--gin.NAME=VALUE ...]

Makes .venv, trains a tiny base model on arithmetic, and runs STaR on it. The same command resumes an
interrupted run, and shows the result of a finished one.

  --seed N              another random seed, also for the base model; runs are in DIR/seed_N
  --dir PATH            DIR for the runs (default: runs/quickstart in the checkout)
  --no_rationalization  STaR without rationalization, from the same base; after both, the report
                        shows them side by side
  --gin.NAME=VALUE      a gin binding for the STaR run
  --help                this text
TEXT
}

CALLER_DIR="$PWD"
. "$(dirname "${BASH_SOURCE[0]}")/install.sh"

fail() { # a wrong command line
  printf 'quickstart.sh: error: %s (see --help)\n' "$*" >&2
  exit 2
}

seed=0
dir_option=
arm=star
star_bindings=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seed | --dir)
      [ $# -gt 1 ] || fail "$1 needs a value"
      set -- "$1=$2" "${@:3}"
      continue
      ;;
    --seed=*) seed="${1#*=}" ;;
    --dir=*)
      dir_option="${1#*=}"
      [ -n "$dir_option" ] || fail "--dir needs a value"
      ;;
    --no_rationalization) arm=star_no_rationalization ;;
    --gin.*=*) star_bindings+=("$1") ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "unknown option '$1'" ;;
  esac
  shift
done
[[ "$seed" =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "--seed must be a whole number, not '$seed'"

# Paths are short if the current folder is the checkout.
dir="${dir_option:-runs/quickstart}"
if [[ "$dir" != /* && "$CALLER_DIR" != "$ROOT" ]]; then
  if [ -n "$dir_option" ]; then dir="$CALLER_DIR/$dir"; else dir="$ROOT/$dir"; fi
fi
[ "$seed" = 0 ] || dir="$dir/seed_$seed"
[ "$arm" = star ] || star_bindings=(--gin.RATIONALIZE=False ${star_bindings[@]+"${star_bindings[@]}"})

# Prints a text as a gin value.
quoted() {
  local text="${1//\\/\\\\}"
  printf '"%s"' "${text//\"/\\\"}"
}

star_jax() { "$VENV_PYTHON" -m star_jax.main "$@"; }

# The runs with and without rationalization share the base, so the comparison is fair.
make_base() {
  [ -d "$dir/base" ] || say "a base model, once: about 3 minutes on two idle cores"
  star_jax --run_mode=pretrain --gin_file=runs/pretrain_tiny.gin \
    --gin.MODEL_DIR="$(quoted "$dir/base")" --gin.SEED="$seed"
}

run_star() {
  [ -d "$dir/$arm" ] || say "STaR: about 4 minutes on two idle cores"
  star_jax --run_mode=star --gin_file=runs/quickstart.gin \
    --gin.MODEL_DIR="$(quoted "$dir/$arm")" --gin.MODEL_CHECKPOINT="$(quoted "$dir/base")" \
    --gin.SEED="$seed" ${star_bindings[@]+"${star_bindings[@]}"}
}

compare_arms() {
  local models
  models="[$(quoted "$dir/star"), $(quoted "$dir/star_no_rationalization")]"
  star_jax --run_mode=report --gin.report.model_dirs="$models"
}

suggest() {
  local again=./launch/quickstart.sh
  [ -z "$dir_option" ] || again+=" --dir $(printf %q "$dir_option")"
  local same_seed="$again"
  [ "$seed" = 0 ] || same_seed+=" --seed $seed"
  printf '\nWhat to try next:\n'
  if [ ! -d "$dir/star_no_rationalization" ]; then
    advise "$same_seed --no_rationalization" 'without hints, for comparison'
  elif [ ! -d "$dir/star" ]; then
    advise "$same_seed" 'with rationalization, for comparison'
  fi
  advise "$again --seed $((seed + 1))" 'another seed: how much was chance?'
  advise './launch/test.sh' 'the tests'
  advise '.venv/bin/python -m star_jax.main --help' 'your own data, other models, a TPU'
}

advise() { printf '  %-52s %s\n' "$1" "$2"; }

trap 'say "interrupted; run it again to resume"; exit 130' INT
ensure_venv requirements
cd "$ROOT"
make_base
run_star
if [ -d "$dir/star" ] && [ -d "$dir/star_no_rationalization" ]; then
  compare_arms
fi
suggest
printf '\nDone in %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
