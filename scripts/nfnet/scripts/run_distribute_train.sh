#!/usr/bin/env bash
# Train on several devices of this machine: bash scripts/run_distribute_train.sh DEVICES RECIPE FOLDER [NAME=VALUE ...]
# They meet at the port MASTER_PORT of the environment, or at that of msrun.
set -eu
usage="usage: run_distribute_train.sh DEVICES RECIPE FOLDER [NAME=VALUE ...]"
devices=${1:?$usage} recipe=${2:?$usage} folder=${3:?$usage}
shift 3
exec msrun --worker_num="$devices" --local_worker_num="$devices" --join=True --log_dir="$folder/workers" \
    --master_port="${MASTER_PORT:-8118}" \
    "$(dirname -- "${BASH_SOURCE[0]}")/../train.py" "$recipe" --out "$folder" --set "$@"
