#!/usr/bin/env bash
# The tests of the kernels and of the formats on Arm, emulated: NEON paths are compared with their scalar twins there.
# Usage: scripts/check-arm.sh [PACKAGE...]; without names esker-index and esker-format. As root on Debian or Ubuntu, with
# debootstrap: compiler and emulator live in a Debian of their own in the user's cache (a minute, 1.2 GB, once). The
# sources are mounted read-only there. Elsewhere: rustup target add aarch64-unknown-linux-gnu, and cargo test --target.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=("$@")
(($#)) || packages=(esker-index esker-format)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker/arm
system=$cache/system
suite=trixie

((EUID == 0)) || { echo "error: must be root, to mount and chroot" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "error: debootstrap is not installed" >&2; exit 1; }

if [[ ! -f $cache/complete ]]; then
  echo "installing a Debian with a compiler for Arm, once" >&2
  rm -rf "$cache"
  mkdir -p "$cache"
  {
    debootstrap --variant=minbase "$suite" "$system"
    # The compiler is newer than that of the suite.
    sed -E "s/^(deb [^ ]+) $suite /\1 $suite-backports /" "$system/etc/apt/sources.list" >"$cache/backports"
    cp "$cache/backports" "$system/etc/apt/sources.list.d/backports.list"
    chroot "$system" dpkg --add-architecture arm64
    chroot "$system" apt-get update --quiet
    chroot "$system" apt-get install --quiet --yes --no-install-recommends -t "$suite-backports" \
      rustc cargo libstd-rust-dev:arm64
    chroot "$system" apt-get install --quiet --yes --no-install-recommends \
      gcc gcc-aarch64-linux-gnu libc6-dev libc6-dev-arm64-cross qemu-user ca-certificates
    chroot "$system" apt-get clean
  } >"$cache/install.log" 2>&1 || { tail -n 20 "$cache/install.log" >&2; exit 1; }
  touch "$cache/complete"
fi

cargo fetch --locked --quiet
export CARGO=${CARGO_HOME:-$HOME/.cargo} SYSTEM=$system PROPTEST_CASES=${PROPTEST_CASES:-64}
mkdir -p "$system"/{source,cargo/registry,target}

# Its own mounts, gone with it.
# shellcheck disable=SC2016
unshare --mount bash -euo pipefail -c '
  mount --bind "$PWD" "$SYSTEM/source"
  mount -o remount,bind,ro "$SYSTEM/source"
  mount --bind "$CARGO/registry" "$SYSTEM/cargo/registry"
  mount -t proc proc "$SYSTEM/proc"
  # The oldest Graviton of Lambda, and everything that the emulator knows.
  for cpu in neoverse-n1 max; do
    echo "== $cpu =="
    chroot "$SYSTEM" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root CARGO_HOME=/cargo CARGO_TARGET_DIR=/target \
      PROPTEST_CASES="$PROPTEST_CASES" \
      CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
      CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
      CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu $cpu" \
      cargo test --manifest-path /source/Cargo.toml --offline --locked --target aarch64-unknown-linux-gnu --lib "$@"
  done
' arm "${packages[@]/#/--package=}"
