#!/usr/bin/env bash
# LocalStack without Docker: `start` prints its endpoint. The version is the last that needs no account, its packages
# those of its day. SERVICES and PORT may be set.
set -euo pipefail

name=localstack
port=${PORT:-4566}
health=/_localstack/health
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

export UV_EXCLUDE_NEWER=2025-07-01
export SERVICES=${SERVICES:-s3,sqs}

install() {
  local folder
  folder=$(venv localstack 3.11 'localstack-core[runtime]==4.5.0') || exit 1
  export python=$folder/bin/python
}

serve() {
  export DISABLE_EVENTS=1 SKIP_SSL_CERT_DOWNLOAD=1 GATEWAY_LISTEN=127.0.0.1:$port
  export LOCALSTACK_VOLUME_DIR=$state/data FILESYSTEM_ROOT=$state/data DNS_ADDRESS=0
  exec "$python" -m localstack.runtime.main
}

stack "$@"
