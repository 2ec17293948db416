"""How tables and numbers are written."""


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mb(n):
    return f"{n / 1e6:,.2f} MB" if n < 1e7 else f"{n / 1e6:,.1f} MB"


def ms(x):
    return f"{x:.3f} ms" if x < 1 else f"{x:.1f} ms" if x < 100 else f"{x:,.0f} ms"


def rate(x):
    return f"{x:,.0f}" if x < 1000 else f"{round(x, -2):,.0f}"


def machine_text(result):
    m = result["machine"]
    return (
        f"{m['cores']} cores of {m['cpu']}, {m['memory_gib']} GiB, load average {m['load_average']:.1f} at the start "
        f"and {m['load_average_after']:.1f} at the end; {m['date']}."
    )
