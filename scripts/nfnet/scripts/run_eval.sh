#!/usr/bin/env bash
# Evaluate what was trained: bash scripts/run_eval.sh RECIPE CHECKPOINT [NAME=VALUE ...]
set -eu
usage="usage: run_eval.sh RECIPE CHECKPOINT [NAME=VALUE ...]"
recipe=${1:?$usage} checkpoint=${2:?$usage}
shift 2
exec python "$(dirname -- "${BASH_SOURCE[0]}")/../eval.py" "$recipe" "$checkpoint" --set "$@"
