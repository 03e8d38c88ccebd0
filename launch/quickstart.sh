#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated MIRAS: `bash launch/quickstart.sh`.
#
# Makes `.venv`, installs, renders the embedded data set, trains, and writes
# runs/quickstart/report/index.html. Run again, it goes on where it stopped. Options are
# those of `miras train`, e.g. --config.steps=200.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh eval

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
miras="$VENV/bin/miras"
data=data/quickstart
workdir=runs/quickstart

"$miras" data synth --out="$data" --conversations=18000 --short=6 --seed=0
"$miras" train --config=configs/prist_quickstart.py --workdir="$workdir" \
  --config.data.dir="$data" "$@"
"$miras" eval --checkpoint="$workdir" --data="$data" --split=val \
  --out="$workdir/report" --limit=300
echo "report: $PWD/$workdir/report/index.html"
