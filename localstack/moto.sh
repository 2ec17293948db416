#!/usr/bin/env bash
# moto's server, from PyPI: `start` prints its endpoint. PORT may be set.
set -euo pipefail

name=moto
port=${PORT:-5566}
health=/moto-api/
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

install() {
  local folder
  folder=$(venv moto 3 'moto[s3,server]==5.2.5') || exit 1
  export moto=$folder/bin/moto_server
}

serve() {
  exec "$moto" -H 127.0.0.1 -p "$port"
}

stack "$@"
