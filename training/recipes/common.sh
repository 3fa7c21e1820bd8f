# shellcheck shell=bash
# Runs of a recipe: sourced by training/recipes/tiny and training/recipes/emoji, in the repository root, after
# `set -- OUT [--check RUN]`. They set these:
#   logs     folder with the losses that were recorded, RUN.csv
#   kept     folder with the weights that checks start from, because they do not train them first
#   preset   directory with model.json and tokenizer for the next runs
# and have these: out, bin (BIN, build/release/bin if not set), check (the run that --check names, or nothing).
# shellcheck disable=SC2034,SC2154
bin=${BIN:-build/release/bin}
out=${1:?"usage: $0 OUT [--check RUN]"}
check=
if [[ ${2:-} == --check ]]; then check=${3:?"--check needs the name of a run"}; fi
checked=false

# How a run is done: by one process, or by two that share each batch.
alone() { "$bin/kandinsky-train" "$@" --threads "${THREADS:-1}"; }

pair() {
  local status=0 second
  local shared=(env WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 "MASTER_PORT=${MASTER_PORT:-29511}")
  "${shared[@]}" RANK=1 "$bin/kandinsky-train" "$@" --threads 1 >/dev/null &
  second=$!
  "${shared[@]}" RANK=0 "$bin/kandinsky-train" "$@" --threads 1 || status=$?
  wait "$second" || status=$?
  return $status
}

# compare LOG RUN: the losses of LOG are those that were recorded.
compare() {
  python3 - "$1" "$logs/$2.csv" <<'PYTHON'
import csv
import sys

repeated, recorded = ({row["step"]: float(row["loss"]) for row in csv.DictReader(open(path))} for path in sys.argv[1:])
for step, loss in repeated.items():
    print(f"step {step}: loss {loss}, recorded {recorded[step]}")
    if not abs(loss - recorded[step]) <= 1e-3 * abs(recorded[step]):
        sys.exit(f"{sys.argv[1]}: step {step}: loss {loss} is not the recorded {recorded[step]}")
if len(repeated) != 5:
    sys.exit(f"{sys.argv[1]} has {len(repeated)} steps, must have 5")
PYTHON
}

# run NAME HOW TASK FILES OPTIONS...: one run, in OUT/NAME. FILES (of the run before) are put there first.
run() {
  local name=$1 how=$2 task=$3 files=$4 directory=$out/$1 file
  shift 4
  [[ -z $check || $check == "$name" ]] || return 0
  mkdir -p "$directory"
  for file in $files; do
    [[ -z $check ]] || file=$kept/${file##*/}
    cp "$file" "$directory/"
  done
  if [[ -z $check ]]; then
    "$how" "$task" --preset "$preset" --out "$directory" "$@"
  else
    alone "$task" --preset "$preset" --out "$directory" "$@" --stop_at 5
    compare "$directory/training/$task/log.csv" "$name"
    checked=true
  fi
}

# end_of_check: leaves the recipe if it was only to check a run.
end_of_check() {
  [[ -n $check ]] || return 0
  $checked || { echo "no run is called $check" >&2; exit 2; }
  exit
}
