# What the torture scripts share; sourced, not run. Sets ESKER, store (a place of its own below STORE_URL) and work; makes
# the bucket where AWS_ENDPOINT_URL says that there is a server of ours.

# prepare STORE_URL
prepare() {
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  export ESKER=${ESKER:-$here/../../target/release/esker}
  [[ -x $ESKER ]] || { echo "error: there is no $ESKER; build it, or name another with ESKER" >&2; exit 1; }
  ESKER=$(realpath "$ESKER")
  work=$(mktemp -d)
  export TORTURE_WORK=$work PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
  store=${1%/}/torture-$(date +%s)-$$
  if [[ $store == s3://* ]]; then
    export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-esker-test}
    export AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-esker-test-secret}
    export AWS_REGION=${AWS_REGION:-us-east-1} AWS_ALLOW_HTTP=true
    if [[ -n ${AWS_ENDPOINT_URL:-} ]]; then
      local bucket=${store#s3://}
      curl --silent --output /dev/null --request PUT --aws-sigv4 "aws:amz:$AWS_REGION:s3" \
        --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$AWS_ENDPOINT_URL/${bucket%%/*}" ||
        { echo "error: nothing answers at $AWS_ENDPOINT_URL" >&2; exit 1; }
    fi
  else
    mkdir -p "$store"
    store=$(realpath "$store")
  fi
  trap finish EXIT
}

# Where something was wrong, logs and store stay.
finish() {
  local code=$?
  if ((code)); then
    echo "logs and acknowledgements are in $work, the store is $store" >&2
  else
    rm -rf "$work"
    [[ $store == s3://* ]] || rm -rf "$store"
  fi
}
