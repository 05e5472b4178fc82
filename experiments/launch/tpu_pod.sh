#!/usr/bin/env bash
# Train on all workers of a Cloud TPU slice, as a service of each. Run it again to go on after a preemption.
set -euo pipefail

TPU=${TPU:?the name of the TPU VM}
ZONE=${ZONE:?its zone}
CONFIG=${CONFIG:-configs/vp/digits_ddpmpp.py}
WORKDIR=${WORKDIR:?a directory that all workers share, such as a mounted bucket}
FLAGS=${FLAGS:-}

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

archive=${TMPDIR:-/tmp}/score_sde.tar
run git archive --output="$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$TPU:score_sde.tar" --zone="$ZONE" --worker=all

# uv brings a Python that is new enough, where that of the image is not.
install="mkdir -p score_sde && tar -xf score_sde.tar -C score_sde && cd score_sde"
install+=" && python3 -m pip install -q --user uv && python3 -m uv venv -q --allow-existing --python 3.12"
install+=" && python3 -m uv pip install -q -c constraints.txt -e '.[tpu]'"
on_all_workers "$install"

read -ra flags <<<"$FLAGS"
training=(-m score_sde --config="$CONFIG" --workdir="$WORKDIR" --mode=train --distributed "${flags[@]}")
# A service gets SIGTERM and time to save when the machine is taken away, and starts again when JAX has ended it
# because another worker is gone. Exit code 2 is an error of the user, which no restart mends.
service="sudo systemd-run --collect --unit=score_sde --uid=\$(id -u) --working-directory=\$HOME/score_sde"
service+=" --property=Restart=on-failure --property=RestartSec=10 --property=RestartPreventExitStatus=2"
service+=" --property=TimeoutStopSec=150 --property=StandardOutput=append:\$HOME/score_sde.log"
service+=" --property=StandardError=append:\$HOME/score_sde.log"
on_all_workers "$service \$HOME/score_sde/.venv/bin/python $(printf '%q ' "${training[@]}")"
