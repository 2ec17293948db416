#!/usr/bin/env python3
"""Apply deny.toml (licences, bans, sources) to `cargo metadata`, for machines without cargo-deny.

Says the same as `cargo deny check bans licenses sources` for the rules that deny.toml uses; a rule it does not know is
an error here, never skipped. Needs Python 3.11 (tomllib) and cargo.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {
    "graph": {"all-features"},
    "licenses": {"allow", "confidence-threshold", "private"},
    "bans": {"multiple-versions", "wildcards", "allow-wildcard-paths", "deny"},
    "sources": {"unknown-registry", "unknown-git"},
}


def accepts(expression, allowed):
    """Evaluate an SPDX expression; `/` is the old spelling of OR."""
    words = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    position = 0

    def peek():
        return words[position].upper() if position < len(words) else None

    def take():
        nonlocal position
        position += 1
        return words[position - 1]

    def term():
        if peek() == "(":
            take()
            value = either()
            take()
            return value
        name = take()
        if peek() == "WITH":
            take()
            name = f"{name} WITH {take()}"
        return name in allowed

    def both():
        value = term()
        while peek() == "AND":
            take()
            value = term() and value
        return value

    def either():
        value = both()
        while peek() in ("OR", "/"):
            take()
            value = both() or value
        return value

    return either()


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text("utf-8"))
    for section, keys in rules.items():
        unknown = set(keys) - KNOWN.get(section, set())
        if unknown:
            sys.exit(f"error: deny.toml: this script does not know {section}.{', '.join(sorted(unknown))}")
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    allowed = set(rules["licenses"]["allow"])
    banned = {entry["crate"]: entry["reason"] for entry in rules["bans"]["deny"]}
    # One registry serves all: serde's, which no project here does without. A git source is never it.
    registry = next(p["source"] for p in metadata["packages"] if p["name"] == "serde")
    problems = [] if registry.startswith("registry+") else [f"serde comes from {registry}"]
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if not package["license"]:
            problems.append(f"{name}: no licence expression")
        elif not accepts(package["license"], allowed):
            problems.append(f"{name}: licence {package['license']} is not allowed")
        if package["name"] in banned:
            problems.append(f"{name}: banned, {banned[package['name']]}")
        if package["source"] not in (None, registry):
            problems.append(f"{name}: unknown source {package['source']}")
        for dependency in package["dependencies"]:
            if package["source"] is None and dependency["req"] == "*" and not dependency.get("path"):
                problems.append(f"{name}: any version of {dependency['name']} would do; name one")
    for problem in sorted(problems):
        print(problem)
    if problems:
        sys.exit(f"error: {len(problems)} against deny.toml")
    print(f"deny.toml: {len(metadata['packages'])} packages, licences, bans and sources as allowed")


if __name__ == "__main__":
    main()
