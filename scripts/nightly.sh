#!/usr/bin/env bash
# Measure tonight's sweep and compare it with the last night that finished: for cron.
#
#   scripts/nightly.sh [SWEEP]        default sweeps/nightly.yaml
#
# RUNS     run folders, one a night (runs/nightly); absolute, or s3://, where ADDRESS is set
# LOGS     logs, pages and results of comparisons (runs/nightly/logs, where RUNS is a folder)
# ADDRESS  job server of a cluster, http://127.0.0.1:8265; unset: `energylens run` right here
# PYTHON   Python that has EnergyLens (python3); CLUSTER_PYTHON: that of the cluster (python)
# NIGHT    date; default that of 12 hours ago, so a night has one date on both sides of midnight
#
# Started again on the same night, it goes on with what is missing, and compares again.
# Exit code: 0 fine, 1 something got worse, 2 an error or a run that did not finish, 130 stopped.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 2
sweep=${1:-sweeps/nightly.yaml}
runs=${RUNS:-runs/nightly}
python=${PYTHON:-python3}
night=${NIGHT:-$(date -d '12 hours ago' +%F)}
case $runs in
    *://*) logs=${LOGS:-runs/nightly/logs} ;;
    *) logs=${LOGS:-$runs/logs} ;;
esac
tonight=${runs%/}/$night

fail() {
    echo "nightly: $1" >&2
    exit "${2:-2}"
}

mkdir -p "$logs" || fail "cannot write to $logs"
log=$logs/$night.log
exec 9>"$logs/lock" || fail "cannot write to $logs"
flock -n 9 || fail "another one is under way (it holds $logs/lock)"

# Tee keeps what is said; the exit code is that of the command.
kept() { "$@" 2>&1 9>&- | tee -a "$log" 9>&-; }

echo "== $(date '+%F %T') $sweep -> $tonight" >>"$log"
if [ -n "${ADDRESS:-}" ]; then
    name=$(basename "$sweep")
    kept "$python" -m harness.fleet.jobs submit "$sweep" --out "$tonight" --address "$ADDRESS" \
        --submission-id "${name%.*}-$night" --retry --log "$logs/$night.job.log" \
        --python "${CLUSTER_PYTHON:-python}"
else
    kept "$python" -m energylens run "$sweep" --out "$tonight"
fi
case $? in
    0) ;;
    130) fail "stopped; start it again tonight to go on" 130 ;;
    *) fail "the run did not finish; see $log" ;;
esac

# The last night before this one that finished and is still there.
finished=$logs/finished
last=
while read -r date folder; do
    if [[ $date < $night && ($folder == *://* || -d $folder) ]]; then last=$folder; fi
done < <(sort -u "$finished" 2>/dev/null)
grep -qxF "$night $tonight" "$finished" 2>/dev/null || echo "$night $tonight" >>"$finished"

if [ -z "$last" ]; then
    echo "nightly: $tonight is the first night; nothing to compare with" | tee -a "$log"
    exit 0
fi
kept "$python" -m energylens compare "$last" "$tonight" --html "$logs/$night.html"
verdict=$?
[ "$verdict" -le 1 ] || fail "the nights cannot be compared; see $log"
"$python" -m energylens compare "$last" "$tonight" --json >"$logs/$night.json" 2>>"$log"
exit "$verdict"
