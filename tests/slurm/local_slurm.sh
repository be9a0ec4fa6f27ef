#!/usr/bin/env bash
# A real Slurm on this machine alone, for the tests: no systemd, nothing in /etc, all files in one folder.
#
#   bash tests/slurm/local_slurm.sh start FOLDER [NODES]    FOLDER/slurm.conf is for SLURM_CONF
#   bash tests/slurm/local_slurm.sh stop FOLDER
#
# Installs slurm-wlm and munge (Debian, Ubuntu) when they are missing and apt-get can. Exit status 3: there is no Slurm
# on this machine, and why. All nodes are this machine, each with a slurmd of its own.

set -euo pipefail
PATH=$PATH:/usr/sbin # where the daemons are

absent() { echo "no Slurm here: $*" && exit 3; }

install_slurm() {
  if command -v slurmctld slurmd munged >/dev/null; then return; fi
  [[ $(id -u) == 0 ]] || absent "slurmctld, slurmd or munged is missing, and only root may install them"
  command -v apt-get >/dev/null || absent "slurmctld, slurmd or munged is missing, and there is no apt-get"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update; apt-get install -y --no-install-recommends slurm-wlm munge; } >"$FOLDER/apt.log" 2>&1 ||
    absent "apt-get could not install slurm-wlm and munge: $(tail -1 "$FOLDER/apt.log")"
}

free_ports() { # free_ports COUNT
  python3 - "$1" <<'PYTHON'
import socket, sys

probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[probe.getsockname()[1] for probe in probes])
PYTHON
}

write_config() {
  local host ports number
  host=$(hostname -s)
  read -ra ports < <(free_ports $((NODES + 1)))
  mkdir -p "$FOLDER/state"
  cat >"$FOLDER/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
CredType=cred/munge
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool-%n
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd-%n.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1
OverTimeLimit=UNLIMITED
KillWait=30
InactiveLimit=0
CONF
  for ((number = 1; number <= NODES; number++)); do
    mkdir -p "$FOLDER/spool-node$number"
    echo "NodeName=node$number NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[number]} CPUs=$(nproc) State=UNKNOWN"
  done >>"$FOLDER/slurm.conf"
  echo "PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$FOLDER/slurm.conf"
}

start() {
  mkdir -p "$FOLDER" && chmod 755 "$FOLDER"
  install_slurm
  write_config
  export SLURM_CONF="$FOLDER/slurm.conf"
  head -c 1024 /dev/urandom >"$FOLDER/munge.key" && chmod 400 "$FOLDER/munge.key"
  munged --force --key-file="$FOLDER/munge.key" --socket="$FOLDER/munge.socket" --pid-file="$FOLDER/munged.pid" \
    --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munge.seed"
  slurmctld -c
  for ((number = 1; number <= NODES; number++)); do slurmd -N "node$number"; done
  local left
  for ((left = 150; left > 0; left--)); do
    if (($(sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | wc -l) == NODES)); then return; fi
    sleep 0.2
  done
  echo "The nodes did not come up; logs are in $FOLDER" >&2
  sinfo >&2 || true
  tail -n 5 "$FOLDER"/*.log >&2
  exit 1
}

stop() {
  export SLURM_CONF="$FOLDER/slurm.conf"
  local file left
  scancel --user "$(id -un)" --quiet || true
  for ((left = 300; left > 0; left--)); do # Slurm ends the jobs' processes, if it lives
    if [[ -z $(squeue --noheader 2>/dev/null) ]]; then break; fi
    sleep 0.2
  done
  for file in "$FOLDER"/{slurmd-*,slurmctld,munged}.pid; do
    if [[ -f $file ]]; then kill "$(cat "$file")" 2>/dev/null || true; fi
  done
}

(($# >= 2)) || { sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 1; }
FOLDER=$(realpath -m "$2") NODES=${3:-1}
case $1 in
  start) start ;;
  stop) stop ;;
  *) echo "error: unknown command $1 (allowed: start, stop)" >&2 && exit 2 ;;
esac
