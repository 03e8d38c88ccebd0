#!/usr/bin/env bash
# The whole published path at tiny size, in minutes: `bash launch/rehearsal.sh`.
#
# Published parts (random ones, in their published layouts) -> convert -> stage 1 ->
# stage 2 -> eval -> chat -> export to PyTorch and PEFT -> read back, equal bit for bit.
# Only sizes, steps and weights differ from docs/real_run.md.
#
# Everything is in runs/rehearsal (MIRAS_REHEARSAL_DIR names another folder). Run again,
# it goes on where it stopped. Options are those of `miras train`, for both stages.
# MIRAS=/path/to/miras takes an installed command and installs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${MIRAS:-}" ]; then
  source launch/env.sh eval
  MIRAS="$VENV/bin/miras"
fi
SECONDS=0

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# Two steps of a tiny model: compiling is most of the time.
export XLA_FLAGS="${XLA_FLAGS:---xla_backend_optimization_level=0}"
dir="${MIRAS_REHEARSAL_DIR:-runs/rehearsal}"
parts="$dir/parts/vicuna,$dir/parts/clip,$dir/parts/convnext,$dir/parts/sam.pth"
new=projector,mining,seg_prompt
few="--config.steps=2 --config.batch_size=4 --config.optim.accumulation=2
  --config.optim.warmup_steps=0"

mkdir -p "$dir"
[ -e "$dir/options" ] || echo "$*" >"$dir/options"
if [ "$(cat "$dir/options")" != "$*" ]; then
  echo "error: $dir was begun with the options '$(cat "$dir/options")'; delete it" >&2
  exit 1
fi

say() { echo "rehearsal, ${SECONDS} s: $*"; }
# `convert DST OPTIONS`: a folder that is there is whole.
convert() {
  if [ -e "$1" ]; then
    echo "$1: there already"
  else
    "$MIRAS" convert --dst="$@"
  fi
}
train() {
  # shellcheck disable=SC2086  # $few is several words
  "$MIRAS" train --config="configs/miras_7b_$1.py:size=tiny" --workdir="$dir/$1" \
    --config.init_from="$2" --config.mixture=none --config.data.dir="$dir/data" \
    $few "${@:3}"
}

say "random stand-ins for Vicuna, CLIP, ConvNeXt and SAM, and rendered conversations"
convert "$dir/parts" --stand-in=tiny
"$MIRAS" data synth --out="$dir/data" --conversations=120

say "convert: published parts to one start, with new parts between them"
convert "$dir/start" --src="$parts" --new="$new" --model=tiny

say "stage 1, from the converted parts"
train stage1 "$dir/start" "$@"
"$MIRAS" convert --compare="$dir/start,$dir/stage1" --leaves='^(clip|convnext)/'

say "stage 2, from stage 1"
train stage2 "$dir/stage1" "$@"
"$MIRAS" convert --compare="$dir/stage1,$dir/stage2" --leaves='^(projector|mining)/'

say "eval of stage 2"
if [ -e "$dir/report/index.html" ]; then
  echo "$dir/report: there already"
else
  "$MIRAS" eval --checkpoint="$dir/stage2" --data="$dir/data" --out="$dir/report" \
    --limit=4 --batch_size=4 --max_new_tokens=8
fi

say "chat with stage 2, two questions"
# No pipe into it: where chat ended before it has read, the writer's signal would end this.
"$MIRAS" chat --checkpoint="$dir/stage2" --image="$dir/data/images/synth_000001.jpg" \
  --out="$dir/masks" --max_new_tokens=8 \
  <<<$'What is there?\nSegment the red one.' | tee "$dir/chat.txt"
if [ "$(grep -c '^miras> ' "$dir/chat.txt")" != 2 ]; then
  echo "error: two questions, but not two answers" >&2
  exit 1
fi

say "export to PyTorch, read back, compare"
convert "$dir/torch" --src="$dir/stage2" --to=miras
convert "$dir/torch_back" --src="$dir/torch"
"$MIRAS" convert --compare="$dir/stage2,$dir/torch_back"

say "export of the adapters to PEFT, read back onto the published parts, compare"
convert "$dir/peft" --src="$dir/stage2" --to=peft
convert "$dir/peft_back" --src="$parts,$dir/peft" --new="$new" --model=tiny
"$MIRAS" convert --compare="$dir/stage2,$dir/peft_back" --leaves='/lora_[ab]$'

echo "rehearsal: ok in $SECONDS s"
