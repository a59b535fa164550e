"""Reports on the quantisation sensitivity of each layer: Markdown, and an HTML page with a figure.

Both are rendered from the dictionary of `sensitivity.json` alone.
"""

import html
import math
import re
from collections.abc import Mapping
from typing import Any

from smidgen.figures.formatting import ABSENT, rows_at, table_at
from smidgen.figures.plots import Shade, shade_plot

_BLOCK = re.compile(r"\.(\d+)\.")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --muted: #5d646c; --after: #0b6394; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e5e0; --muted: #9ba2aa; --after: #5cb3e4; } }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem; color: var(--ink); font: 1rem/1.5 sans-serif; }
.figure { overflow: visible; font: 12px sans-serif; }
.figure rect { fill: var(--after); }
.figure text { fill: var(--ink); text-anchor: middle; }
.figure text.tick { fill: var(--muted); }
figure { margin: 1.5rem 0; }
figcaption { color: var(--muted); font-size: 0.85rem; }
table { border-collapse: collapse; margin: 1.5rem 0; font-size: 0.85rem; }
td, th { padding: 0.1rem 0.8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
"""


def markdown(table: Mapping[str, Any]) -> str:
    """Render the measured effects in Markdown."""
    head, rows = _cells(table)
    lines = [f"# Quantisation sensitivity: {table.get('model', 'model')}", "", _sentence(table), ""]
    for names, cells in (_uniform(table), (head, rows)):
        lines += [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in cells]
        lines.append("")
    return "\n".join(lines)


def page(table: Mapping[str, Any]) -> str:
    """Render a self-contained HTML page without scripts, with a figure of the chosen bits."""
    title = html.escape(f"Quantisation sensitivity: {table.get('model', 'model')}")
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>{html.escape(_sentence(table))}</p>",
        f"<figure>{_figure(table)}<figcaption>Chosen bits. Darker layers have a larger effect at their "
        "narrowest width, on a logarithmic scale.</figcaption></figure>",
    ]
    for names, rows in (_uniform(table), _cells(table)):
        parts.append("<table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in names) + "</tr>")
        parts += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>\n"])


def _sentence(table: Mapping[str, Any]) -> str:
    calibration, chosen = table_at(table, "calibration"), table_at(table, "chosen")
    return (
        f"Each layer was quantised separately, in groups of {table['group_size']}, and the divergence of the "
        f"next-token distribution from the unquantised model was measured in nats per token, on "
        f"{calibration['tokens']:,} tokens of {calibration['rows']:,} rows. The chosen bits average "
        f"{chosen['bits_per_weight']:.3f} bits per weight ({chosen['bytes']:,} bytes), for a target of "
        f"{table['target_bits']:g}. Divergence with all layers quantised: {chosen['divergence']:.4g}; sum of "
        f"the divergences of single layers: {chosen['sum_of_divergences']:.4g}."
    )


def _uniform(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the chosen widths next to uniform ones."""
    found = {"chosen per layer": table_at(table, "chosen")}
    found |= {f"all {bits} bits": row for bits, row in table_at(table, "uniform").items()}
    rows = [
        [name, f"{row['bits_per_weight']:.3f}", f"{row['bytes']:,}", f"{row['divergence']:.4g}"]
        for name, row in found.items()
    ]
    return ["widths", "bits per weight", "bytes", "divergence"], rows


def _cells(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the column names, and the cells of every layer."""
    layers = rows_at(table, "layers")
    widths = sorted({int(bits) for layer in layers for bits in layer["divergence"]})
    head = ["layer", "parameters", *(f"{bits} bits" for bits in widths), "chosen"]
    return head, [
        [
            layer["name"],
            f"{layer['parameters']:,}",
            *(_divergence(layer["divergence"].get(str(bits))) for bits in widths),
            "kept" if layer["bits"] is None else str(layer["bits"]),
        ]
        for layer in layers
    ]


def _divergence(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2e}"


def _figure(table: Mapping[str, Any]) -> str:
    """Draw blocks from top to bottom and kinds of layers from left to right; darker has more effect."""
    layers = rows_at(table, "layers")
    worst = {layer["name"]: max(layer["divergence"].values(), default=0.0) for layer in layers}
    positive = [math.log(value) for value in worst.values() if value > 0]
    low, high = min(positive, default=0.0), max(positive, default=1.0)
    shades = []
    for layer in layers:
        name, effect = layer["name"], worst[layer["name"]]
        depth = (math.log(effect) - low) / max(high - low, 1e-9) if effect > 0 else 0.0
        found = _BLOCK.search(name)
        label = f"{name}: at most {_divergence(effect)} nats per token"
        bits = "kept" if layer["bits"] is None else str(layer["bits"])
        row = f"block {found[1]}" if found else "outside"
        shades.append(Shade(row, name.rsplit(".", 1)[-1], depth, bits, label))
    order = {row: index for index, row in enumerate(sorted({s.row for s in shades}, key=_row_order))}
    shades.sort(key=lambda shade: order[shade.row])
    return shade_plot(shades, description="Bits of each layer; darker layers have more effect")


def _row_order(row: str) -> tuple[bool, int]:
    """Return the sort key of a row: layers outside of blocks first, then the blocks in order."""
    return row != "outside", int(row.removeprefix("block ")) if row != "outside" else 0
