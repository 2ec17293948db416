#!/usr/bin/env bash
# The packages of the three functions: target/lambda/ARCHITECTURE/{ingest,query,compactor}.zip, for arm64 unless another is named.
# Usage: infra/package.sh [arm64|x86_64] [PROFILE]. The first build takes a quarter of an hour on two cores. cargo-lambda and zig
# come from PyPI; for another machine's architecture the toolchain needs its target: rustup target add aarch64-unknown-linux-gnu.
set -euo pipefail

case ${1:-arm64} in
  arm64) triple=aarch64-unknown-linux-gnu ;;
  x86_64) triple=x86_64-unknown-linux-gnu ;;
  *)
    echo "usage: infra/package.sh [arm64|x86_64] [PROFILE]" >&2
    exit 2
    ;;
esac
architecture=${1:-arm64} profile=${2:-dist}
# What Lambda's provided.al2023 has.
glibc=2.34
# What a package may have, in bytes.
most=$((30 << 20))

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR
source scripts/venv.sh
python=$(venv lambda cargo-lambda==1.9.2 ziglang==0.17.1)
PATH=$(dirname "$python"):$PATH

if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$triple ]]; then
  echo "error: the toolchain cannot build for $triple; run: rustup target add $triple" >&2
  exit 1
fi

# zig is the linker, and no flag of this machine is the function's.
variable=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")
unset RUSTFLAGS "${variable}_LINKER" "${variable}_RUSTFLAGS"
# The profile says how to optimise: cargo-lambda's own settings abort at a panic, which here is answered.
cargo-lambda lambda build --disable-optimizations --locked --profile "$profile" --target "$triple.$glibc" \
  --lambda-dir "target/lambda/$architecture" -p esker-ingest -p esker-query -p esker-compactor \
  --bin esker-ingest --bin esker-query --bin esker-compactor \
  --features esker-ingest/function,esker-query/function,esker-compactor/function

failed=0
for name in ingest query compactor; do
  program=target/lambda/$architecture/esker-$name/bootstrap
  package=target/lambda/$architecture/$name.zip
  # Dated alike, so that the same program is the same package.
  "$python" - "$program" "$package" <<'PYTHON'
import sys, zipfile
program, package = sys.argv[1:]
info = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
info.external_attr, info.compress_type = 0o755 << 16, zipfile.ZIP_DEFLATED
with zipfile.ZipFile(package, "w") as zipped:
    zipped.writestr(info, open(program, "rb").read(), compresslevel=9)
PYTHON
  size=$(stat -c %s "$package")
  newest=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
  printf '%-13s %5.1f MiB unpacked %5.1f MiB, asks for %s\n' "$name.zip" \
    "$(bc -l <<<"$size / 1048576")" "$(bc -l <<<"$(stat -c %s "$program") / 1048576")" "${newest:-no glibc}"
  if ((size > most)); then
    echo "error: $package is larger than $((most >> 20)) MiB" >&2
    failed=1
  fi
  if [[ $(printf '%s\n' "GLIBC_$glibc" "$newest" | sort -V | tail -n 1) != "GLIBC_$glibc" ]]; then
    echo "error: $program asks for $newest, and the function's system has GLIBC_$glibc" >&2
    failed=1
  fi
done
exit "$failed"
