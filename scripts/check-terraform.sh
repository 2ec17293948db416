#!/usr/bin/env bash
# Checks infra/terraform without AWS: format, schema, plan, what the planned roles may do, checkov, and that its documents,
# alarms and dashboards agree with each other and with the code.
#
#   scripts/check-terraform.sh            the checks
#   scripts/check-terraform.sh --write    writes the tables of infra/terraform/README.md first
#
# The plan needs TF_CHECK: a command that plans a folder without credentials (DIR --simulate --json FILE [-var NAME=VALUE]).
# Without it terraform's own fmt and validate run where they can, and what is left out is said. checkov comes from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/venv.sh
source scripts/venv.sh

module=infra/terraform
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 scripts/check-terraform.py documents "$@"

plans=()
if [[ -n ${TF_CHECK:-} ]]; then
  mkdir "$scratch/packages"
  for name in ingest query compactor; do printf 'PK' >"$scratch/packages/$name.zip"; done
  "$TF_CHECK" "$module" --simulate --json "$scratch/module.json" -var packages="$scratch/packages" >/dev/null
  plans+=("$scratch/module.json")
  for example in "$module"/examples/*/; do
    json=$scratch/$(basename "$example").json
    "$TF_CHECK" "$example" --simulate --json "$json" >/dev/null
    plans+=("$json")
  done
  python3 scripts/check-terraform.py policies "${plans[@]}"
elif command -v terraform >/dev/null; then
  terraform fmt -check -recursive "$module"
  cp -r "$module" "$scratch/module"
  if terraform -chdir="$scratch/module" init -backend=false -input=false >"$scratch/init" 2>&1; then
    terraform -chdir="$scratch/module" validate
  else
    echo "terraform: the provider cannot be had here; validate was skipped"
  fi
  echo "terraform: TF_CHECK is not set; plan and policies were skipped"
else
  echo "terraform: neither TF_CHECK nor terraform is here; fmt, validate, plan and policies were skipped"
fi

if python=$(venv terraform checkov==3.3.30 promql-parser==0.12.0); then
  "${python%python}checkov" -d "$module" --framework terraform --compact --quiet --skip-download
  "$python" scripts/check-terraform.py queries
else
  echo "checkov: cannot be installed here; it and the check of PromQL were skipped"
fi
