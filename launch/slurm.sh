#!/bin/bash
# Train on GPU nodes under SLURM: sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=configs/a.py --workdir=...
#
# One process per node, which uses all GPUs of its node; jax finds the others from SLURM's environment. Submit from the
# repository, with its .venv (pip install -e ".[cuda]") and the work dir on a file system that all nodes see. The job is
# told to stop five minutes before its time is over, saves, and may be requeued: submitted again, it goes on from its
# last checkpoint, on any number of nodes. LAUNCHER=launch/prepare.py runs that instead: each node makes its share.
#SBATCH --job-name=motionv2v
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%j.txt
set -euo pipefail
# jax's own reading of SLURM gives each task one GPU; here a task has all of its node.
gpus=${SLURM_GPUS_ON_NODE:?the job has no GPUs, submit with --gpus-per-node=N}
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
export JAX_LOCAL_DEVICE_IDS
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 .venv/bin/python "${LAUNCHER:-launch/train.py}" "$@"
