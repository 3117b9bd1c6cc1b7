#!/usr/bin/env bash
# Start, stop or show this machine's part of a Ray cluster, and no other Ray of this machine.
#
#   node.sh start --head --port=6379 ...      options are those of `ray start`
#   node.sh start --address=HEAD:6379 ...
#   node.sh stop | status
#
# `ray start --block` stays in front of the processes it starts: they end with it. Its process
# id and start time are kept in ENERGYLENS_NODE (default ~/.energylens/node).
set -euo pipefail

state=${ENERGYLENS_NODE:-$HOME/.energylens/node}
wait_s=${ENERGYLENS_NODE_WAIT_S:-90}

# Field 22 of /proc/PID/stat tells a process from a later one with the same id.
ticks() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# Print the process id if it runs.
running() {
    local pid start
    read -r pid start 2>/dev/null <"$state/pid" || return 1
    [ -n "$start" ] && [ "$(ticks "$pid")" = "$start" ] && echo "$pid"
}

# The GPU type in the words of the catalog, if all GPUs here are of one type.
hardware() {
    python - 2>/dev/null <<'PY' || true
from harness.catalog.identify import identify
from harness.catalog.local import nvidia_gpus

found = {identify(gpu.name, gpu.memory_bytes) for gpu in nvidia_gpus()}
print(found.pop() if len(found) == 1 and None not in found else "")
PY
}

start() {
    local pid label labels=()
    mkdir -p "$state"
    exec 9>"$state/lock"
    flock -w "$wait_s" 9 || { echo "node.sh: another start is under way" >&2; exit 2; }
    if pid=$(running); then
        echo "node.sh: already runs as process $pid"
        return 0
    fi
    if [[ " $* " != *" --labels"* ]] && label=$(hardware) && [ -n "$label" ]; then
        labels=("--labels=energylens.io/hardware=$label")
    fi
    for try in 1 2 3; do
        setsid nohup ray start --block --disable-usage-stats "${labels[@]}" "$@" \
            >"$state/ray.log" 2>&1 </dev/null 9>&- &
        pid=$!
        echo "$pid $(ticks "$pid")" >"$state/pid"
        for ((i = 0; i < 10 * wait_s; i++)); do
            if grep -q "Ray runtime started" "$state/ray.log"; then
                echo "node.sh: started as process $pid${label:+, $label}"
                return 0
            fi
            running >/dev/null || break
            sleep 0.1
        done
        stop >/dev/null
        # On a busy machine Ray gives up on its own agents after half a minute.
        grep -q "timed out during startup" "$state/ray.log" || break
    done
    echo "node.sh: Ray did not start; end of $state/ray.log:" >&2
    tail -n 15 "$state/ray.log" >&2
    exit 2
}

stop() {
    local pid
    if ! pid=$(running); then
        echo "node.sh: nothing of ours runs here"
        return 0
    fi
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < 10 * wait_s; i++)); do
        running >/dev/null || { rm -f "$state/pid"; echo "node.sh: stopped"; return 0; }
        sleep 0.1
    done
    # The processes that it started are told to die with it, whatever ends it.
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$state/pid"
    echo "node.sh: killed after $wait_s s"
}

case ${1:-} in
    start) shift; start "$@" ;;
    stop) stop ;;
    status)
        if pid=$(running); then echo "node.sh: runs as process $pid"; else
            echo "node.sh: does not run"
            exit 1
        fi
        ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
