#!/usr/bin/env bash
# One part of a synthetic DATASET a task of a Slurm array, and the dataset of all parts once they're done:
#   sbatch --array=1-8 scripts/synthesize_slurm.sh CONFIG.yaml [key.path=value ...]
# All tasks must see the output's folder. A task that was cut off, requeued or lost costs its shards under way: submit the
# same line again. The last job draws what is still missing and puts the dataset together. Without Slurm:
#   SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=1 scripts/synthesize_slurm.sh CONFIG.yaml
#SBATCH --job-name=synthesize
#SBATCH --cpus-per-task=4
#SBATCH --requeue
set -euo pipefail
: "${1:?give CONFIG.yaml, and key.path=value where something differs}"
: "${SLURM_ARRAY_TASK_ID:?submit it with --array=1-N}"

# Slurm runs a copy of this file, but in the folder where it was submitted.
synthcxr synthesize "$@" "part=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"

if [ "$SLURM_ARRAY_TASK_ID" = "$SLURM_ARRAY_TASK_COUNT" ]; then
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        # This task's own end can't be waited for from within it; the job begins when all others have ended, too.
        sbatch --dependency="afterany:$SLURM_ARRAY_JOB_ID,singleton" --cpus-per-task="${SLURM_CPUS_PER_TASK:-4}" \
            --job-name=synthesize-whole --wrap="$(printf '%q ' synthcxr synthesize "$@")"
    else
        synthcxr synthesize "$@"
    fi
fi
