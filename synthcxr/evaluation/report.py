"""A result as one HTML file: tables, plots and pictures inside it, nothing loaded from anywhere."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from synthcxr.evaluation.appearance import frequencies
from synthcxr.evaluation.result import Judged, Line, Number, Result, find
from synthcxr.evaluation.sheets import Sheet
from synthcxr.evaluation.svg import curves, heat_map, interval_plot

# What the table at the top compares, in this order.
HEADLINE = (
    "frechet", "frechet_64", "kernel", "gaussian_mmd", "precision", "recall", "density", "coverage",
    "sharpness", "spectrum", "grays",
    "MS-SSIM within a prompt", "AUROC, mean", "accuracy, sex", "accuracy, view", "error, age", "correlation, age",
    "image-text similarity", "image-text similarity, prompts shuffled", "own prompt before another's",
    "gap, underdiagnosis", "gap, AUROC",
)  # fmt: skip
MEANING = {
    "frechet": "squared Frechet distance", "frechet_64": "the same in 64 leading directions",
    "kernel": "kernel distance (KID)", "gaussian_mmd": "CMMD-style distance",
    "sharpness": "sharpness, log2 against real", "spectrum": "spectrum, dB from real", "grays": "grays, Wasserstein",
    "error, age": "age, mean error in years",
    "image-text similarity, prompts shuffled": "image-text similarity, prompts shuffled (the floor)",
    "own prompt before another's": "own prompt before another's (0.5: by chance)",
}  # fmt: skip
LEGEND = (
    "Value, 95% interval in brackets; below it in gray the same of real images alone: distances between two real sets "
    "of as many images, or the judge on real held-out images. A generator can be as good as that; better means "
    "copying, or a judge that likes clichés. &uarr; higher is better, &darr; lower, &rarr;0 nearer to zero. Research "
    "only; not for diagnosis."
)
ARROWS = {"higher": "&uarr;", "lower": "&darr;", "zero": "&rarr;0"}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1f2328;max-width:1120px;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.6rem}h2{margin-top:2.4rem;border-bottom:1px solid #d1d9e0}h3{margin:1.4rem 0 .3rem}"
    "table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #eaeef2;text-align:right;vertical-align:top}"
    "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #d1d9e0}"
    "small,.quiet{color:#59636e}img{max-width:100%;background:#000}svg{width:100%;height:auto}"
    ".best{font-weight:600}details{margin:.6rem 0}code{background:#f6f8fa;padding:0 .25em}"
)


def html(result: Result, sheets: Mapping[str, Sequence[Sheet]], spectra: Mapping[str, np.ndarray]) -> str:
    """The report.

    Args:
        sheets: contact sheets by the name of the synthetic dataset.
        spectra: mean spectra in decibels by name, the real one first.
    """
    names = ", ".join(judged.dataset.name for judged in result.judged)
    parts = [
        f"<h1>Evaluation of {escape(names)}</h1>", _inputs(result), "<h2>Overview</h2>", _overview(result.judged),
        f"<p class=quiet>{LEGEND}</p>", _spectra(spectra, result.size),
    ]  # fmt: skip
    for judged in result.judged:
        parts += _dataset(judged, sheets.get(judged.dataset.name, ()))
    return page(f"Evaluation of {names}", parts)


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML page of parts that are HTML already."""
    body = "\n".join(parts)
    title = escape(f"synthcxr: {title}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _inputs(result: Result) -> str:
    rows = [result.real, *([result.train] if result.train else []), *(judged.dataset for judged in result.judged)]
    cells = [
        (row.role, escape(row.name), f"{row.images:,}", f"{row.patients:,}", f"<code>{row.manifest_sha256[:12]}</code>",
         " ".join(f"<code>{escape(model[:12])}</code>" for model in row.models) or "")
        for row in rows
    ]  # fmt: skip
    packages = ", ".join(f"{name} {version}" for name, version in result.environment["packages"].items())
    told = (
        f"Features: {_brief(result.extractor)}. Judge: {_brief(result.judge or 'none')}. "
        f"Words: {_brief(result.image_text or 'none')}. Images at {result.size} px."
    )
    read = table(("", "dataset", "images", "patients or groups", "manifest", "models"), cells)
    return f"{read}<p class=quiet><small>{told} {escape(packages)}.</small></p>"


def _brief(extractor: str) -> str:
    """An extractor's name, its hash cut to twelve digits."""
    return escape(" ".join(word[:12] if len(word) == 64 else word for word in extractor.split()))


def _overview(judged: Sequence[Judged]) -> str:
    """A row a number, a column a dataset; with several datasets the best value of a row is bold."""
    rows = []
    for name in HEADLINE:
        found = [find(one.lines, name) for one in judged]
        known = [line for line in found if line is not None]
        if not known:
            continue
        best = _best(known) if len(judged) > 1 else None
        cells = [_cell(line, line is best) if line else "&ndash;" for line in found]
        rows.append((f"{escape(MEANING.get(name, name))} {ARROWS[known[0].direction]}", *cells))
    return table(("", *(escape(one.dataset.name) for one in judged)), rows)


def _best(lines: Sequence[Line]) -> Line:
    sign = {"higher": lambda v: -v, "lower": lambda v: v, "zero": abs}[lines[0].direction]
    return min(lines, key=lambda line: sign(line.measured.value))


def _cell(line: Line, best: bool = False) -> str:
    value = f"<span class=best>{number(line.measured)}</span>" if best else number(line.measured)
    reference = f"<br><small>{number(line.reference)}</small>" if line.reference else ""
    return f"{value}{reference}"


def number(told: Number) -> str:
    """A number as a cell of a table: value, interval, count."""
    return f"{told.value:.3g} <small>[{told.low:.3g}, {told.high:.3g}] n={told.n:,}</small>"


def _spectra(spectra: Mapping[str, np.ndarray], size: int) -> str:
    if len(spectra) < 2:
        return ""
    plot = curves(frequencies(size), spectra, "frequency, share of Nyquist", "mean power, dB")
    return f"<h3>Spectra</h3>{plot}"


def _dataset(judged: Judged, sheets: Sequence[Sheet]) -> list[str]:
    parts = [f"<h2>{escape(judged.dataset.name)}</h2>"]
    of = {section: [line for line in judged.lines if line.section == section] for section in
          ("fidelity", "appearance", "diversity", "alignment", "control", "fairness")}  # fmt: skip
    for name in ("kernel", "coverage"):
        lines = [line for line in of["fidelity"] if line.name == name]
        if len(lines) > 1:
            plot = interval_plot(lines, [line.group for line in lines])
            parts += [f"<h3>{escape(MEANING.get(name, name))}, by group</h3>", plot]
    findings = [line for line in of["alignment"] if line.name.startswith("AUROC")]
    if findings:
        low = min(0.5, *(line.measured.low for line in findings))
        plot = interval_plot(findings, [line.name.removeprefix("AUROC, ") for line in findings], (low, 1.0))
        parts += ["<h3>Findings that the judge sees as asked: AUROC, gray on real images</h3>", plot]
    if judged.entanglement:
        matrix = judged.entanglement
        parts += [
            "<h3>What moves when one attribute changes</h3>",
            heat_map(matrix.changed, matrix.measured, matrix.effect),
            "<p class=quiet>Rows: what was changed in the prompt, the seed kept. Columns: mean change of the judge's "
            "reading (a probability; an age over 15 years). Framed: the reading of the attribute itself.</p>",
        ]  # fmt: skip
    parts += [sheet_html(sheet) for sheet in sheets]
    rows = [
        (escape(line.name), escape(line.group), ARROWS[line.direction], number(line.measured),
         number(line.reference) if line.reference else "", escape(line.against or ""))
        for line in judged.lines
    ]  # fmt: skip
    every = table(("number", "group", "", "measured", "reference", "which is"), rows)
    parts.append(f"<details><summary>All {len(rows)} numbers</summary>{every}</details>")
    if judged.left_out:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in judged.left_out)
        parts.append(f"<details><summary>Left out: {len(judged.left_out)}</summary><ul>{items}</ul></details>")
    return parts


def sheet_html(sheet: Sheet) -> str:
    """A sheet with its title, the picture inlined."""
    data = base64.b64encode(sheet.jpeg).decode("ascii")
    return (
        f"<h3>{escape(sheet.title)}</h3><p class=quiet>{escape(sheet.caption)}</p>"
        f'<img alt="{escape(sheet.title)}" src="data:image/jpeg;base64,{data}">'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
