"""Write every golden file anew: `python -m tests.golden.rewrite`. The diff is the review."""

from __future__ import annotations

from tests.golden.cases import CASES, render_children
from tests.golden.statuses import STATUSES, render_status


def main() -> None:
    """Rewrite children and statuses."""
    for case in CASES:
        (case / "children.yaml").write_text(render_children(case))
    for case in STATUSES:
        (case / "status.yaml").write_text(render_status(case))


if __name__ == "__main__":
    main()
