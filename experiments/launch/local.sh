#!/usr/bin/env bash
# PROCESSES processes on this machine, over loopback. Ctrl-C or SIGTERM asks all of them to save and end.
set -uo pipefail

PYTHON=${PYTHON:-python}
CONFIG=${CONFIG:-configs/vp/digits_ddpmpp.py}
WORKDIR=${WORKDIR:-runs/local}
FLAGS=${FLAGS:-}
PROCESSES=${PROCESSES:-2}
PORT=${PORT:-8476}

read -ra flags <<<"$FLAGS"
processes=()
trap 'kill -TERM "${processes[@]}" 2>/dev/null' INT TERM
for ((i = 0; i < PROCESSES; i++)); do
  command=("$PYTHON" -m score_sde --config="$CONFIG" --workdir="$WORKDIR" --mode=train
    --coordinator="127.0.0.1:$PORT" --num_processes="$PROCESSES" --process_id="$i" "${flags[@]}")
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "${command[@]}" && echo
  else
    "${command[@]}" &
    processes+=("$!")
  fi
done

worst=0
for process in "${processes[@]}"; do
  wait "$process"
  code=$?
  # A signal ends the wait, not the process.
  while kill -0 "$process" 2>/dev/null; do
    wait "$process"
    code=$?
  done
  ((code > worst)) && worst=$code
done
exit "$worst"
