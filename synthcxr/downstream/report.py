"""A result as one HTML file: the verdict first, curves, tables, and all that is needed to doubt it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from synthcxr.downstream.measure import CORRELATED, DROP, GAP, MACRO, UNCORRELATED, WORST
from synthcxr.downstream.result import Comparison, DownstreamResult, Planted, Point
from synthcxr.evaluation.report import ARROWS, number, page, table
from synthcxr.evaluation.result import Number
from synthcxr.evaluation.svg import curves, interval_plot

LEGEND = (
    "Each number is a mean over seeds with a 95% interval that takes in both which patients were tested (bootstrap) "
    "and how training went (spread between seeds). Differences are paired: same patients, seeds and initial weights. p "
    "is two-sided; p (Holm) is adjusted for all comparisons of its family, and only below 0.05 is anything called a "
    "gain or a loss. Research only; not for diagnosis."
)


@dataclass(frozen=True)
class _Row:
    measured: Number
    reference: Number | None = None


def html(result: DownstreamResult) -> str:
    """The report."""
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in result.verdict)
    parts = [
        "<h1>Does synthetic data help a classifier?</h1>", f"<ul>{sentences}</ul>", f"<p class=quiet>{LEGEND}</p>",
        "<h2>Label efficiency</h2>", *_efficiency(result), *_by_label(result), *_savings(result),
        *(_shortcut(result, result.shortcut) if result.shortcut else ()),
        "<h2>Differences from real data alone</h2>", *_differences(result),
        "<h2>Underdiagnosis</h2>", *_underdiagnosis(result), "<h2>How it was done</h2>", *_protocol(result),
    ]  # fmt: skip
    rows = [
        (escape(p.metric), escape(p.label), *_where(p), ARROWS[p.direction], number(p.measured),
         " ".join(f"{value:.3f}" for value in p.seeds))
        for p in result.points
    ]  # fmt: skip
    every = table(("number", "label", "arm", "real patients", "synthetic", "", "mean", "each seed"), rows)
    parts.append(f"<details><summary>All {len(rows)} numbers</summary>{every}</details>")
    if result.left_out:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in result.left_out)
        parts.append(f"<details open><summary>Left out: {len(result.left_out)}</summary><ul>{items}</ul></details>")
    return page("Does synthetic data help a classifier?", parts)


def _efficiency(result: DownstreamResult) -> list[str]:
    """A curve an arm of macro AUROC (mean over findings), and the numbers of the other metrics."""
    found = []
    for multiple in result.multiples:
        series, bands = {}, {}
        for arm in result.arms:
            points = [_point(result, arm, fraction, multiple, "AUROC", MACRO) for fraction in result.fractions]
            series[arm] = np.array([p.measured.value for p in points])
            bands[arm] = tuple(np.array([getattr(p.measured, end) for p in points]) for end in ("low", "high"))
        if len(result.multiples) > 1:
            found.append(f"<h3>{multiple:g} synthetic images a real training image</h3>")
        ticks = {fraction: _percent(fraction) for fraction in result.fractions}
        label = "real training patients (logarithmic)"
        found.append(curves(np.array(result.fractions), series, label, "macro AUROC on test patients", bands, ticks, 3))
    rows = [
        (*_where(own), *(number(_point(result, *_key(own), metric, MACRO).measured) for metric in _METRICS))
        for own in result.points if (own.metric, own.label) == ("AUROC", MACRO)
    ]  # fmt: skip
    head = ("arm", "real patients", "synthetic", *(f"{m} {ARROWS[_METRICS[m]]}" for m in _METRICS))
    return [*found, "<p class=quiet>Means over findings:</p>", table(head, rows)]


_METRICS = {"AUROC": "higher", "AUPRC": "higher", "Brier": "lower", "ECE": "lower"}


def _by_label(result: DownstreamResult) -> list[str]:
    """AUROC of each finding, sex and view: a row a label and fraction, a column an arm."""
    rows = [
        (escape(label.name), _percent(fraction), f"{multiple:g}x",
         *(number(_point(result, arm, fraction, multiple, "AUROC", label.name).measured) for arm in result.arms))
        for label in result.labels for fraction in result.fractions for multiple in result.multiples
    ]  # fmt: skip
    head = ("label", "real patients", "synthetic", *map(escape, result.arms))
    return [f"<h3>AUROC of each label {ARROWS['higher']}</h3>", table(head, rows)]


def _savings(result: DownstreamResult) -> list[str]:
    if not result.savings:
        return []
    rows = [
        (escape(one.arm), _percent(one.fraction), f"{one.multiple:g}x",
         f"{one.bound + ' ' if one.bound else ''}{one.factor:.2g} <small>[{one.low:.2g}, {one.high:.2g}]</small>")
        for one in result.savings
    ]  # fmt: skip
    told = table(("arm", "real patients", "synthetic", "label-saving factor"), rows)
    return [
        "<h3>How many real labels the synthetic data is worth</h3>", told,
        "<p class=quiet>How many times as many real patients real data alone would need for the same macro AUROC; 1: "
        "synthetic data is worth nothing, below 1: it costs. 'At least' and 'at most' where the curve of real data "
        "ends before; intervals end there as well.</p>",
    ]  # fmt: skip


def _differences(result: DownstreamResult) -> list[str]:
    found = []
    for family in dict.fromkeys(one.family for one in result.comparisons):
        own = [one for one in result.comparisons if one.family == family]
        plot = interval_plot([_Row(one.difference) for one in own], [_short(one) for one in own], mark=0.0)
        rows = [
            (escape(one.arm), _percent(one.fraction), f"{one.multiple:g}x", escape(one.label), number(one.difference),
             f"{one.p:.3g}", f"{one.p_holm:.3g}", _word(one))
            for one in own
        ]  # fmt: skip
        told = table(("arm", "real patients", "synthetic", "label", "difference", "p", "p (Holm)", ""), rows)
        title = f"<h3>{escape(family)} {ARROWS[own[0].direction]}</h3>"
        shown = told if len(own) <= 16 else f"<details><summary>All {len(own)} comparisons</summary>{told}</details>"
        found += [title, plot if len(own) <= 40 else "", shown]
    return found


def _word(one: Comparison) -> str:
    return ("<b>gain</b>" if one.better else "<b>loss</b>") if one.shown else "not measurable"


def _short(one: Comparison) -> str:
    label = "" if one.label in (MACRO, "all") else f", {one.label}"
    return f"{one.arm}, {_percent(one.fraction)}{label}"[:34]


def _underdiagnosis(result: DownstreamResult) -> list[str]:
    rows = [
        (*_where(own), number(own.measured), number(_point(result, *_key(own), WORST, "all").measured),
         escape(result.worst[", ".join(_plain(own))]))
        for own in result.points if own.metric == GAP
    ]  # fmt: skip
    if not rows:
        return ["<p>Too few groups with 20 ill test images.</p>"]
    return [
        table(("arm", "real patients", "synthetic", "gap &darr;", "rate of the worst group &darr;", "which"), rows),
        "<p class=quiet>Underdiagnosis: the share of people with a finding who are called healthy, by groups of sex "
        "and age with 20 ill test images (smoothed as by Jeffreys), at the threshold that calls as many validation "
        "images healthy as are. Gap: largest less smallest. A smaller gap with a worse worst group is no gain.</p>",
    ]  # fmt: skip


def _shortcut(result: DownstreamResult, planted: Planted) -> list[str]:
    finding, confounder = escape(planted.finding), escape(planted.confounder)
    points = [p for p in result.points if p.metric == UNCORRELATED]
    rows = []
    for own in points:
        three = [_point(result, *_key(own), name, planted.finding) for name in (CORRELATED, UNCORRELATED, DROP)]
        cells = [c for c in planted.cells if (c.arm, c.fraction, c.multiple) == (own.arm, own.fraction, own.multiple)]
        rows.append((*_where(own), *(number(p.measured) for p in three), *(number(c.right) for c in cells)))
    signs = [f"{finding if f else 'no ' + finding.lower()}, {confounder if c else 'not ' + confounder}"
             for f, c in ((1, 1), (1, 0), (0, 1), (0, 0))]  # fmt: skip
    head = ("arm", "real patients", "synthetic", "AUROC, shortcut holds", "AUROC, it doesn't", "drop")
    counts = [(escape(name), *map(str, four)) for name, four in planted.counts.items()]
    return [
        f"<h2>Shortcut: {finding} and {confounder}</h2>",
        "<p>Real training and validation images were chosen so that the two go together (phi = "
        f"{planted.correlation:g}). The test is weighted once so, and once with all four cells alike: "
        "who has learned the shortcut falls there. On the right, the share of each cell's test images that is called "
        "rightly.</p>",
        table((*head, *signs), rows), "<p class=quiet>Images in each cell:</p>", table(("", *signs), counts),
    ]  # fmt: skip


def _protocol(result: DownstreamResult) -> list[str]:
    own = result.protocol
    rows = [
        ("classifiers", f"{own.classifiers}, {result.seeds} seeds"),
        ("network", f"{escape(own.network)}; {own.parameters:,} parameters, {own.size} px"),
        ("optimiser steps", f"{own.steps:,} of {own.batch_size} images, each classifier alike (checked)"),
        ("schedule", escape(own.schedule)),
        ("augmentation", f"{escape(own.augmentation)}; the same draws for all arms of a seed (checked): "
         + _digests(own.augmentation_draws)),
        ("synthetic share", f"{own.synthetic_share:.0%} of each batch when mixed, of the steps when pretraining"),
        ("choice of weights", escape(own.selection)),
        ("initial weights", "the same for all arms of a seed (checked): "
         + _digests(own.initial_weights)),
        ("test", "predicted once a classifier, after its weights were chosen"),
        ("patients", ", ".join(f"{name} {count:,}" for name, count in result.patients.items())),
    ]  # fmt: skip
    inputs = [
        (one.role, escape(one.name), f"{one.images:,}", f"{one.patients:,}", f"<code>{one.manifest_sha256[:12]}</code>",
         " ".join(f"<code>{escape(model[:12])}</code>" for model in one.models))
        for one in result.inputs
    ]  # fmt: skip
    labels = [
        (escape(one.name), *(f"{one.there[split]:,} of {one.known[split]:,}" for split in one.there))
        for one in result.labels
    ]
    packages = ", ".join(f"{name} {version}" for name, version in result.environment["packages"].items())
    return [
        table(("", ""), rows), table(("", "dataset", "images", "patients", "manifest", "models"), inputs),
        table(("label", *(f"{split}, with it" for split in ("train", "validate", "test"))), labels),
        "<p class=quiet>Predictions of every classifier lie in cells/*.npz (float32, rows as in test.csv and "
        f"validate.csv).<br><small>{escape(packages)}.</small></p>",
    ]  # fmt: skip


def _point(result: DownstreamResult, arm: str, fraction: float, multiple: float, metric: str, label: str) -> Point:
    """A number; the synthetic arm has the same at each fraction, the real one at each multiple."""
    return next(
        p for p in result.points
        if (p.arm, p.metric, p.label) == (arm, metric, label)
        and p.fraction in (0.0, fraction) and p.multiple in (0.0, multiple)
    )  # fmt: skip


def _key(point: Point) -> tuple[str, float, float]:
    return point.arm, point.fraction, point.multiple


def _where(point: Point) -> tuple[str, str, str]:
    return (
        escape(point.arm), _percent(point.fraction) if point.fraction else "none",
        f"{point.multiple:g}x" if point.multiple else "none",
    )  # fmt: skip


def _plain(point: Point) -> Sequence[str]:
    fraction = [f"{point.fraction:.4g}"] if point.fraction else []
    return [point.arm, *fraction, *([f"{point.multiple:g}x"] if point.multiple else [])]


def _digests(by_seed: Mapping[int, str]) -> str:
    return " ".join(f"<code>{digest[:12]}</code>" for digest in by_seed.values())


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"
