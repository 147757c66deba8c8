#!/usr/bin/env bash
# A SLURM cluster of this one machine on loopback, from Debian's packages slurm-wlm and munge, whole in one folder.
# Two nodes: a daemon for each, with a port of its own. Debian builds slurmd so that several may share a machine.
# usage: cluster.sh up|down FOLDER     up makes the folder anew and prints the SLURM_CONF to export; needs no root
set -euo pipefail
act=$1
here=$(realpath -m "$2")

stop() {
  file=$here/run/$1.pid
  [ -s "$file" ] || return 0
  process=$(cat "$file")
  kill "$process" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 "$process" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$process" 2>/dev/null || true
}

down() {
  stop slurmd-node1 & stop slurmd-node2 & stop slurmctld & wait
  stop munged
}

if [ "$act" = down ]; then
  down
  rm -rf "$here"
  exit 0
fi
trap 'code=$?; [ $code = 0 ] || down' EXIT

name=$(hostname -s)
user=$(id -un)
memory=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 * 3 / 4))
socket=$here/run/munge.socket
rm -rf "$here"
mkdir -p "$here"/{etc,state,spool,log,run}
chmod 755 "$here" "$here"/{etc,log,run}
(umask 077; head -c 128 /dev/urandom > "$here/etc/munge.key")
munged --force --key-file="$here/etc/munge.key" --socket="$socket" --pid-file="$here/run/munged.pid" \
  --log-file="$here/log/munged.log" --seed-file="$here/run/munge.seed" 2>> "$here/log/munged.err"

# cred_expire=5, sched_interval=1: a job that was requeued starts again in seconds, not after two minutes.
# config_overrides: two jobs at once, whatever this machine has.
# preempt_send_user_signal: a job that is preempted gets the signal that it asked for. MinJobAge: jobs are remembered.
cat > "$here/etc/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$name(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$socket,cred_expire=5
SlurmctldPort=${SLURMCTLD_PORT:-6817}
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool/%n
SlurmctldPidFile=$here/run/slurmctld.pid
SlurmdPidFile=$here/run/slurmd-%n.pid
SlurmctldLogFile=$here/log/slurmctld.log
SlurmdLogFile=$here/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=${KILL_WAIT:-10}
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node1 NodeHostname=$name NodeAddr=127.0.0.1 Port=${SLURMD_PORT:-6818} CPUs=2 RealMemory=$memory Gres=gpu:fake:2
NodeName=node2 NodeHostname=$name NodeAddr=127.0.0.1 Port=${SLURMD_PORT_2:-6819} CPUs=2 RealMemory=$memory Gres=gpu:fake:2
PartitionName=main Nodes=node1 Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=both Nodes=node1,node2 MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=node1 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
END
cat > "$here/etc/gres.conf" <<END
AutoDetect=off
NodeName=node[1-2] Name=gpu Type=fake File=/dev/null Flags=nvidia_gpu_env
NodeName=node[1-2] Name=gpu Type=fake File=/dev/zero Flags=nvidia_gpu_env
END
export SLURM_CONF=$here/etc/slurm.conf
slurmctld
for node in node1 node2; do mkdir -p "$here/spool/$node"; slurmd -N $node; done
for _ in $(seq 300); do
  if [ "$(timeout 5 sinfo -h -p both -o %t 2>/dev/null)" = idle ]; then
    echo "$SLURM_CONF"
    exit 0
  fi
  sleep 0.1
done
echo "SLURM did not come up, see $here/log" >&2
exit 1
