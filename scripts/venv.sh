# Sourced, not run: Python packages at fixed versions, in an environment of their own that is kept between runs.

# venv NAME PACKAGE==VERSION...: makes it once per set of packages and version of Python; prints its python.
venv() {
  local name=$1 key folder
  shift
  key=$(printf '%s\n' "$@" "$(python3 --version)" | sha256sum | cut -c1-12)
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/esker/$name-$key
  if [[ ! -f $folder/complete ]]; then
    # Each step is said to fail: `set -e` does not hold everywhere that this is called.
    rm -rf "$folder"
    python3 -m venv "$folder" >&2 || return 1
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 || return 1
    touch "$folder/complete"
  fi
  echo "$folder/bin/python"
}
