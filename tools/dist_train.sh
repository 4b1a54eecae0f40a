#!/usr/bin/env bash
# Train on several GPUs (or CPU processes): tools/dist_train.sh CONFIG GPUS [ARGS of tools/train.py]
set -euo pipefail
exec "$(dirname "$0")/dist_run.sh" "$2" train.py "$1" "${@:3}"
