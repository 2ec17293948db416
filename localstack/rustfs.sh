#!/usr/bin/env bash
# RustFS, whose binary must be in PATH or named by RUSTFS: `start` prints its endpoint. Rust 1.98.1 and later build it
# (`cargo install rustfs`); it is not built here, as Esker's own toolchain is older.
# With Docker: docker compose -f localstack/compose.yaml up -d rustfs. PORT may be set.
set -euo pipefail

name=rustfs
port=${PORT:-9100}
health=/health
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

install() {
  rustfs=${RUSTFS:-$(command -v rustfs || true)}
  [[ -n $rustfs ]] || fail "rustfs is not in PATH; name its binary with RUSTFS, run cargo +1.98.1 install rustfs, or use compose.yaml"
  export rustfs
}

serve() {
  export RUSTFS_ACCESS_KEY=$AWS_ACCESS_KEY_ID RUSTFS_SECRET_KEY=$AWS_SECRET_ACCESS_KEY
  export RUSTFS_ADDRESS=127.0.0.1:$port RUSTFS_CONSOLE_ENABLE=false
  exec "$rustfs" "$state/data"
}

stack "$@"
