"""Do generated pictures show what was asked? A classifier trained on real images judges; its score on real images of
other patients is the ceiling, for it errs as well, and labels do."""

from collections.abc import Sequence

import numpy as np

from synthcxr.conditions import Condition
from synthcxr.evaluation.resampling import bootstrap_score, cluster_weights, weighted_auc, weighted_mean
from synthcxr.evaluation.scores import Score
from synthcxr.model.classifier import AGE_MEAN, AGE_SCALE, FINDINGS, LABELS, Readings, targets

LEAST = 10  # images with and without a finding (unless told otherwise), of each sex and view, and of known age


def alignment(
    readings: Readings, conditions: Sequence[Condition], units: np.ndarray, seed: int = 0, least: int = LEAST
) -> list[Score]:
    """How well a judge finds in n images what their conditions say.

    Scores: "AUROC, <finding>" of each with at least `least` images with and without it, "AUROC, mean" of these (with at
    least two), "accuracy, sex" and "accuracy, view" (PA or AP) balanced over both, "error, age" in years (mean
    absolute) and "correlation, age" (Pearson). What too few images are labelled with is left out.

    Args:
        units: (n,) the patient or the prompt of each image, by which intervals are drawn.
    """
    known = targets(conditions)
    weights = cluster_weights(units, seed=seed)
    return [
        *_findings(readings, known, weights, least),
        *_choice("accuracy, sex", readings.male, known[:, LABELS.index("male")], weights),
        *_choice("accuracy, view", readings.ap, known[:, LABELS.index("AP")], weights),
        *_age(readings.age, known[:, LABELS.index("age")] * AGE_SCALE + AGE_MEAN, weights),
    ]


def _findings(readings: Readings, known: np.ndarray, weights: np.ndarray, least: int) -> list[Score]:
    scores, draws = [], []
    for column, finding in enumerate(FINDINGS):
        labelled = np.isfinite(known[:, column])
        there = known[labelled, column] == 1
        if min(there.sum(), (~there).sum()) < least:
            continue
        told = readings.findings[labelled, column]
        value = weighted_auc(told, there, np.ones((1, len(told))))[0]
        draws.append(weighted_auc(told, there, weights[:, labelled]))
        scores.append(bootstrap_score(f"AUROC, {finding}", value, draws[-1], int(there.sum()), "higher"))
    if len(scores) > 1:
        mean = float(np.mean([score.value for score in scores]))
        count = int((known[:, : len(FINDINGS)] == 1).any(axis=1).sum())
        scores.insert(0, bootstrap_score("AUROC, mean", mean, np.mean(draws, axis=0), count, "higher"))
    return scores


def _choice(name: str, chance: np.ndarray, known: np.ndarray, weights: np.ndarray) -> list[Score]:
    """Balanced: the mean of both accuracies, so that always saying the commoner one gives a half."""
    sides = [known == side for side in (0, 1)]
    if min(side.sum() for side in sides) < LEAST:
        return []
    right = ((chance >= 0.5) == (known == 1)).astype(np.float64)
    value = np.mean([right[side].mean() for side in sides])
    draws = np.mean([weighted_mean(right[side], weights[:, side]) for side in sides], axis=0)
    return [bootstrap_score(name, value, draws, int(np.isfinite(known).sum()), "higher")]


def _age(told: np.ndarray, years: np.ndarray, weights: np.ndarray) -> list[Score]:
    known = np.isfinite(years)
    if known.sum() < LEAST:
        return []
    told, years, weights = told[known].astype(np.float64), years[known].astype(np.float64), weights[:, known]
    error, ones = np.abs(told - years), np.ones((1, int(known.sum())))
    scores = [bootstrap_score("error, age", error.mean(), weighted_mean(error, weights), len(years), "lower")]
    if years.std() > 0 and told.std() > 0:
        value, draws = _correlation(told, years, ones)[0], _correlation(told, years, weights)
        scores.append(bootstrap_score("correlation, age", value, draws, len(years), "higher"))
    return scores


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(replicates,) Pearson correlations."""
    x, y = x - x.mean(), y - y.mean()  # rounding is least about the mean
    means = {
        name: weighted_mean(v, weights) for name, v in (("x", x), ("y", y), ("xy", x * y), ("xx", x * x), ("yy", y * y))
    }
    spread = (means["xx"] - means["x"] ** 2) * (means["yy"] - means["y"] ** 2)
    shared = means["xy"] - means["x"] * means["y"]
    return np.divide(shared, np.sqrt(spread.clip(0)), out=np.full(len(weights), np.nan), where=spread > 0)
