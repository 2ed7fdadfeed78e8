"""Pages that are one HTML file and need nothing else, no network either: tables and pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bandmaster.core import BandmasterError
from bandmaster.files import write, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def require_drawing(what: str) -> None:
    """Raises ``BandmasterError`` where no pictures can be drawn, as ``what`` needs."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise BandmasterError(f"{what} needs matplotlib: pip install 'bandmaster[plot]'") from None


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page of HTML ``parts``; empty ones are left out."""
    write_text(path, _PAGE.format(title=escape(title), body="\n".join(part for part in parts if part)))


def figure(title: str, told: str, height: float, paint: Callable[[Axes], None]) -> str:
    """A picture of so many inches as SVG, with words on how to read it; the same for the same figures."""
    text = io.StringIO()
    _draw(text, "svg", height, paint)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return f"<h2>{escape(title)}</h2><p>{escape(told)}</p><figure>{svg}</figure>"


def save_figure(path: Path, height: float, paint: Callable[[Axes], None]) -> None:
    """Write a picture as its suffix says: PNG or SVG. Raises ``BandmasterError`` where it cannot be written."""
    write(path, lambda temporary: _draw(temporary, path.suffix[1:], height, paint))


def _draw(where: Any, kind: str, height: float, paint: Callable[[Axes], None]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # What would change from one drawing to the next is left out.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "bandmaster", "svg.fonttype": "none"}):
        drawn = Figure(figsize=(9.0, height), layout="constrained")
        axes = drawn.subplots()
        paint(axes)
        # Clip paths are named by the position, which is not the same to the last digit in every run.
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")
        left, bottom, width, height = (round(float(edge), 6) for edge in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))
        drawn.savefig(where, format=kind, metadata=metadata, dpi=150)


def legend_beside(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """A pale grid, and the legend to the right of the picture, where anything has a name."""
    axes.grid(axis=grid, alpha=0.3)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def wheel(count: int) -> list[Any]:
    """So many colours, twenty of them different."""
    import matplotlib as mpl

    twenty = mpl.colormaps["tab20"](np.arange(20))
    return [twenty[k % 20] for k in range(count)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
.wide {{ overflow-x: auto }}
figure {{ margin: 0 }} svg {{ max-width: 100%; height: auto }}
pre {{ background: #f6f6f6; padding: 1rem; overflow-x: auto }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
