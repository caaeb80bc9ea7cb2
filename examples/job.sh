#!/usr/bin/env bash
# Run a command as a run: each line that it prints is an event, and so is how it ends.
#
#   examples/job.sh RUN_ID COMMAND [ARGUMENT...]
#
# The run must be new. The exit status is the command's; if the command succeeded but its
# events could not be stored, it is 1. Needs bash, curl and python3.
set -u

if (($# < 2)); then
  echo "usage: $0 RUN_ID COMMAND [ARGUMENT...]" >&2
  exit 2
fi
run_id=$1
shift
events=${TAILRACE_URL:-http://127.0.0.1:8082}/runs/$run_id/events

# complain MESSAGE [PROBLEM] prints the message, with the detail of the gateway's problem.
complain() {
  local reason=${2-}
  [[ $reason =~ \"detail\":\"([^\"]*)\" ]] && reason=${BASH_REMATCH[1]}
  echo "job.sh: run $run_id: $1${reason:+: $reason}" >&2
}

# append ACTION DATA [CURL_OPTION...] appends a lifecycle event. It has a key, so that curl may
# repeat it safely.
append() {
  local answer
  answer=$(curl -sS --fail-with-body --max-time 30 --retry 5 "${@:3}" \
    -H 'Content-Type: application/json' -H "Idempotency-Key: $1-$$-$(date +%s)" \
    -d "{\"event_category\": \"lifecycle\", \"event_action\": \"$1\", \"data\": $2}") && return
  complain "lifecycle.$1 was not stored" "$answer"
  return 1
}

# Each line of standard input becomes an event, one of more than 32,768 characters several. The
# texts together are the output exactly, but bytes that are not UTF-8 become U+FFFD.
to_events='
import json
lines = open(0, encoding="utf-8", errors="replace", newline="\n")
while text := lines.readline(32768):
    event = {"event_category": "job", "event_action": "output", "data": {"text": text}}
    print(json.dumps(event), flush=True)
'

# Stream the events of standard input. If the gateway ends the request early, the rest is read
# and dropped: the command must not fail because of its log.
stream() {
  local answer
  answer=$(curl -sS --fail-with-body -X POST -T - \
    -H 'Content-Type: application/x-ndjson' "$events") && return
  complain "not all of the output was stored" "$answer"
  cat >/dev/null
  return 1
}

append started null "$events?expected_sequence=1" || {
  complain "the command was not run; the run must be new"
  exit 1
}

# Ctrl-C and SIGTERM are for the command alone. What it has printed is still sent.
interrupted=
trap 'interrupted=yes' INT TERM
"$@" 2>&1 | (trap '' INT TERM; python3 -c "$to_events") | (trap '' INT TERM; stream)
statuses=("${PIPESTATUS[@]}")
status=${statuses[0]}

if ((status == 0)); then
  ending=completed
elif [[ $interrupted ]]; then
  ending=cancelled
else
  ending=failed
fi
append "$ending" "{\"exit_code\": $status}" --retry-connrefused "$events" || statuses+=(1)

if ((status == 0)); then
  for each in "${statuses[@]}"; do
    ((each == 0)) || status=1
  done
fi
exit "$status"
