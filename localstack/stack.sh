# What the start scripts share; sourced, not run. A script sets `name`, `port` and `health`, defines `install` (idempotent,
# quiet) and `serve` (runs the server in the foreground), and ends with `stack "$@"`.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker/stacks
state=$cache/run/$name
pid_file=$state/pid
log=$state/log
# A first start of LocalStack on a busy machine takes most of this.
patience=${STACK_PATIENCE:-120}

# The same everywhere, so that one smoke test fits all.
export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-esker-test}
export AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-esker-test-secret}
export AWS_REGION=${AWS_REGION:-us-east-1}

fail() {
  echo "error: $*" >&2
  exit 1
}

# venv NAME PYTHON PACKAGE...: an environment of this Python version in the cache, made once by uv; prints its folder.
venv() {
  local kind=$1 version=$2 key folder
  shift 2
  key=$(printf '%s\n' "$@" | sha256sum | cut -c1-12)
  folder=$cache/$kind-$key
  if [[ ! -f $folder/complete ]]; then
    command -v uv >/dev/null || uv_from_pip
    rm -rf "$folder"
    # Each step is said to fail: `set -e` does not hold where a caller asks whether this worked.
    uv venv --quiet --python "$version" "$folder" >&2 || fail "no Python $version for $kind"
    uv pip install --quiet --python "$folder/bin/python" "$@" >&2 || fail "$kind cannot be installed"
    touch "$folder/complete"
  fi
  echo "$folder"
}

# uv, from PyPI, where there is none.
uv_from_pip() {
  if [[ ! -x $cache/uv/bin/uv ]]; then
    python3 -m venv "$cache/uv"
    "$cache/uv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.5' >&2
  fi
  PATH=$cache/uv/bin:$PATH
}

running() {
  [[ -f $pid_file ]] && kill -0 "$(<"$pid_file")" 2>/dev/null
}

healthy() {
  curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$port$health"
}

start() {
  if running; then
    healthy && echo "http://127.0.0.1:$port" && return
    fail "$name runs (process $(<"$pid_file")) but does not answer; see $log"
  fi
  healthy && fail "something else answers on port $port"
  install
  rm -rf "$state"
  mkdir -p "$state/data"
  # A session of its own, so that `stop` ends what the server started, and a terminal's Ctrl-C does not.
  serve_in_background
  for ((i = 0; i < patience * 5; i++)); do
    healthy && echo "http://127.0.0.1:$port" && return
    running || fail "$name ended: $(tail -n 5 "$log")"
    sleep 0.2
  done
  stop
  fail "$name did not answer within $patience s; see $log"
}

serve_in_background() {
  export -f serve
  export cache state port
  setsid bash -c 'echo $$ >"$0"; serve' "$pid_file" >"$log" 2>&1 </dev/null &
  disown
  while [[ ! -s $pid_file ]]; do sleep 0.05; done
}

stop() {
  if running; then
    local pid
    pid=$(<"$pid_file")
    kill -TERM -- "-$pid" 2>/dev/null || true
    for ((i = 0; i < 50; i++)); do
      running || break
      sleep 0.2
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
  fi
  rm -f "$pid_file"
}

stack() {
  case ${1:-} in
    install) install ;;
    start) start ;;
    stop) stop ;;
    status)
      if running && healthy; then
        echo "$name: http://127.0.0.1:$port (process $(<"$pid_file"))"
      else
        echo "$name: stopped"
        return 1
      fi
      ;;
    *)
      echo "usage: ${0##*/} start|stop|status|install" >&2
      return 2
      ;;
  esac
}
