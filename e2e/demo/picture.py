"""The chart of the demo: replicas, held and in flight over time, one panel per act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from e2e.demo.recorder import Sample

INK: Final = "#1f2933"
QUIET: Final = "#9aa5b1"
REPLICAS: Final = "#2563eb"
STARTING: Final = "#bfdbfe"
HELD: Final = "#d97706"
IN_FLIGHT: Final = "#059669"


def draw(panels: Mapping[str, Sequence[Sample]], marks: Mapping[str, Sequence[tuple[float, str]]], out: Path) -> None:
    """Write `out`.svg and `out`.png; `marks` are moments worth a word, per panel."""
    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "lull"}):
        figure, axes = plt.subplots(len(panels), 1, figsize=(11, 3.6 * len(panels)), squeeze=False)
        for axis, (title, samples) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(axis, title, samples, marks.get(title, ()))
        axes[-1, 0].set_xlabel("seconds", color=INK)
        figure.tight_layout()
        for suffix in (".svg", ".png"):
            figure.savefig(out.with_suffix(suffix), dpi=144)
        plt.close(figure)


def _panel(axis: Any, title: str, samples: Sequence[Sample], marks: Sequence[tuple[float, str]]) -> None:
    start = samples[0].at
    at = [sample.at - start for sample in samples]
    replicas = [sample.replicas for sample in samples]
    ready = [sample.ready for sample in samples]
    axis.fill_between(at, replicas, step="post", color=STARTING, label="replicas starting", linewidth=0)
    axis.fill_between(at, ready, step="post", color=REPLICAS, alpha=0.75, label="replicas ready", linewidth=0)
    axis.set_ylim(0, max([*replicas, 1]) * 1.45)
    axis.set_ylabel("replicas", color=REPLICAS)
    axis.yaxis.get_major_locator().set_params(integer=True)
    requests = axis.twinx()
    requests.step(at, [sample.held for sample in samples], where="post", color=HELD, linewidth=1.8, label="held")
    requests.step(
        at, [sample.in_flight for sample in samples], where="post", color=IN_FLIGHT, linewidth=1.4, label="in flight"
    )
    requests.set_ylim(0, max([*(s.held for s in samples), *(s.in_flight for s in samples), 1]) * 1.45)
    requests.set_ylabel("requests", color=INK)
    requests.yaxis.get_major_locator().set_params(integer=True)
    for height, (moment, word) in enumerate(marks):
        axis.axvline(moment - start, color=QUIET, linewidth=0.8, linestyle=(0, (2, 3)))
        late = at[-1] > 0 and (moment - start) > 0.9 * at[-1]
        axis.annotate(
            word,
            (moment - start, 0.97 - 0.075 * (height % 3)),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 0),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            ha="right" if late else "left",
            va="top",
        )
    axis.set_xlim(0, at[-1] * 1.02 if at[-1] else 1)
    axis.set_title(title, loc="left", color=INK, fontweight="bold")
    for side in (axis, requests):
        side.spines["top"].set_visible(False)
        side.tick_params(colors=INK)
    handles = [*axis.get_legend_handles_labels()[0], *requests.get_legend_handles_labels()[0]]
    labels = [*axis.get_legend_handles_labels()[1], *requests.get_legend_handles_labels()[1]]
    axis.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=8)
