#!/usr/bin/env bash
# Runs every fuzz target in turn: fuzz/run.sh SECONDS [TARGET...]. Prints what each executed; exits 1 where one found
# something, whose input is then under fuzz/artifacts/TARGET. A stable toolchain will do. Builds, and the corpus that
# grows from run to run, are kept in the user's cache. Targets that need more than esker-format (import, http, filters)
# run only when named or with FUZZ_ALL=1; `chunk` only when named, as parquet's reader of page headers may count to 2^31
# over a damaged one, which a chunk with a valid checksum does not have.
set -uo pipefail
unset RUST_BACKTRACE
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
format=(envelope register keys framing json record foreign container wal inbox deletes payload attributes index)
above=(import http filter_json filter_sql)
targets=("$@")
if ((!$#)); then
  targets=("${format[@]}")
  [[ -z ${FUZZ_ALL:-} ]] || targets+=("${above[@]}")
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker/fuzz
mkdir -p "$cache"
PATH=$cache/tools/bin:$PATH
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "building cargo-fuzz, once" >&2
  CARGO_TARGET_DIR=$cache/tools/target nice -n 15 cargo install --quiet --locked --debug --root "$cache/tools" cargo-fuzz
  rm -rf "$cache/tools/target"
fi
nice -n 15 cargo run --quiet --locked --target-dir "$cache/target" --bin seeds -- "$cache/seeds" || exit 1

features_of() {
  case $1 in
    import | http) echo --features=ingest ;;
    filter_*) echo --features=query ;;
  esac
}

host=$(rustc -vV | sed -n 's/^host: //p')
found=0
for target in "${targets[@]}"; do
  corpus=$cache/corpus/$target
  mkdir -p "$corpus" "$cache/seeds/$target"
  # shellcheck disable=SC2046
  options=(--sanitizer none --target-dir "$cache/target" $(features_of "$target"))
  if ! nice -n 15 cargo fuzz build "${options[@]}" "$target" >"$cache/$target.build" 2>&1; then
    tail -n 30 "$cache/$target.build" >&2
    exit 1
  fi
  # The binary itself: `cargo fuzz run` would build again what someone may just be editing.
  mkdir -p "artifacts/$target"
  nice -n 15 "$cache/target/$host/release/$target" "$corpus" "$cache/seeds/$target" \
    -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
    >"$cache/$target.log" 2>&1
  code=$?
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$cache/$target.log")
  covered=$(grep -oE 'cov: [0-9]+' "$cache/$target.log" | tail -n 1)
  if ((code)); then
    found=1
    printf '%-12s FOUND something: %s\n' "$target" "$cache/$target.log"
    grep -E "panicked|Test unit written|ERROR: libFuzzer|memory allocation" "$cache/$target.log" | head -n 5
  elif ((${executed:-0} == 0)); then
    found=1
    printf '%-12s executed nothing: %s\n' "$target" "$cache/$target.log"
  else
    printf '%-12s %10s executions  %s\n' "$target" "$executed" "$covered"
  fi
done
exit $found
