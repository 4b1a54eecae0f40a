#!/usr/bin/env bash
# Run a tool in several processes, on GPUs or the CPU: tools/dist_run.sh GPUS TOOL ARGS
# On one machine a free port is chosen unless PORT is set. Several machines need the same PORT.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    PORT=$(python -c "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1])")
fi
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$1" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/$2" --launcher pytorch "${@:3}"
