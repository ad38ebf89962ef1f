"""The card of a DATASET and of an export: what it holds, how that came about, its licences. No field is blank."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from synthcxr.data.manifest import counts_of
from synthcxr.data.origin import acceptance_of, audits_of, passed
from synthcxr.images import DIGITAL_SOURCE_TYPE
from synthcxr.vocabulary import STATES

DATASET_LAYOUT = (
    "`manifest.parquet` has one row an image; `shards/` is WebDataset (`<id>.png` and `<id>.json`); `dataset.json` "
    "holds preprocessing and hashes, `croissant.json` the same for machines. `synthcxr verify` or "
    "`sha256sum -c SHA256SUMS` tells whether all is as it was written."
)
_FEW = 20  # values listed of a column; of the rest, how many there are
_MOST_CONDITIONS = 200


def card(name: str, info: Mapping[str, Any], table: pa.Table, layout: str = DATASET_LAYOUT) -> str:
    """Markdown; says "none" or "unknown" rather than nothing.

    Args:
        info: what dataset.json says.
        table: the manifest.
        layout: how the files lie and are read.
    """
    counts = counts_of(table)
    licences = {tuple(pair.values()) for pair in table.select(["source", "licence"]).to_pylist()}
    synthetic = "The images are synthetic: no patient looks like this." if info["origin"] == "synthetic" else ""
    lines = [
        f"# {name}", "",
        f"{counts['images']} chest radiographs ({info['origin']}), {counts['patients']} patients. {synthetic}".strip(),
        "", "| source | licence |", "|---|---|",
        *(f"| {_cell(source)} | {_cell(licence)} |" for source, licence in sorted(licences) or [("none", "none")]),
        "", "| split (by patient) | images | patients |", "|---|---|---|",
        *(f"| {split} | {n['images']} | {n['patients']} |" for split, n in counts["splits"].items()),
        "", *_images(info, table), "",
        *_labels(table), "",
        *(_made(info, table) if info["origin"] == "synthetic" else []),
        f"Columns and layout: {layout}",
        "Not for diagnosis. Don't try to identify anyone.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _images(info: Mapping[str, Any], table: pa.Table) -> Iterator[str]:
    sizes = pc.min_max(table.column("width")).as_py()
    yield f"- width: {sizes['min']} to {sizes['max']} pixels" if table.num_rows else "- width: no image"
    yield f"- bits a pixel: {', '.join(map(str, sorted(set(table.column('bits').to_pylist())))) or 'no image'}"
    for key, value in info["preprocessing"].items():
        yield f"- {key}: {'none' if value in (None, '') else value}"
    if "curate" in info:
        yield "- weights: column `weight`; how it came about stands in `curation.md`"


def _labels(table: pa.Table) -> Iterator[str]:
    ages = pc.min_max(table.column("age")).as_py()
    known = table.num_rows - table.column("age").null_count
    yield f"- age: {ages['min']} to {ages['max']} years, known of {known} images" if known else "- age: unknown"
    for column in ("sex", "race", "view"):
        yield f"- {column}: {_counted({row['values']: row['counts'] for row in _values(table, column)})}"
    states: dict[str, Counter[str]] = {}
    for row in _values(table, "findings"):
        for finding, state in json.loads(row["values"] or "{}").items():
            states.setdefault(finding, Counter())[state["state"]] += row["counts"]
    if not states:
        yield "- findings: none stated"
        return
    yield from ("", f"| finding | {' | '.join(STATES)} |", "|---|---|---|---|")
    for finding, counts in sorted(states.items()):
        yield f"| {finding} | {' | '.join(str(counts[state]) for state in STATES)} |"


def _made(info: Mapping[str, Any], table: pa.Table) -> Iterator[str]:
    """How synthetic images came about."""
    yield from ("## How it was made", "")
    for column in ("model", "sampler"):
        yield f"- {column}: {_counted({row['values']: row['counts'] for row in _values(table, column)})}"
    seeds = table.num_rows - table.column("seed").null_count
    yield f"- seed: {f'one an image, known of {seeds} images' if seeds else 'unknown'}"
    yield f"- mark of origin in each PNG: XMP DigitalSourceType `{DIGITAL_SOURCE_TYPE}`, and prompt, seed and model"
    for model, audit in audits_of(info, table).items():
        yield f"- privacy audit of model {model[:12]}: {_verdict(audit)}"
    rows = acceptance_of(info)
    if not rows:
        yield from ("- acceptance by the screen: none recorded", "")
        return
    yield from (
        "",
        "What the screen let through. Where the share of the drawn is small, it picks most: its own bias shows there.",
        "",
    )
    yield from (
        "| condition | asked | accepted | of asked | given up | drawn | of drawn |",
        "|---|---|---|---|---|---|---|",
    )
    for row in rows[:_MOST_CONDITIONS]:
        of_asked = f"{row.accepted / row.asked:.1%}" if row.asked else "none asked"
        of_drawn = f"{row.accepted / row.drawn:.1%}" if row.drawn else "unknown"
        cells = (row.asked, row.accepted, of_asked, row.given_up, row.drawn or "unknown", of_drawn)
        yield f"| {_cell(row.condition)} | {' | '.join(map(str, cells))} |"
    yield ""
    if len(rows) > _MOST_CONDITIONS:
        yield from (f"{len(rows) - _MOST_CONDITIONS} more conditions stand in dataset.json.", "")


def _verdict(audit: Mapping[str, Any] | None) -> str:
    if not audit:
        return "none, so that whether its pictures copy training images isn't known"
    said = ", ".join(f"{key} {value}" for key, value in audit.items())
    return f"{'passed' if passed(audit) else 'NOT PASSED'} ({said})"


def _values(table: pa.Table, column: str) -> list[dict[str, Any]]:
    return pc.value_counts(table.column(column).combine_chunks()).to_pylist()


def _counted(counts: Mapping[str | None, int]) -> str:
    """The commonest values with their counts."""
    ordered: Iterable[tuple[str | None, int]] = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown = [f"{value or 'unknown'} {count}" for value, count in list(ordered)[:_FEW]]
    more = [f"and {len(counts) - _FEW} more"] if len(counts) > _FEW else []
    return ", ".join([*shown, *more]) or "no image"


def _cell(text: str) -> str:
    """Text inside a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|") or "unknown"
