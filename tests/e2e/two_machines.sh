#!/usr/bin/env bash
# Two machines on one: each has a network, processes, a host name, /dev/shm and /tmp/ray of its own, and sees the other
# by a cable only. Files are shared, as on a cluster. Runs a command on the first, with Ray on both; needs no root where
# user namespaces are allowed. Everything ends with the command.
#
#   [PYTHON=...] bash tests/e2e/two_machines.sh FOLDER COMMAND [ARGUMENT ...]    FOLDER: for small files and logs
#   bash tests/e2e/two_machines.sh --try                            whether that is allowed here

set -euo pipefail
SELF=$(realpath "${BASH_SOURCE[0]}")
NAMESPACES=(unshare --mount --pid --fork --kill-child --mount-proc --net --uts --ipc)

if [[ $1 == --machine ]]; then # --machine FOLDER NUMBER COMMAND...: in new namespaces, before the command
  FOLDER=$2 NUMBER=$3
  mount -t tmpfs none /dev/shm
  mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
  mount --bind "$FOLDER/hosts" /etc/hosts
  hostname "machine$NUMBER"
  ip link set lo up
  touch "$FOLDER/ready$NUMBER"
  until ip link show cable >/dev/null 2>&1; do sleep 0.05; done
  ip address add "10.66.0.$NUMBER/24" dev cable
  ip link set cable up
  export SLURM_PROCID=$((NUMBER - 1)) SLURMD_NODENAME="machine$NUMBER" RAY_ADDRESS=10.66.0.1:6379
  shift 3
  exec "$@"
elif [[ $1 == --try ]]; then
  exec "${NAMESPACES[@]}" --map-root-user ip link add end1 type veth peer name end2
elif [[ $1 != --inside ]]; then
  exec "${NAMESPACES[@]}" --map-root-user bash "$SELF" --inside "$@"
fi

machine() { # machine NUMBER COMMAND...: in the background
  "${NAMESPACES[@]}" bash "$SELF" --machine "$FOLDER" "$@" &
}

FOLDER=$(realpath -m "$2")
shift 2
mkdir -p "$FOLDER"
rm -f "$FOLDER"/ready?
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=of-this-test-alone-0123456789
printf '127.0.0.1 localhost\n10.66.0.1 machine1\n10.66.0.2 machine2\n' >"$FOLDER/hosts"
export PYTHON=${PYTHON:-python}
# shellcheck disable=SC2016 # another shell expands it
JOIN='exec "$PYTHON" -m verl.single_controller.allocation join'
machine 1 bash -c "$JOIN >'$FOLDER/ray1.log' 2>&1 & \"\$PYTHON\" -m verl.single_controller.allocation wait machine1 machine2 && exec \"\$@\"" - "$@"
FIRST=$!
machine 2 bash -c "$JOIN >'$FOLDER/ray2.log' 2>&1"
SECOND=$!
until [[ -e $FOLDER/ready1 && -e $FOLDER/ready2 ]]; do sleep 0.05; done
ip link add cable netns "$(pgrep -P "$FIRST")" type veth peer name cable netns "$(pgrep -P "$SECOND")"
wait "$FIRST"
