#!/usr/bin/env python3
"""Writes the tables of docs/measured.md and README.md and the plots of docs/plots from benches/results/*.json, nothing else.

With --check it writes nothing and fails when a table or a plot differs from what the results give.
"""

import json
import sys
from pathlib import Path

import index_tables
from table import machine_text, mb, ms, rate, table

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benches/results/deb63k.json"
HTTP = ROOT / "benches/results/http.json"
PLOTS = ROOT / "docs/plots"


def label(name):
    return "no filter" if name == "none" else f"`{name}`"


def setting(result):
    return (
        f"{result['load'][0]['rows']:,} rows × {result['dimension']}, {result['queries']:,} queries, k = {result['k']}; "
        f"{machine_text(result)}"
    )


def loading(result):
    rows = []
    for load in result["load"]:
        size = load["sizes"]
        rows.append(
            [
                load["vector_type"],
                f"{rate(load['import_rows_per_s'])} rows/s",
                f"{load['compact_s']:.1f} s",
                mb(size["rows"]),
                mb(size["index"]),
                mb(size["compacted"]),
                f"{size['compacted'] / load['rows']:,.0f} B",
            ]
        )
    head = ["vectors", "import", "compact", "rows.parquet", "index", "all files", "a row"]
    return table(head, rows)


def filtered(result):
    rows = []
    for f in result["filters"]:
        rows.append(
            [
                label(f["filter"]),
                f"{f['matches']:,}",
                f"{f['recall']:.4f}",
                f"{f['min_rows']} of {f['wanted_rows']}",
                f"{rate(f['memory_qps'])}/s",
                ms(f["memory_p50_ms"]),
                ms(f["memory_p99_ms"]),
                f"{rate(f['strong_qps'])}/s",
            ]
        )
    head = ["filter", "matches", "recall@10", "least rows", "in memory", "p50", "p99", "strong"]
    return table(head, rows)


def warm(result):
    w = result["warm"]
    peer = w["lancedb"]
    parts = f"{peer['num_partitions']} partitions" if peer["num_partitions"] != "default" else "its default partitions"
    rows = [
        [f"{name}", f"{row['recall']:.4f}", f"{rate(row['qps'])}/s", ms(row["p50_ms"]), ms(row["p99_ms"])]
        for name, row in (
            ("Esker, in memory", w["esker"]),
            ("Esker, strong: each search proves that it saw the newest write", w["esker_strong"]),
            (f"LanceDB {peer['version']} IVF_RQ", peer),
        )
    ]
    text = (
        f"Medians of {w['rounds']} rounds in which both took turns; one caller thread each. LanceDB is called from Python "
        f"and answers with ids and distances: {peer['vector_type']}, {parts}, nprobes {peer['nprobes']}, refine_factor "
        f"{peer['refine_factor']}, of {len(peer['tried'])} settings near the recall the fastest that reaches it. Its table took {peer['ingest_s']:.1f} s to write and "
        f"{peer['index_s']:.1f} s to index, {mb(peer['bytes'])}. In memory Esker is {w['ratio']:.0f} times as fast."
    )
    return text + "\n\n" + table(["", "recall@10", "searches", "p50", "p99"], rows)


def cold(result):
    c = result["cold"]
    rows = []
    for f in c["filters"]:
        rows.append(
            [
                label(f["filter"]),
                f"{f['waves']:.2f} ({f['most_waves']})",
                f"{f['gets']:.0f} ({f['p95_gets']})",
                f"{f['bytes'] / 1e6:.2f} MB ({f['p95_bytes'] / 1e6:.2f})",
                f"{f['recall']:.4f}",
                ms(f["p50_ms"]),
                ms(f["p99_ms"]),
            ]
        )
    p = c["process"]
    text = (
        f"S3 server of the tests, {c['latency_ms']} ms added to each request; nothing cached, strong. Means; in "
        f"brackets the most waves of any query, and the requests and bytes that 95 of 100 stay within. {p['processes']} fresh processes of `esker search`, payload included: "
        f"{p['waves']:.0f} waves ({p['most_waves']}), {p['gets']:.0f} GETs ({p['most_gets']}), {mb(p['bytes'])} "
        f"({p['most_bytes'] / 1e6:.2f}), {ms(p['took_ms'])} in the search and {ms(p['wall_ms'])} from start to exit "
        f"(medians; in brackets the most)."
    )
    return text + "\n\n" + table(["filter", "waves", "GETs", "read", "recall@10", "p50", "p99"], rows)


def measured(result):
    parts = [setting(result), "### Import and compaction", loading(result), "### Filters", filtered(result)]
    if "warm" in result:
        parts += ["### Warm, beside LanceDB", warm(result)]
    parts += ["### Cold, over S3", cold(result)]
    return "\n\n".join(parts)


def over_http(result):
    m, s, u, c = (result[key] for key in ("machine", "search", "upsert", "crowd"))
    setting = (
        f"{m['cores']} cores of {m['cpu']}, shared by client and server, load average {m['load_average']:.1f} at the start and "
        f"{m['load_average_after']:.1f} at the end; {m['date']}."
    )
    searches = [
        ["strong", ms(s["engine_strong"]), ms(s["http_strong"]), ms(s["added_strong_ms"]), ms(s["http_strong_p99"])],
        [
            "eventual; in memory",
            ms(s["engine_memory"]),
            ms(s["http_eventual"]),
            ms(s["added_memory_ms"]),
            ms(s["http_eventual_p99"]),
        ],
    ]
    single = f"One row of 384 a request, durable in a directory: p50 {ms(u['p50_ms'])}, p99 {ms(u['p99_ms'])}."
    crowd = f"{rate(c['requests_per_s'])} requests/s, {c['errors']} errors"
    text = (
        f"A warm search, {s['queries']:,} queries of deb63k, k = {result['k']}, ids and distances, medians of {s['rounds']} rounds. The "
        f"same client waits {ms(s['healthz'])} for `/healthz`."
    )
    loads = {}
    for row in result["bulk"]:
        loads.setdefault(row["encoding"], []).append(row)
    bulk = [[name, *(f"{rate(r['rows_per_s'])} rows/s" for r in rows)] for name, rows in loads.items()]
    connections = [f"{r['connections']} connection{'s' * (r['connections'] > 1)}" for r in result["bulk"][:2]]
    many = [[kind, f"{p['n']:,}", ms(p["p50_ms"]), ms(p["p99_ms"])] for kind, p in c["by_kind"].items()]
    return "\n\n".join(
        [
            setting,
            text,
            table(["consistency", "engine p50", "over HTTP p50", "added", "over HTTP p99"], searches),
            f"{single} Batches of rows of 768 floats:",
            table(["encoding", *connections], bulk),
            f"{c['clients']} clients at once for {c['seconds']:.0f} s: {crowd}.",
            table(["request", "answered", "p50", "p99"], many),
        ]
    )


def glance(result):
    load, p = result["load"][0], result["cold"]["process"]
    filters = [f for f in result["filters"] if f["filter"] != "none"]
    least = min(filters, key=lambda f: f["recall"])
    full = all(f["min_rows"] == f["wanted_rows"] for f in filters)
    rows = []
    if "warm" in result:
        w = result["warm"]
        peer = w["lancedb"]
        rows.append(
            [
                "warm search, recall@10 ≥ 0.98, one caller thread",
                f"{rate(w['esker']['qps'])}/s at {w['esker']['recall']:.3f}; "
                f"{rate(w['esker_strong']['qps'])}/s strong, from a directory",
                f"LanceDB {peer['version']} IVF_RQ: {rate(peer['qps'])}/s at {peer['recall']:.3f}",
            ]
        )
    rows += [
        [
            f"first search of a fresh process over S3, {result['cold']['latency_ms']} ms a request",
            f"{p['waves']:.0f} waves, {p['gets']:.0f} GETs, {mb(p['bytes'])}, {ms(p['took_ms'])}",
            "",
        ],
        [
            f"recall@10 under {len(filters)} filters that pass {min(f['matches'] for f in filters):,} rows and more",
            f"≥ {least['recall']:.3f}" + (", never a row too few" if full else ""),
            "",
        ],
        ["import into a local directory, acknowledged", f"{rate(load['import_rows_per_s'])} rows/s", ""],
        [
            "cluster, encode and commit",
            f"{load['compact_s']:.1f} s",
            f"index alone: {result['warm']['lancedb']['index_s']:.1f} s" if "warm" in result else "",
        ],
    ]
    rows += index_tables.glance(RESULT.parent)
    text = f"{setting(result)} [docs/measured.md](docs/measured.md) has the rest; `benches/run.sh` measures again."
    return table(["what", "Esker", "beside it, same run"], rows) + "\n\n" + text


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    result = json.loads(RESULT.read_text("utf-8"))
    pages = [
        (ROOT / "docs/measured.md", "deb63k", measured(result)),
        (ROOT / "README.md", "numbers", glance(result)),
    ]
    if HTTP.exists():
        pages.append((ROOT / "docs/measured.md", "http", over_http(json.loads(HTTP.read_text("utf-8")))))
    index, plots = index_tables.measured(RESULT.parent)
    pages.append((ROOT / "docs/measured.md", "index", index))
    stale = []
    for page, mark, body in pages:
        old = page.read_text("utf-8")
        start, end = f"<!-- {mark}:start -->\n", f"<!-- {mark}:end -->"
        if start not in old or end not in old:
            sys.exit(f"error: {page} lacks the marks of {mark}")
        new = old[: old.index(start) + len(start)] + body + "\n" + old[old.index(end) :]
        if new == old:
            continue
        if check:
            stale.append(page.name)
        else:
            page.write_text(new, "utf-8")
    for name, plot in plots.items():
        path = PLOTS / name
        if path.exists() and path.read_text("utf-8") == plot:
            continue
        if check:
            stale.append(path.name)
        else:
            PLOTS.mkdir(exist_ok=True)
            path.write_text(plot, "utf-8")
    if stale:
        sys.exit(f"error: {', '.join(stale)}: not those of benches/results: run benches/tables.py")


if __name__ == "__main__":
    main()
