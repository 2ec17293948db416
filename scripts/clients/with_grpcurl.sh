#!/usr/bin/env bash
# grpcurl: services by reflection, health, a search.
set -euo pipefail

ask() {
  grpcurl -plaintext "$@"
}

services=$(ask "$ESKER_GRPC" list)
for service in esker.v1.Ingest esker.v1.Query grpc.health.v1.Health; do
  grep -qx "$service" <<<"$services" || { echo "no $service in $services" >&2; exit 1; }
done
ask "$ESKER_GRPC" describe esker.v1.Query.Search | grep -q SearchRequest
ask "$ESKER_GRPC" grpc.health.v1.Health/Check | grep -q SERVING
reply=$(ask -d '{"collection":"pages","like":"page-0050","k":1}' "$ESKER_GRPC" esker.v1.Query/Search)
grep -q '"page-0050"' <<<"$reply" || { echo "$reply" >&2; exit 1; }
# Built by `go install` it does not know its own version, but Go does.
version=$(go version -m "$(command -v grpcurl)" 2>/dev/null | awk '$1 == "mod" { print $3 }' || true)
printf '%s\t%s\n' "${version:-$(grpcurl --version 2>&1 | cut -d' ' -f2)}" "list, describe, health, search"
