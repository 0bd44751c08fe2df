"""Panels as PNG, where matplotlib is there to draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from lull.core.simulation.panels import INK, QUIET, Mark, find_levels, find_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lull.core.simulation.panels import Panel, Series


def draw_png(panels: Sequence[Panel], out: Path) -> None:
    """All panels below each other, over one axis of time."""
    heights = [2.4 if panel.right else 1.2 for panel in panels]
    seconds = max(1.0, *(panel.times[-1] for panel in panels))
    figure, axes = plt.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        figsize=(11, sum(heights) + 0.7 * len(panels)),
        gridspec_kw={"height_ratios": heights},
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _draw(axis, panel, seconds)
    ticks = find_ticks(seconds)
    axes[-1, 0].set_xticks([at for at, _ in ticks], [label for _, label in ticks])
    axes[-1, 0].set_xlim(0, seconds)
    figure.tight_layout()
    figure.savefig(out, dpi=144, format="png")
    plt.close(figure)


def _draw(axis: Any, panel: Panel, seconds: float) -> None:  # noqa: ANN401  matplotlib has no types
    axis.set_title(panel.title, loc="left", color=INK, fontsize=10, fontweight="bold", pad=18)
    handles = _plot(axis, panel.times, panel.left, panel.left_name)
    if panel.right:
        handles += _plot(axis.twinx(), panel.times, panel.right, panel.right_name)
    if (strip := panel.strip) is not None:
        handles.append(axis.fill_between([0], [0], color=strip.color, linewidth=0, label=strip.label))
        for at, until, share in zip(panel.times, [*panel.times[1:], seconds], strip.values, strict=True):
            if share > 0:
                axis.axvspan(at, until, 0, 0.03, color=strip.color, alpha=0.3 + 0.7 * share, linewidth=0)
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 0.98), ncols=5, frameon=False, fontsize=7)


def _plot(axis: Any, times: Sequence[float], series: Sequence[Series], name: str) -> list[Any]:  # noqa: ANN401  as above
    levels = find_levels(max(value for one in series for value in one.values))
    axis.set_yticks(levels)
    axis.set_ylim(0, levels[-1])
    axis.set_ylabel(name, color=INK)
    axis.grid(axis="y", color=QUIET, alpha=0.3)
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)
    handles: list[Any] = []
    for one in series:
        if one.mark is Mark.AREA:
            handles.append(
                axis.fill_between(times, one.values, step="post", color=one.color, linewidth=0, label=one.label)
            )
        else:
            handles += axis.step(times, one.values, where="post", color=one.color, linewidth=1.3, label=one.label)
    return handles
