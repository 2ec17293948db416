#!/usr/bin/env bash
# s3s-fs, a server whose creates race: the one that `esker doctor` must refuse. Built by cargo, once, in some three
# minutes; `start` prints its endpoint. PORT may be set.
set -euo pipefail

name=s3s-fs
port=${PORT:-9200}
health=/
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

# Any answer will do: without a signature it is a refusal.
healthy() {
  curl --silent --max-time 2 --output /dev/null "http://127.0.0.1:$port$health"
}

install() {
  s3s_fs=$cache/s3s-fs/bin/s3s-fs
  if [[ ! -x $s3s_fs ]]; then
    echo "building s3s-fs, once" >&2
    CARGO_TARGET_DIR=$cache/s3s-fs/target nice -n 15 cargo install --quiet --locked --debug --root "$cache/s3s-fs" \
      s3s-fs --version '0.14.*' --features binary 2>"$cache/s3s-fs-build.log" ||
      fail "s3s-fs cannot be built; see $cache/s3s-fs-build.log"
    rm -rf "$cache/s3s-fs/target"
  fi
  export s3s_fs
}

serve() {
  exec "$s3s_fs" --host 127.0.0.1 --port "$port" --access-key "$AWS_ACCESS_KEY_ID" \
    --secret-key "$AWS_SECRET_ACCESS_KEY" "$state/data"
}

mkdir -p "$cache"
stack "$@"
