#!/usr/bin/env bash
# The gateway beside nginx in one interleaved run. Needs nginx, wrk, taskset and the measuring scripts (BENCH, default ../shared/bench).
# usage: loadtests/compare/run.sh [rounds] [seconds]      everything on loopback, bounded, ended by process id
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd); cd "$here"
bench=${BENCH:-../shared/bench}; rounds=${1:-3}; secs=${2:-2}; python=.venv/bin/python
dir=$(mktemp -d); pids=()
cleanup() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; "$bench/down.sh" "$dir" || true; }
trap cleanup EXIT
PYTHON=$python "$bench/up.sh" "$dir"
gateway() {  # name, offset, backend: starts a quickstart in front of a backend and waits for it
  taskset -c 0 .venv/bin/gateway quickstart --no-ner --state "$dir/$1" --port-offset "$2" --backend "$3" >"$dir/$1.log" 2>&1 & pids+=($!)
  for _ in $(seq 1 200); do grep -q 'Ctrl-C ends it' "$dir/$1.log" && return 0; sleep 0.1; done
  tail -n 20 "$dir/$1.log"; return 1
}
# Events 5 ms apart without being asked: the gateway passes no header of a caller's on.
taskset -c 1 "$python" "$bench/backend_sse.py" 9300 200 200 5 >"$dir/slow.log" 2>&1 & pids+=($!)
gateway json 2000 http://127.0.0.1:9100/v1
gateway sse 4000 http://127.0.0.1:9200/v1
gateway slow 5000 http://127.0.0.1:9300/v1
token() { cat "$dir/$1/tokens/loadtest.jwt"; }
echo "== JSON"
$python "$bench/bench_json.py" --rounds "$rounds" --secs "$secs" --fixed 200 -H "Authorization: Bearer $(token json)" \
  nginx=http://127.0.0.1:8001/v1/chat/completions ours=http://127.0.0.1:10080/v1/chat/completions
echo "== cold and warm, CPU a request"
$python -m loadtests.micro.cold_exchange --port 10080 --token "$dir/json/tokens/loadtest.jwt" --rounds "$rounds" --count 600
echo "== SSE"
$python "$bench/bench_sse.py" --rounds "$rounds" --secs "$secs" --modes fast -H "Authorization: Bearer $(token sse)" \
  nginx=http://127.0.0.1:8101/v1/chat/completions ours=http://127.0.0.1:12080/v1/chat/completions
$python "$bench/bench_sse.py" --rounds "$rounds" --secs 3 --modes slow -H "Authorization: Bearer $(token slow)" \
  nginx=http://127.0.0.1:8101/v1/chat/completions ours=http://127.0.0.1:13080/v1/chat/completions
