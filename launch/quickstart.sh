#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated MIRAS: `bash launch/quickstart.sh`.
#
# Makes `.venv`, installs, renders the embedded data set, trains, and writes
# runs/quickstart/report/index.html. Run again, it goes on where it stopped. Options are
# those of `miras train`, e.g. --config.steps=200.
#
# MIRAS_EDITS=0.25: so many conversations go on from their mask, beside the usual data and
# run, e.g. in stages and with a state (docs/start.md):
#   MIRAS_EDITS=0.25 bash launch/quickstart.sh \
#     --config=configs/prist_quickstart.py:stages --config.model.state=dense
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh eval

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
miras="$VENV/bin/miras"
edits="${MIRAS_EDITS:-0}"
name=quickstart
if [ "$edits" != 0 ]; then name="quickstart_edits_$edits"; fi
data=data/$name
workdir=runs/$name

"$miras" data synth --out="$data" --conversations=18000 --short=6 --seed=0 \
  --edits="$edits"
"$miras" train --config=configs/prist_quickstart.py --workdir="$workdir" \
  --config.data.dir="$data" "$@"
"$miras" eval --checkpoint="$workdir" --data="$data" --split=val \
  --out="$workdir/report" --limit=300
echo "report: $PWD/$workdir/report/index.html"
