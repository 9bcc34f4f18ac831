#!/usr/bin/env bash
# A labelling run on several nodes of SLURM, a worker for each of their GPUs:
#
#   IMAGES=/shared/photos CLASSES=/shared/classes.yaml RUN=/shared/run sbatch --nodes=4 deploy/slurm.sh --size 1000
#
# What stands behind the script goes to groundlabel annotate. The folders are storage that every node has under the same
# path, and groundlabel is installed in an environment that is active on every node. The same call again goes on with the
# run. The nodes are the job's alone, because at its end Ray is stopped on them. What it needs: docs/cluster.md.
#SBATCH --job-name=groundlabel
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --output=groundlabel-%j.log
set -euo pipefail

: "${IMAGES:?names the images}" "${CLASSES:?names the ontology}" "${RUN:?names the run folder}"

# Ray's ports are open to the network: whoever has no token is refused.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.groundlabel-token-$SLURM_JOB_ID"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=0 \
    ray symmetric-run --address "$head:$((20000 + SLURM_JOB_ID % 20000))" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    groundlabel annotate "$IMAGES" --classes "$CLASSES" --output "$RUN" --address auto "$@"
