#!/bin/sh
# Starts SLURM with this machine as its only node, for tests; or stops it.
#
#   tests/slurm_node.sh start FOLDER && export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm_node.sh stop FOLDER
#
# Needs root and Debian's slurm-wlm and munge; works in a container, without cgroups.
set -eu
folder=$2
conf=$folder/slurm.conf

start() {
    mkdir -p "$folder/state" "$folder/spool" "$folder/log" /run/munge
    chmod 755 "$folder"
    chown munge: /run/munge
    if ! munge -n >/dev/null 2>&1; then
        [ -f /etc/munge/munge.key ] || mungekey --create
        chown munge: /etc/munge/munge.key
        runuser -u munge -- munged --force
        touch "$folder/munged"
    fi
    host=$(hostname -s)
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"$conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((20000 + $$ % 5000))
SlurmdPort=$((25000 + $$ % 5000))
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
    SLURM_CONF=$conf slurmctld -c -f "$conf"
    SLURM_CONF=$conf slurmd -c -f "$conf"
    for _ in $(seq 60); do
        if SLURM_CONF=$conf sinfo -h -o %T 2>/dev/null | grep -q idle; then
            return 0
        fi
        sleep 0.5
    done
    echo "SLURM did not start:" >&2
    tail -n 20 "$folder"/log/*.log >&2
    return 1
}

stop() {
    SLURM_CONF=$conf scancel --user=root 2>/dev/null || true
    sleep 1
    for name in slurmd slurmctld; do
        [ -f "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" 2>/dev/null
    done
    if [ -f "$folder/munged" ]; then
        munged --stop 2>/dev/null || true
    fi
}

"$1"
