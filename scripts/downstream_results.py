"""Keep what an experiment of `synthcxr downstream` found: report, numbers, test predictions, and the page Results.

python scripts/downstream_results.py NAME RUN      (such as: open build/downstream/open-report)
python scripts/downstream_results.py --page        (docs/results.md alone, from what was kept)

docs/results/NAME/ gets report.html, result.json, test.csv and predictions.npz; the part of docs/results.md between the
comments that name it is written anew. Predictions are kept as whole numbers, 65,535 for certainty: areas under curves
computed from them differ from those of result.json, which are of float32, by less than 0.001.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np

from synthcxr.downstream.measure import CORRELATED, DROP, GAP, MACRO, UNCORRELATED, WORST
from synthcxr.downstream.result import Comparison, DownstreamResult, Point
from synthcxr.downstream.subsets import CELLS
from synthcxr.evaluation.result import Number
from synthcxr.files import atomic_path, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCALE = np.iinfo(np.uint16).max
NAME = re.compile(r"(.+)_seed-(\d+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?")
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    if asked.page == bool(asked.run):
        parser.error("give NAME and RUN, or --page")
    if asked.run:
        keep(asked.run, DOCS / "results" / asked.name)
    page = DOCS / "results.md"
    write_text(page, filled(page.read_text(encoding="utf-8"), DOCS / "results"))
    print(page)


def keep(run: Path, kept: Path) -> None:
    """Copy what is small, and pack the test predictions of all classifiers into one file."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "result.json", "test.csv"):
        shutil.copyfile(run / name, kept / name)
    with atomic_path(kept / "predictions.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **packed(run))


def packed(run: Path) -> dict[str, np.ndarray]:
    """`labels`, and uint16 (seeds, test images, labels) by arm, fraction and multiple."""
    files = sorted((run / "cells").glob("[!.]*.npz"), key=lambda file: int(NAME.fullmatch(file.stem)[2]))
    found: dict[str, list[np.ndarray]] = {}
    for file in files:
        with np.load(file, allow_pickle=False) as cell:
            labels = json.loads(str(cell["told"]))["labels"]
            found.setdefault(NAME.fullmatch(file.stem)[1], []).append(np.rint(cell["test"] * SCALE).astype(np.uint16))
    return {"labels": np.array(labels), **{name: np.stack(seeds) for name, seeds in sorted(found.items())}}


def filled(page: str, results: Path) -> str:
    """The page, with the part of each experiment that was kept."""
    for file in sorted(results.glob("*/result.json")):
        name = file.parent.name
        result = DownstreamResult.model_validate_json(file.read_text(encoding="utf-8"))
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if begin in page and end in page:  # other results may be kept beside these
            before, after = page.partition(begin)[0], page.partition(end)[2]
            page = f"{before}{begin}\n{told(name, result)}\n{end}{after}"
    return page


def told(name: str, result: DownstreamResult) -> str:
    """Markdown: verdict, then tables."""
    said = "\n".join(f"- {sentence}" for sentence in result.verdict)
    tables = [_shortcut(result)] if result.shortcut else [_efficiency(result), *_by_label(result)]
    own = result.protocol
    counts = ", ".join(f"{split} {patients:,}" for split, patients in result.patients.items())
    made = ", ".join(f"{one.images:,} ({one.name})" for one in result.inputs if one.role == "synthetic")
    how = (
        f"{own.classifiers} classifiers ({own.network}; {own.parameters:,} parameters), {own.steps} steps of "
        f"{own.batch_size} images each, {result.seeds} seeds. Patients: {counts}; synthetic images: {made}. Commit "
        f"`{str(result.environment.get('git_commit'))[:12]}`, model "
        + ", ".join(sorted({f"`{model[:12]}`" for one in result.inputs for model in one.models}))
        + f".\n[The report](results/{name}/report.html), [every number](results/{name}/result.json), "
        f"[labels](results/{name}/test.csv) and [predictions](results/{name}/predictions.npz) of the test images."
    )
    return "\n\n".join([said, *tables, how])


def _efficiency(result: DownstreamResult) -> str:
    saved = {(s.arm, s.fraction, s.multiple): s for s in result.savings}
    rows = []
    for point in _points(result, "AUROC", MACRO):
        if point.arm == "real":
            rows.append((*_where(point.arm, point.fraction, 0.0), _number(point.measured), "", "", ""))
        for one in _compared(result, "macro AUROC", point):
            save = saved.get((one.arm, one.fraction, one.multiple))
            worth = f"{save.bound + ' ' if save.bound else ''}{save.factor:.2g} [{save.low:.2g}, {save.high:.2g}]"
            rows.append(
                (*_where(one.arm, one.fraction, one.multiple), _number(point.measured), _number(one.difference),
                 f"{one.p_holm:.2g}", worth if save else "")
            )  # fmt: skip
    rows.sort(key=lambda row: float(row[1].rstrip("%")))
    head = ("arm", "real patients", "synthetic", "macro AUROC", "against real alone", "p (Holm)", "label-saving factor")
    found = [_table(head, rows)]
    gaps = [
        (*_where(point.arm, point.fraction, point.multiple), _number(point.measured), _number(worst.measured))
        for point, worst in zip(_points(result, GAP, "all"), _points(result, WORST, "all"), strict=True)
    ]
    if gaps:
        head = ("arm", "real patients", "synthetic", "underdiagnosis gap", "rate of the worst group")
        found.append(_table(head, gaps))
    return "\n\n".join(found)


def _by_label(result: DownstreamResult) -> list[str]:
    """AUROC of each label at the largest fraction."""
    largest, arms = max(result.fractions), list(result.arms)
    rows = []
    for label in (one.name for one in result.labels):
        here = {p.arm: p.measured for p in _points(result, "AUROC", label) if p.fraction in (0.0, largest)}
        rows.append((label, *(_number(here[arm]) for arm in arms)))
    return [f"AUROC by label, {_percent(largest)} of the real patients:", _table(("label", *arms), rows)]


def _shortcut(result: DownstreamResult) -> str:
    planted = result.shortcut
    three = [
        {(p.arm, p.fraction, p.multiple): p.measured for p in _points(result, metric, planted.finding)}
        for metric in (CORRELATED, UNCORRELATED, DROP)
    ]
    differences = {(one.arm, one.fraction, one.multiple): one for one in _compared(result, "uncorrelated AUROC", None)}
    rows = []
    for key in three[0]:
        cells = {(c.finding, c.confounder): c.right for c in planted.cells if (c.arm, c.fraction, c.multiple) == key}
        one = differences.get(key) or differences.get((key[0], max(result.fractions), key[2]))
        against = f"{_number(one.difference)}, p {one.p_holm:.2g}" if one else ""
        rows.append((key[0], *(_number(by[key]) for by in three), against, *(_number(cells[cell]) for cell in CELLS)))
    signs = [
        f"{'' if f else 'no '}{planted.finding.lower()}, {'' if c else 'not '}{planted.confounder}" for f, c in CELLS
    ]
    head = (
        "arm",
        "AUROC, shortcut holds",
        "AUROC, it doesn't",
        "drop",
        "it doesn't: against real alone (Holm)",
        *signs,
    )
    counts = [(name, *map(str, four)) for name, four in planted.counts.items()]
    text = "Right of the differences: the share of each cell's test images that is called rightly. Images in each cell:"
    return "\n\n".join([_table(head, rows), text, _table(("", *signs), counts)])


def _points(result: DownstreamResult, metric: str, label: str) -> list[Point]:
    return [point for point in result.points if (point.metric, point.label) == (metric, label)]


def _compared(result: DownstreamResult, family: str, point: Point | None) -> list[Comparison]:
    """Of a family, those of a point's arm; the synthetic arm, which knows no fraction, is compared at each."""
    return [
        one for one in result.comparisons
        if one.family == family and (
            point is None
            or (one.arm, one.multiple) == (point.arm, point.multiple) and point.fraction in (0.0, one.fraction)
        )
    ]  # fmt: skip


def _where(arm: str, fraction: float, multiple: float) -> tuple[str, str, str]:
    return arm, _percent(fraction) if fraction else "none", f"{multiple:g}x" if multiple else "none"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _number(told: Number) -> str:
    return f"{told.value:.3f} [{told.low:.3f}, {told.high:.3f}]"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
