#!/usr/bin/env bash
# Prometheus scrapes itself and node_exporter and remote-writes to Quiver; then both are asked the same 40 queries.
#
#   MINUTES=10 examples/real_input/run.sh
#
# PROMETHEUS, NODE_EXPORTER, QUIVER: the binaries, where they are not in PATH (Quiver's default is this checkout's own,
# built where it has to be). PORT: the first of three ports on the loopback, default 19090. Ends with a verdict line;
# exit code 0 means that every answer is the same to 1e-9.
set -euo pipefail
cd "$(dirname "$0")/../.."
MINUTES=${MINUTES:-10}
PORT=${PORT:-19090}
PROMETHEUS=${PROMETHEUS:-prometheus}
NODE_EXPORTER=${NODE_EXPORTER:-node_exporter}
QUIVER=${QUIVER:-}
TARGET=${CARGO_TARGET_DIR:-target}
PROFILE=${PROFILE:-release}

for program in "$PROMETHEUS" "$NODE_EXPORTER"; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is not there. Install it with:"
    echo "  go install -tags remove_all_sd github.com/prometheus/prometheus/cmd/prometheus@v0.316.0"
    echo "  go install github.com/prometheus/node_exporter@v1.12.1"
    exit 2
  fi
done
flag=$([ "$PROFILE" = release ] && echo --release || true)
# shellcheck disable=SC2086
cargo build $flag --bin quiver --example compare_answers
QUIVER=${QUIVER:-$TARGET/$PROFILE/quiver}

work=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

cat >"$work/prometheus.yml" <<YAML
global:
  scrape_interval: 5s
  scrape_native_histograms: true
  always_scrape_classic_histograms: true
scrape_configs:
  - job_name: prometheus
    static_configs: [{targets: ["127.0.0.1:$PORT"]}]
  - job_name: node
    static_configs: [{targets: ["127.0.0.1:$((PORT + 1))"]}]
remote_write:
  - url: http://127.0.0.1:$((PORT + 2))/api/v1/write
    protobuf_message: io.prometheus.write.v2.Request
    send_native_histograms: true
    queue_config: {batch_send_deadline: 1s}
YAML

"$QUIVER" serve --data-dir "$work/quiver" --http-listen "127.0.0.1:$((PORT + 2))" --grpc-listen off --self-metrics off \
  --admin-api on >"$work/quiver.out" 2>"$work/quiver.log" &
pids+=($!)
"$NODE_EXPORTER" --web.listen-address="127.0.0.1:$((PORT + 1))" >"$work/node_exporter.log" 2>&1 &
pids+=($!)
"$PROMETHEUS" --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/prometheus" \
  --web.listen-address="127.0.0.1:$PORT" >"$work/prometheus.log" 2>&1 &
pids+=($!)

ready() { # URL
  for _ in $(seq 300); do
    if curl -fsS -o /dev/null "$1" 2>/dev/null; then return; fi
    sleep 0.1
  done
  echo "$1 does not answer" >&2
  tail -n 20 "$work"/*.log >&2
  exit 1
}
ready "http://127.0.0.1:$((PORT + 2))/-/ready"
ready "http://127.0.0.1:$((PORT + 1))/metrics"
ready "http://127.0.0.1:$PORT/-/ready"

echo "scraping for $MINUTES minutes"
end=$((SECONDS + MINUTES * 60))
while [ $SECONDS -lt $end ]; do
  # Some traffic for the histograms of Prometheus itself.
  for path in query?query=up query_range?query=up\&start=0\&end=1\&step=1 labels label/job/values; do
    curl -fsS -o /dev/null "http://127.0.0.1:$PORT/api/v1/$path"
  done
  # Half of the way through, what came so far moves into a block.
  if [ -z "${flushed:-}" ] && [ $((end - SECONDS)) -le $((MINUTES * 30)) ]; then
    curl -fsS -X POST "http://127.0.0.1:$((PORT + 2))/api/v1/admin/tsdb/flush"
    flushed=1
  fi
  sleep 1
done

"$(dirname "$QUIVER")/examples/compare_answers" --prometheus "http://127.0.0.1:$PORT" \
  --quiver "http://127.0.0.1:$((PORT + 2))" --queries examples/real_input/queries.txt --minutes "$MINUTES"
