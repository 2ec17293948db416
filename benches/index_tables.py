"""Tables of the index: beside other engines, generated sets, filter grid, changes, storage."""

import json

from plots import NAMES, curves, growth, rounds, speed
from table import machine_text, mb, ms, rate, table

RECALLS = (0.9, 0.95, 0.98, 0.99)
SHARES = {0.5: "50 %", 0.1: "10 %", 0.01: "1 %", 0.001: "0.1 %", 0.0001: "0.01 %"}
KINDS = {"random": "at random", "with": "near the query", "against": "far from it"}


def read(folder, name):
    """The results of one kind, the smaller sets first."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(name))]
    return sorted(found, key=lambda r: (r["rows"], r["set"]))


def fastest(engine, recall, key=speed):
    """The setting with the most searches a second of those that reach a recall."""
    rows = [row for row in engine["curve"] if row["recall"] >= recall]
    return max(rows, key=key, default=None)


def speeds(engine, recall):
    """Searches a second at a recall; in brackets those of one query after another, where many in one call are faster."""
    most, single = fastest(engine, recall), fastest(engine, recall, lambda row: row["qps"])
    if most is None:
        return "–"
    alone = "" if speed(most) == single["qps"] else f" ({rate(single['qps'])})"
    return f"{rate(speed(most))}/s{alone}"


def beside(result):
    rows = []
    for engine in result["engines"]:
        rows.append(
            [
                f"{NAMES[engine['engine']]} {engine['version']}",
                engine["about"],
                f"{engine['build_s']:.0f} s" if "build_s" in engine else "",
                mb(engine["bytes"]),
                *(speeds(engine, recall) for recall in RECALLS),
            ]
        )
    head = ["", "index", "built in", "bytes", *(f"recall ≥ {r}" for r in RECALLS)]
    turns = max(len(row.get("turns_qps", [])) for engine in result["engines"] for row in engine["curve"])
    text = (
        f"{result['rows']:,} rows × {result['dimension']}, {result['queries']:,} queries, k = {result['k']}, medians of "
        f"{result['rounds']} rounds{f', of Esker {turns} turns between the others' if turns else ''}. {machine_text(result)}"
    )
    return "\n\n".join(
        [f"**{result['set']}.** {text}", table(head, rows), f"![Recall and speed](plots/curves-{result['set']}.svg)"]
    )


def cold(result):
    rows = []
    for e in result["engines"]:
        rows.append(
            [
                f"{NAMES[e['engine']]} {e.get('version', '')}".strip(),
                f"{e['recall']:.3f}",
                ms(e["took_ms"]),
                ms(e["p95_took_ms"]),
                f"{e['rounds']:.1f} ({e['most_rounds']})",
                f"{e['requests']:.0f} ({e['most_requests']})",
                f"{e['bytes'] / 1e6:.2f} MB ({e['most_bytes'] / 1e6:.2f})",
            ]
        )
    head = ["", "recall@10", "from the call", "p95", "rounds", "requests", "read"]
    text = (
        f"**{result['set']}**, {result['processes']} fresh processes of each, in turns; {result['latency_ms']} ms added to each request. "
        f"{machine_text(result)}"
    )
    return "\n\n".join([text, table(head, rows), f"![Time against rounds](plots/cold-{result['set']}.svg)"])


def span(dates):
    """From the first to the last, if they differ."""
    dates = sorted(dates)
    return " to ".join(dict.fromkeys((dates[0], dates[-1])))


def machines(sets):
    """Which sets were measured on which machine."""
    by = {}
    for r in sets:
        m = r["machine"]
        by.setdefault(f"{m['cores']} cores of {m['cpu']}, {m['memory_gib']} GiB", []).append(r)
    lines = []
    for machine, own in by.items():
        loads = [r["machine"][key] for r in own for key in ("load_average", "load_average_after")]
        when = span(r["machine"]["date"] for r in own)
        names = ", ".join(r["set"] for r in own)
        lines.append(f"{machine}, load average {min(loads):.1f} to {max(loads):.1f}, {when}: {names}.")
    return " ".join(lines)


def builds(sets):
    rows = []
    for r in sets:
        if "import" not in r:
            continue
        i, c = r["import"], r["compact"]
        most = max(i["rss_bytes"], c["rss_bytes"])
        rows.append(
            [
                r["set"],
                f"{i['wall_s']:.1f} s ({i['cpu_s']:.0f} s)",
                f"{c['wall_s']:.1f} s ({c['cpu_s']:.0f} s)",
                f"{most / 2**20:,.0f} MiB of {r['memory']}",
                r["segments"],
                f"{r['live_bytes'] / r['rows']:,.0f} B",
            ]
        )
    return table(["set", "import (processor)", "compact (processor)", "most memory", "segments", "a row"], rows)


def searched(sets):
    rows = []
    for r in sets:
        for w in r["warm"]:
            m, s = w["memory"], w["strong"]
            cells = [r["set"], f"{w['min_recall']}", f"{m['recall']:.4f}", f"{rate(m['qps'])}/s", ms(m["p50_ms"])]
            rows.append([*cells, ms(m["p99_ms"]), ms(s["p50_ms"])])
    return table(["set", "asked", "recall@10", "in memory", "p50", "p99", "strong p50"], rows)


def asked(sets):
    rows = []
    for r in sets:
        for c in r["cold"]:
            rows.append(
                [
                    r["set"],
                    c["filter"] if c["predicate"] is None else f"`{c['predicate']}`",
                    f"{c['matches']:,}",
                    f"{c['waves']:.2f} ({c['most_waves']})",
                    f"{c['gets']:.0f} ({c['p95_gets']})",
                    f"{c['bytes'] / 1e6:.2f} MB ({c['p95_bytes'] / 1e6:.2f})",
                    f"{c['recall']:.4f}",
                ]
            )
    return table(["set", "filter", "matches", "waves", "GETs", "read", "recall@10"], rows)


def times(ratio):
    return f"{ratio:.1f}×" if ratio >= 0.05 else "< 0.1×"


def grid(result):
    cells = {(c["share"], c["kind"]): c for c in result["cells"]}
    rows = []
    for share, name in SHARES.items():
        row = [name]
        for kind in KINDS:
            c = cells[share, kind]
            full = "" if c["full_share"] == 1 else f", {c['full_share']:.1%} full"
            row.append(f"{c['recall']:.4f}{full}; {times(c['memory_p99_ratio'])}, {times(c['strong_p99_ratio'])}")
        rows.append(row)
    text = (
        f"**{result['set']}**, {result['queries']} queries a cell: recall@10, then p99 beside that of the same queries unfiltered, "
        f"in memory and strong, each the least of {result['rounds']} runs. {machine_text(result)}"
    )
    return f"{text}\n\n{table(['passes', *KINDS.values()], rows)}"


def tail(result):
    rows = []
    for name, key in (("all indexed", "without"), (f"and {result['tail']:,} rows that are not", "with")):
        m, s = result[key]["memory"], result[key]["strong"]
        rows.append([name, f"{s['recall']:.4f}", ms(s["p50_ms"]), ms(s["p99_ms"]), ms(m["p50_ms"]), ms(m["p99_ms"])])
    text = (
        f"**{result['set']}**: {result['tail']:,} new rows took {result['import']['wall_s']:.1f} s to import and "
        f"{result['compact']['wall_s']:.1f} s to index. By turns with and without them, the p50 is {result['strong_p50_ratio']:.2f} times as "
        f"long with them, {result['memory_p50_ratio']:.2f} in memory (medians of {len(result['rounds'])} rounds). {machine_text(result)}"
    )
    head = ["", "recall@10", "strong p50", "p99", "in memory p50", "p99"]
    return f"{text}\n\n{table(head, rows)}"


def changes(result):
    d, c = result["deletes"], result["churn"]
    last = c["rounds"][-1]
    head = ["round", "rows", "segments", "recall@10"]
    rows = [[r["round"], f"{r['rows']:,}", len(r["segments"]), f"{r['recall']['memory']:.4f}"] for r in c["rounds"]]
    rows.append(["built afresh", f"{last['rows']:,}", "", f"{c['fresh']['memory']:.4f}"])
    return "\n\n".join(
        [
            f"{d['queries']} queries of {result['set']}, each after its own {d['deleted']} nearest rows were deleted: recall@10 "
            f"{d['at_once']['strong']:.4f} at once, {d['compacted']['strong']:.4f} after compaction.",
            table(head, rows),
            f"All rounds together: {c['amplification']:.2f} bytes written by compactions for each byte of log they folded, "
            f"{c['amplification_compacted']:.2f} for each byte that these rows take compacted. {machine_text(result)}",
        ]
    )


def stored(result):
    rows = []
    for kind in ("f32", "f16"):
        r = result[kind]
        parts = [mb(n) for n in (r["rows"], r["index"], r["head"] + r["manifest"], r["total"])]
        rows.append([kind, *parts, f"{r['times_smaller']:.2f}×"])
    text = (
        f"All objects that the newest manifest of the compacted {result['set']} reaches, beside its rows as JSON with the fewest digits "
        f"that read back exactly: {mb(result['json_bytes'])}, {result['json_bytes'] / result['rows']:,.0f} B a row."
    )
    return f"{text}\n\n{table(['vectors', 'rows.parquet', 'index', 'head, manifest', 'all', 'smaller'], rows)}"


def measured(folder):
    """The page's text, of whatever was measured, and its plots by name."""
    page, plots = [], {}

    def part(title, pieces):
        if pieces:
            page.extend([f"### {title}", *pieces])

    curved, colds = read(folder, "curves-*.json"), read(folder, "cold-*.json")
    sets, grids = read(folder, "set-*.json"), read(folder, "grid-*.json")
    plots |= {f"curves-{r['set']}.svg": curves(r) for r in curved}
    plots |= {f"cold-{r['set']}.svg": rounds(r) for r in colds}
    part("Warm, beside other engines", [beside(r) for r in curved])
    part("Cold, beside other engines", [cold(r) for r in colds])
    if sets:
        page.append("### Generated sets")
        warm = [r for r in sets if r["warm"]]
        page.append(f"{len(warm[0]['warm'])} recalls asked for. {machines(sets)}")
        text = (
            "Cold, over a directory: what each search asks of the store. Means; in brackets the most waves, and the requests and "
            f"bytes that 95 of 100 stay within. Counted {span(r.get('cold_machine', r['machine'])['date'] for r in sets)}."
        )
        page.extend([builds(sets), searched(sets), text, asked(sets)])
    if len({r["rows"] for r in sets}) > 1:
        plots["bytes.svg"] = growth(sets)
        page.append("![Bytes of a cold search against rows](plots/bytes.svg)")
    part("Filter grid", [grid(r) for r in grids])
    part("Rows not indexed yet", [tail(r) for r in read(folder, "tail-*.json")])
    part("Deletes and churn", [changes(r) for r in read(folder, "churn.json")])
    part("Storage", [stored(r) for r in read(folder, "storage.json")])
    return "\n\n".join(page), plots


def glance(folder):
    """Rows of the README's table."""
    rows = []
    single = lambda row: row["qps"]
    for result in read(folder, "curves-*.json"):
        engines = {NAMES[e["engine"]]: fastest(e, 0.98, single) for e in result["engines"]}
        ours = engines.pop(NAMES["esker"], None)
        others = ", ".join(f"{name} {rate(row['qps']) + '/s' if row else 'does not reach it'}" for name, row in engines.items())
        if ours:
            about = f"{result['set']}, {result['rows']:,} × {result['dimension']}, on {result['machine']['cpu']}"
            what = f"warm search, one query after another, recall@10 ≥ 0.98 ({about})"
            rows.append([what, f"{rate(ours['qps'])}/s at {ours['recall']:.3f}", others])
    for result in read(folder, "cold-deb63k.json"):
        engines = {e["engine"]: e for e in result["engines"]}
        ours = engines.pop("esker", None)
        others = ", ".join(f"{NAMES[name]} {ms(e['took_ms'])}" for name, e in engines.items())
        if ours:
            rows.append(["first search of a fresh process, from the call", ms(ours["took_ms"]), others])
    return rows
