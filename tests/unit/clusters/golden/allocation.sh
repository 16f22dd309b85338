#!/bin/bash
# Ray on the nodes of this job; made by `penstock submit`.
set -u
file='my pipeline.toml'
python=/opt/venv/bin/python
wait_seconds=90
here=$(pwd)

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_kill_idle_workers_interval_ms=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
steps=()

folder_on() { # NODE: where Ray has its files there; short, since sockets lie below, and of no other cluster's job
    echo "/tmp/penstock-ray-$SLURM_JOB_ID-$(echo "${SLURM_CLUSTER_NAME:-} $1" | cksum | cut -d" " -f1)"
}

on() { # NODE PROGRAM...: a step on one node that shares what the job has there
    srun --overlap --mpi=none --cpu-bind=none --kill-on-bad-exit=0 --nodes=1 --ntasks=1 --nodelist="$1" "${@:2}"
}

# PYTHON FOLDER ARGUMENT...: Ray, with what it may use of the node on which this runs.
ray_start='
    folder=$1 ray=
    shift
    clear() { # also what Ray has left running when it was ended while it started
        while pkill -KILL -f "$folder/" 2>/dev/null; do sleep 0.1; done
        rm -rf "$folder"
    }
    end() { # soon: Slurm itself kills after a while (KillWait, 30 s), and then nobody clears
        kill -TERM "$ray" 2>/dev/null
        for _ in {1..15}; do kill -0 "$ray" 2>/dev/null || break; sleep 0.2; done
        clear
        exit 143
    }
    trap end TERM INT
    [ ! -O "$folder" ] || rm -rf "$folder" # of an earlier job of this number, when the controller began anew
    mkdir -m 700 "$folder" || exit # below it is what Ray opens to all
    memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_ON_NODE))}
    limits=()
    if [ "$memory" -gt 0 ]; then
        limits=(--memory=$((memory * 600000)) --object-store-memory=$((memory * 300000)))
    fi
    "$0" -m ray.scripts.scripts start --block --disable-usage-stats --temp-dir="$folder/ray" \
        --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" "${limits[@]}" "$@" &
    ray=$!
    wait "$ray"
    code=$?
    clear
    exit $code
'

free_port() { # below those that Linux gives to whoever asks for any: nobody takes it before Ray does
    "$python" -c '
import random, socket
for port in random.sample(range(20_000, 32_000), 1000):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            print(port)
            break'
}

start() { # NODE ARGUMENT...
    on "$1" bash -c "$ray_start" "$python" "$(folder_on "$1")" "${@:2}" > "$here/ray-$1.log" 2>&1 &
    steps+=($!)
}

end() { # the workers first, for they would complain of a head that is gone
    for ((at = ${#steps[@]} - 1; at >= 0; at--)); do
        kill -TERM "${steps[at]}" 2>/dev/null
        wait "${steps[at]}" 2>/dev/null
        # What had to be ended by force has left its folder.
        timeout 30 srun --overlap --mpi=none --nodes=1 --ntasks=1 --nodelist="${nodes[at]}" \
            rm -rf "$(folder_on "${nodes[at]}")" 2>/dev/null
    done
}
trap end EXIT
# Warned of the time limit before there is anything to keep: the next job begins anew.
trap 'exit 99' USR1

give_up() {
    echo "$1" >&2
    for node in "${nodes[@]}"; do
        echo "--- ray-$node.log" >&2
        tail -n 20 "$here/ray-$node.log" >&2
    done
    exit 1
}

running() { # whether no step has ended
    for step in "${steps[@]}"; do kill -0 "$step" 2>/dev/null || return 1; done
}

# The head's address as the last node sees it: on the head itself a name may mean 127.0.1.1.
name=$(scontrol show node --oneliner "$head" | sed 's/.* NodeAddr=\([^ ]*\).*/\1/')
for pause in 1 2 4 8 0; do # a step may be refused while the job is still being set up
    host=$(on "${nodes[-1]}" getent ahostsv4 "$name" 2>> "$here/ray-${nodes[-1]}.log" | awk '{ print $1; exit }')
    [ -z "$host" ] || break
    sleep "$pause"
done
[ -n "$host" ] || give_up "the address of node $head is not known on node ${nodes[-1]}: $name"
port=$(free_port) || exit

start "$head" --head --node-ip-address="$host" --port="$port" --include-dashboard=false
deadline=$((SECONDS + wait_seconds))
until (exec 3<> "/dev/tcp/$host/$port") 2>/dev/null; do
    running && [ $SECONDS -lt $deadline ] || give_up "Ray's head did not start on $head in $wait_seconds s"
    sleep 0.5
done
for node in "${nodes[@]:1}"; do
    start "$node" --address="$host:$port"
done
"$python" -m penstock.runners.nodes "$host:$port" "${#nodes[@]}" "$wait_seconds" &
wait $! || # in the background, so that signals reach us at once
    give_up "Ray did not start on all of ${#nodes[@]} nodes in $wait_seconds s"

"$python" -m penstock run "$file" --set runner.use=ray --set runner.address="$host:$port" &
driver=$!
warned=
trap 'kill -TERM $driver 2>/dev/null' TERM INT
trap 'warned=1; kill -TERM $driver 2>/dev/null' USR1
while wait "$driver"; code=$?; kill -0 "$driver" 2>/dev/null; do :; done
[ $code -eq 0 ] || [ -z "$warned" ] || code=99
exit $code
