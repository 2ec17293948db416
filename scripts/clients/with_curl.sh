#!/usr/bin/env bash
# curl: a collection's whole life, and what a mistake is answered.
set -euo pipefail
url=$ESKER_HTTP/v1/collections

# ask WANTED-STATUS CURL-ARGUMENTS...: the body, if the status is that.
ask() {
  local wanted=$1 reply
  shift
  reply=$(curl --silent --show-error --write-out '\n%{http_code}' "$@")
  if [[ ${reply##*$'\n'} != "$wanted" ]]; then
    echo "$*: ${reply##*$'\n'} instead of $wanted: ${reply%$'\n'*}" >&2
    return 1
  fi
  printf '%s' "${reply%$'\n'*}"
}

# holds TEXT PART: fails where the part is not in the text.
holds() {
  [[ $1 == *"$2"* ]] || { echo "no $2 in $1" >&2; return 1; }
}

json=(--header 'content-type: application/json')
ask 200 "$ESKER_HTTP/healthz" >/dev/null
ask 200 "$ESKER_HTTP/readyz" >/dev/null
holds "$(ask 200 "$ESKER_HTTP/metrics")" "# TYPE"
holds "$(ask 200 "$ESKER_HTTP/openapi.json")" '"openapi"'
ask 201 "${json[@]}" "$url" --data '{"name":"curl","dimension":2,"metric":"l2"}' >/dev/null ||
  ask 200 "$url/curl" >/dev/null
reply=$(printf '%s\n' '{"id":"a","vector":[0,0],"metadata":{"n":1}}' '{"id":"b","vector":[3,4],"metadata":{"n":2}}' |
  ask 200 "$url/curl/records" --header 'content-type: application/x-ndjson' --data-binary @-)
holds "$reply" '"upserted":2'
reply=$(ask 200 "${json[@]}" "$url/curl/search" --data '{"vector":[3,4],"k":2,"filter":"n < 2"}')
holds "$reply" '"id":"a"'
holds "$reply" '"distance":5'
holds "$(ask 200 "$url/curl/records/b?include_vector=true")" '"vector":[3'
ask 200 --request DELETE "${json[@]}" "$url/curl/records" --data '{"ids":["a"]}' >/dev/null
holds "$(ask 200 --request POST "$url/curl/records/count")" '"count":1'
holds "$(ask 200 "${json[@]}" "$ESKER_HTTP/v1/sql" --header 'accept: text/csv' --data '{"query":"SELECT id FROM curl"}')" b
holds "$(ask 400 "${json[@]}" "$url/curl/search" --data '{"vector":[1,2,3]}')" '"kind":"invalid"'
holds "$(ask 404 "$url/none")" '"kind":"not_found"'
ask 200 --request DELETE "$url/curl" >/dev/null || ask 404 "$url/curl" >/dev/null
printf '%s\t%s\n' "$(curl --version | cut -d' ' -f2 | head -n 1)" "create, NDJSON in, search, get, count, delete, SQL as CSV, errors, drop"
