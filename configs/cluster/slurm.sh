#!/bin/bash
# A search on a Slurm cluster: Ray on all nodes of the allocation, the driver on the first of them.
#
#   sbatch slurm.sh thai.yaml                 # again: goes on where the run stopped
#   sbatch --requeue slurm.sh thai.yaml       # Slurm itself starts it again after a lost node
#
#SBATCH --job-name=mergefront
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@900
# Slurm sends the signal 15 minutes before the end: running trials are finished, the rest goes on in
# the next allocation. Better: a `budget: {timeout: 11h}` in the search file, which leaves time for
# confirmation.
#SBATCH --no-kill

set -euo pipefail
FILE=${1:?usage: sbatch slurm.sh FILE.yaml}
RUNS=${RUNS:-$PWD/runs}      # on storage that all nodes see
VENV=${VENV:-$PWD/.venv}
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}   # two jobs may share a node's network

export PATH="$VENV/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
# Whoever reaches Ray's ports runs code in your name: every job has a token of its own.
umask 077
TOKENS=$(mktemp -d "$PWD/.mergefront-XXXXXX")
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$TOKENS/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$TOKENS/token"

NODES=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
HEAD=${NODES[0]}
ADDRESS=$(srun --overlap --nodes=1 --ntasks=1 -w "$HEAD" hostname --ip-address | awk '{print $1}')

end() {
  kill "${RAY[@]}" 2> /dev/null || true
  wait || true
  rm -rf "$TOKENS"
}
RAY=()
trap end EXIT

# --temp-dir on the node's own disk: sockets and spilled objects do not belong on shared storage.
srun --overlap --nodes=1 --ntasks=1 -w "$HEAD" \
  ray start --head --block --node-ip-address="$ADDRESS" --port="$PORT" --include-dashboard=false \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" &
RAY+=($!)
for _ in {1..150}; do   # a slow shared storage may take minutes to start Python
  ray status --address="$ADDRESS:$PORT" > /dev/null 2>&1 && break
  kill -0 "${RAY[0]}" 2> /dev/null || { echo "slurm.sh: Ray's head on $HEAD has ended" >&2; exit 1; }
  sleep 2
done
for NODE in "${NODES[@]:1}"; do
  srun --overlap --nodes=1 --ntasks=1 -w "$NODE" ray start --block --address="$ADDRESS:$PORT" &
  RAY+=($!)
done

# Workers start as their nodes join; the search needs not wait for all of them. The signal goes to
# the driver, which then finishes its running trials.
export RAY_ADDRESS="$ADDRESS:$PORT"
mergefront run "$FILE" --runs "$RUNS" &
DRIVER=$!
trap 'kill -TERM $DRIVER' TERM
CODE=0
wait "$DRIVER" || CODE=$?
# The signal ends the first wait at once; the driver takes as long as its trials.
while kill -0 "$DRIVER" 2> /dev/null; do
  CODE=0
  wait "$DRIVER" || CODE=$?
done
exit "$CODE"
