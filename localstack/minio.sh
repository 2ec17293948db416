#!/usr/bin/env bash
# MinIO, built from its (archived) source by Go where no `minio` is in PATH: `start` prints its endpoint. The first build
# takes some four minutes and is kept. PORT may be set.
set -euo pipefail

name=minio
port=${PORT:-9000}
health=/minio/health/ready
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

# The last commit of the repository.
version=v0.0.0-20260212201848-7aac2a2c5b7c

install() {
  minio=$(command -v minio || true)
  if [[ -z $minio ]]; then
    minio=$cache/bin/minio
    if [[ ! -x $minio ]]; then
      command -v go >/dev/null || fail "neither minio nor go is in PATH"
      echo "building MinIO, once" >&2
      GOBIN=$cache/bin nice -n 15 go install "github.com/minio/minio@$version" 2>"$cache/minio-build.log" ||
        fail "MinIO cannot be built; see $cache/minio-build.log"
    fi
  fi
  export minio
}

serve() {
  export MINIO_ROOT_USER=$AWS_ACCESS_KEY_ID MINIO_ROOT_PASSWORD=$AWS_SECRET_ACCESS_KEY MINIO_UPDATE=off MINIO_BROWSER=off
  exec "$minio" server "$state/data" --address "127.0.0.1:$port" --quiet
}

mkdir -p "$cache"
stack "$@"
