#!/bin/bash
# Train on all hosts of a TPU pod slice (TPU VMs): launch/tpu_pod.sh NAME ZONE --config=configs/a.py --workdir=...
#
# Runs launch/train.py over ssh on every worker of the slice NAME at once; jax finds the others (--coordinator=auto).
# Every worker needs the repository in ~/motionv2v with its .venv (pip install -e ".[tpu]"), and the work dir and data
# on a file system that all see, such as a mounted bucket or Filestore. If one worker dies the others stop within a
# minute; run the same command again to go on from the last checkpoint, on this slice or on another size.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: launch/tpu_pod.sh NAME ZONE --config=configs/a.py --workdir=DIR [flags of launch/train.py]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
command="cd motionv2v && .venv/bin/python launch/train.py --coordinator=auto$(printf ' %q' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
