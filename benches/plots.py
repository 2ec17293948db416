"""Plots as SVG text, from results: recall and speed, bytes against rows, time against rounds. Standard library only."""

import math

WIDTH, HEIGHT = 680, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 180, 34, 46
COLOURS = {
    "esker": "#c2410c",
    "hnswlib": "#2563eb",
    "faiss": "#15803d",
    "lancedb": "#7c3aed",
    "infino": "#0e7490",
    "guide": "#9ca3af",
}
OTHERS = ["#c2410c", "#2563eb", "#15803d", "#7c3aed", "#0e7490", "#b45309"]
NAMES = {"esker": "Esker", "hnswlib": "hnswlib", "faiss": "Faiss IVF-PQ fast-scan", "lancedb": "LanceDB IVF_RQ", "infino": "infino"}


class Axis:
    """Places of values between two ends, in pixels."""

    def __init__(self, low, high, begin, end, log=False, ticks=None):
        self.low, self.high, self.begin, self.end, self.log = low, high, begin, end, log
        self.ticks = ticks or (powers(low, high) if log else steps(low, high))

    def __call__(self, value):
        of = math.log10 if self.log else float
        share = (of(value) - of(self.low)) / (of(self.high) - of(self.low))
        return round(self.begin + share * (self.end - self.begin), 1)


def powers(low, high):
    out = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        out += [m * 10**exponent for m in (1, 2, 5)]
    return [t for t in out if low <= t <= high]


def steps(low, high):
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(int((high - low) / step + 1e-9) + 1)]


def short(value):
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def text(x, y, words, anchor="start", extra=""):
    words = str(words).replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{extra}>{words}</text>'


def chart(title, x, y, x_name, y_name, series):
    """`series`: name, colour, points as (x, y, label or None), and whether a line joins them."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#374151">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 20, title, extra=' font-size="14" font-weight="bold"'),
    ]
    for tick in x.ticks:
        out.append(f'<path d="M{x(tick)} {y.begin}V{y.end}" stroke="#e5e7eb"/>')
        out.append(text(x(tick), y.begin + 16, short(tick), "middle"))
    for tick in y.ticks:
        out.append(f'<path d="M{x.begin} {y(tick)}H{x.end}" stroke="#e5e7eb"/>')
        out.append(text(x.begin - 6, y(tick) + 4, short(tick), "end"))
    out.append(text((x.begin + x.end) / 2, HEIGHT - 10, x_name, "middle"))
    middle = (y.begin + y.end) / 2
    out.append(text(16, middle, y_name, "middle", f' transform="rotate(-90 16 {middle})"'))
    for place, (name, colour, points, joined) in enumerate(series):
        shown = [(x(a), y(b), label) for a, b, label in points]
        if joined and len(shown) > 1:
            path = "L".join(f"{a} {b}" for a, b, _ in shown)
            dash = ' stroke-dasharray="5 4"' if colour == COLOURS["guide"] else ""
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if colour != COLOURS["guide"]:
            out += [f'<circle cx="{a}" cy="{b}" r="3.5" fill="{colour}"/>' for a, b, _ in shown]
        out += [text(a + 6, b - 6, label, extra=' font-size="10"') for a, b, label in shown if label]
        row = TOP + 14 + 20 * place
        out.append(f'<path d="M{x.end + 10} {row - 4}h14" stroke="{colour}" stroke-width="3"/>')
        out.append(text(x.end + 28, row, name, extra=' font-size="11"'))
    return "\n".join([*out, "</svg>\n"])


def axes(x, y, x_log=False, y_log=False):
    """Axes that hold all values, a little wider."""
    wide = lambda low, high, log: (low / 1.15, high * 1.15) if log else (low, high)
    across = Axis(*wide(min(x), max(x), x_log), LEFT, WIDTH - RIGHT, x_log)
    return across, Axis(*wide(min(y), max(y), y_log), HEIGHT - BOTTOM, TOP, y_log)


def front(points):
    """Of (recall, speed) those that no other beats in both, by recall."""
    best, out = 0, []
    for recall, speed in sorted(points, reverse=True):
        if speed > best:
            best = speed
            out.append((recall, speed))
    return out[::-1]


def speed(row):
    return max(row["qps"], row.get("batch_qps", 0))


def curves(result):
    series, every = [], []
    for engine in result["engines"]:
        points = [p for p in front((r["recall"], speed(r)) for r in engine["curve"]) if p[0] >= 0.85]
        every += points
        name = engine["engine"]
        series.append((NAMES[name], COLOURS[name], [(a, b, None) for a, b in points], True))
    x, y = axes([0.85, 1.0], [b for _, b in every], y_log=True)
    title = f"{result['set']}: {result['rows']:,} rows × {result['dimension']}, one thread"
    return chart(title, x, y, "recall@10", "searches a second", series)


def growth(sets):
    """Bytes of a cold query against rows, one line for each kind of set, and the slope 0.6."""
    kinds = {}
    for result in (r for r in sets if r["warm"]):
        plain = next(r for r in result["cold"] if r["filter"] == "none")
        kind = f"{result['set'].split('-')[0]}, {result['dimension']}-d"
        kinds.setdefault(kind, []).append((result["rows"], plain["bytes"] / 1e6, None))
    every = [p for points in kinds.values() for p in points]
    x, y = axes([p[0] for p in every], [p[1] for p in every], x_log=True, y_log=True)
    series = [(kind, OTHERS[i % 6], sorted(points), True) for i, (kind, points) in enumerate(kinds.items())]
    longest = max(kinds.values(), key=len)
    first = min(longest)
    ends = (first[0], max(p[0] for p in longest))
    guide = [(n, first[1] * (n / first[0]) ** 0.6, None) for n in ends]
    if guide[-1][1] <= y.high:
        series.append(("as rows^0.6", COLOURS["guide"], guide, True))
    return chart("Bytes read by a cold search", x, y, "rows", "MB", series)


def rounds(cold):
    """Time of first searches against the longest chain of requests, for each engine."""
    points = {e["engine"]: (e["rounds"], e["took_ms"], None) for e in cold["engines"]}
    most = max(p[0] for p in points.values()) * 1.1
    x, y = axes([0, most], [0, 1.1 * max(*(p[1] for p in points.values()), most * cold["latency_ms"])])
    series = [(NAMES[name], COLOURS[name], [point], False) for name, point in points.items()]
    guide = [(0, 0, None), (most, most * cold["latency_ms"], None)]
    series.append((f"{cold['latency_ms']} ms a round", COLOURS["guide"], guide, True))
    title = f"First search of a fresh process, {cold['set']} over S3"
    return chart(title, x, y, "requests one after another", "ms", series)
