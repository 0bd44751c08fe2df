"""Panels as SVG, which any browser shows."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from lull.core.simulation.panels import INK, QUIET, REPLICAS, Mark, find_levels, find_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lull.core.simulation.panels import Panel, Series

_WIDTH: Final = 1100
_LEFT: Final = 62
_RIGHT: Final = 66
_TOP: Final = 52
"""Of each panel: its title and its legend."""
_HIGH: Final = 170
_LOW: Final = 80
"""Heights of panels with two axes, and with one."""
_GAP: Final = 14
_BOTTOM: Final = 34
_STRIP: Final = 5
_INNER: Final = _WIDTH - _LEFT - _RIGHT
_LETTER: Final = 6.2
"""Width of a letter of the legend."""


def render_svg(panels: Sequence[Panel]) -> str:
    """All panels below each other, over one axis of time."""
    seconds = max(1.0, *(panel.times[-1] for panel in panels))
    lines: list[str] = []
    top = 0
    for panel in panels:
        height = _HIGH if panel.right else _LOW
        lines += _render_panel(panel, top + _TOP, height, seconds)
        top += _TOP + height + _GAP
    for at, label in find_ticks(seconds):
        x = _LEFT + _INNER * at / seconds
        lines.append(f'<text x="{x:.1f}" y="{top + 6}" text-anchor="middle">{label}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {top + _BOTTOM}" '
        f'width="{_WIDTH}" height="{top + _BOTTOM}" font-family="system-ui, sans-serif" font-size="12" fill="{INK}">\n'
        f"<title>{escape('; '.join(panel.title for panel in panels))}</title>\n"
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _render_panel(panel: Panel, top: int, height: int, seconds: float) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="{top - 28}" font-size="14" font-weight="600">{escape(panel.title)}</text>'
    yield from _render_legend(panel, top - 10)
    for series, x, anchor, color, name in (
        (panel.left, _LEFT - 8, "end", REPLICAS if panel.right else INK, panel.left_name),
        (panel.right, _WIDTH - _RIGHT + 8, "start", INK, panel.right_name),
    ):
        if not series:
            continue
        levels = find_levels(max(value for one in series for value in one.values))
        for level in levels:
            y = top + height * (1 - level / levels[-1])
            if series is panel.left:
                yield f'<path d="M{_LEFT} {y:.1f}h{_INNER}" stroke="{QUIET}" stroke-opacity="0.3" fill="none"/>'
            yield f'<text x="{x}" y="{y + 4:.1f}" text-anchor="{anchor}" fill="{color}">{level:g}</text>'
        middle = top + height / 2
        edge = 16 if series is panel.left else _WIDTH - 12
        yield (
            f'<text transform="translate({edge} {middle:.0f}) rotate(-90)" text-anchor="middle" '
            f'fill="{color}">{escape(name)}</text>'
        )
        for one in series:
            yield _render_series(one, panel.times, top, height, (seconds, levels[-1]))
    if panel.strip is not None:
        yield from _render_strip(panel.strip, panel.times, top + height, seconds)


def _render_legend(panel: Panel, y: int) -> Iterator[str]:
    x = float(_LEFT)
    for series in (*panel.left, *panel.right, *((panel.strip,) if panel.strip is not None else ())):
        yield f'<rect x="{x:.0f}" y="{y - 9}" width="10" height="10" rx="2" fill="{series.color}"/>'
        yield f'<text x="{x + 15:.0f}" y="{y}" font-size="11">{escape(series.label)}</text>'
        x += 34 + _LETTER * len(series.label)


def _render_series(series: Series, times: Sequence[float], top: int, height: int, ends: tuple[float, float]) -> str:
    seconds, most = ends
    points = [f"M{_LEFT} {top + height:.1f}"] if series.mark is Mark.AREA else []
    last = None
    for at, value in zip(times, series.values, strict=True):
        if value == last:
            continue
        x, y = _LEFT + _INNER * at / seconds, top + height * (1 - value / most)
        points.append(f"H{x:.1f}V{y:.1f}" if points else f"M{x:.1f} {y:.1f}")
        last = value
    points.append(f"H{_LEFT + _INNER * times[-1] / seconds:.1f}")
    if series.mark is Mark.AREA:
        return f'<path d="{"".join(points)}V{top + height}Z" fill="{series.color}" />'
    return f'<path d="{"".join(points)}" fill="none" stroke="{series.color}" stroke-width="1.5"/>'


def _render_strip(series: Series, times: Sequence[float], bottom: int, seconds: float) -> Iterator[str]:
    for at, until, share in zip(times, [*times[1:], seconds], series.values, strict=True):
        if share > 0:
            x, width = _LEFT + _INNER * at / seconds, max(_INNER * (until - at) / seconds, 1.0)
            yield (
                f'<rect x="{x:.1f}" y="{bottom}" width="{width:.1f}" height="{_STRIP}" fill="{series.color}" '
                f'fill-opacity="{0.3 + 0.7 * share:.2f}"/>'
            )
