#!/usr/bin/env bash
# Train on one device: bash scripts/run_standalone_train.sh RECIPE FOLDER [NAME=VALUE ...]
set -eu
usage="usage: run_standalone_train.sh RECIPE FOLDER [NAME=VALUE ...]"
recipe=${1:?$usage} folder=${2:?$usage}
shift 2
exec python "$(dirname -- "${BASH_SOURCE[0]}")/../train.py" "$recipe" --out "$folder" --set "$@"
