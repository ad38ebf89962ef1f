"""The privacy audit: are synthetic images nearer to training images than those of patients never seen would be?

Needs no model, only features: of training images T, of images of held-out patients H, of synthetic images S, and of
altered copies of training images, the positive control. Several feature sets see different kinds of copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from synthcxr.evaluation.copying import (
    CELL_ROWS,
    AuditError,
    calibrated_p,
    excess_rate,
    flagged_by,
    flagged_level,
    fresh_rates,
    told_apart,
)
from synthcxr.evaluation.feature_set import (
    AuditSettings,
    FeatureSet,
    Found,
    SetAudit,
    components,
    flat,
    one_a_patient,
)
from synthcxr.evaluation.scores import Score, auc, auc_interval

CONTROL_AUC = {"exact": 0.999}  # what the positive control must reach
OTHER_CONTROL_AUC = 0.99


class NotComparable(AuditError):
    """Training and held-out patients can be told apart without a model; `score` says how well."""

    def __init__(self, score: Score):
        self.score = score
        super().__init__(
            f"training and held-out patients can be told apart (AUC {score.value:.2f}, {score.low:.2f} to "
            f"{score.high:.2f}), so that held-out images calibrate nothing; split one collection by patient, at random"
        )


@dataclass(frozen=True)
class Suspect:
    """A synthetic image on the list of suspects: its row, the training row it's near to, by which features, and p."""

    synthetic: int
    train: int
    features: str
    p: float


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of an audit.

    Attributes:
        told_apart: AUC of training against held-out patients; its interval holds 0.5, else there's no audit.
        excess: the excess copy rate by all feature sets together.
        fresh: the range of the flagged share that as many fresh real images would keep to 95 times of 100.
        p: (n,) of each synthetic image.
        suspects: the list at the settings' false discovery rate, most suspect first.
        listable: the fewest copies that the list can name, with so many synthetic images and held-out patients.
        controls: AUC of planted copies against held-out images, one a kind.
        sets: by feature set.
        failures: why it doesn't pass, one line each; empty where it does.
    """

    told_apart: Score
    excess: Score
    fresh: tuple[float, float]
    p: np.ndarray
    suspects: tuple[Suspect, ...]
    listable: int
    controls: tuple[Score, ...]
    sets: tuple[SetAudit, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def audit(
    sets: Sequence[FeatureSet],
    train_patients: np.ndarray,
    held_out_patients: np.ndarray,
    prompts: np.ndarray | None = None,
    settings: AuditSettings | None = None,
) -> Audit:
    """Audit synthetic images for copies of training images.

    Feature sets are combined by their smallest tail: in each, d1 becomes its rank among the distances from training
    images to other training patients, a scale that knows neither H nor S; the smallest rank over the sets is then
    calibrated on H like a single distance. So p is exact for any number of sets, where a Bonferroni correction would
    pay a factor of that number. Distances of training images set the scale only, never the threshold.

    Args:
        sets: at least one; all with the same images in the same order, and the same kinds of planted copies.
        train_patients, held_out_patients: whose the images are; no patient is in both. The patient is the unit: one
            random image of each held-out patient calibrates, and a nearest neighbour is a nearest patient.
        prompts: (n,) what each synthetic image was generated from: images of one prompt aren't independent.
    Raises:
        AuditError: what was given can't be audited.
        NotComparable: training and held-out patients can be told apart (by chance, once in 20 audits).
    """
    settings = settings or AuditSettings()
    _check(sets, train_patients, held_out_patients, prompts)
    check_people(train_patients, held_out_patients, len(sets[0].synthetic), settings)
    count = len(np.unique(held_out_patients))
    sets = _calibrating(sets, held_out_patients, settings)
    comparable = _comparable(sets, train_patients, settings)
    found = [Found(features, train_patients, settings) for features in sets]
    held_out, synthetic = _together(found)
    p = calibrated_p(synthetic, held_out)
    excess = excess_rate("excess copy rate", p, settings.alpha, count, prompts)
    controls = tuple(
        _control(planted.kind, np.min([f.planted[row] for f in found], axis=0), held_out)
        for row, planted in enumerate(sets[0].planted)
    )
    return Audit(
        comparable, excess, fresh_rates(settings.alpha, count, len(p)), p,
        _suspects(p, synthetic, found, settings.fdr), int(np.ceil(len(p) / (settings.fdr * (count + 1)))), controls,
        tuple(f.scores(prompts, settings) for f in found), _failures(excess, controls, settings),
    )  # fmt: skip


def check_people(train: np.ndarray, held_out: np.ndarray, synthetic: int, settings: AuditSettings) -> None:
    """Whether so many synthetic images can be audited with these patients: known before any feature is.

    Raises:
        AuditError: a patient is in both, or there are too few patients or images.
    """
    if len(shared := np.intersect1d(train, held_out)):
        raise AuditError(
            f"patient {shared[0]} and {len(shared) - 1} more are both in training and held out; split by patient"
        )
    if len(np.unique(train)) < 3:
        raise AuditError("an audit needs training images of at least 3 patients")
    flagged_level(settings.alpha, len(np.unique(held_out)))
    if synthetic < CELL_ROWS:
        raise AuditError(f"{synthetic} synthetic images can't be audited; give at least {CELL_ROWS}")


def copy_rate(
    name: str, sets: Sequence[FeatureSet], train_patients: np.ndarray, held_out_patients: np.ndarray,
    prompts: np.ndarray, settings: AuditSettings,
) -> Score:  # fmt: skip
    """The excess copy rate alone, as `audit` finds it, of further images of the model that it audits."""
    found = [Found(features, train_patients, settings) for features in _calibrating(sets, held_out_patients, settings)]
    held_out, synthetic = _together(found)
    p = calibrated_p(synthetic, held_out)
    return excess_rate(name, p, settings.alpha, len(held_out), prompts)


def _calibrating(sets: Sequence[FeatureSet], held_out: np.ndarray, settings: AuditSettings) -> list[FeatureSet]:
    """The sets with one random image of each held-out patient."""
    one = one_a_patient(held_out, settings.seed)
    return [replace(features, held_out=features.held_out[one]) for features in sets]


def _together(found: Sequence[Found]) -> tuple[np.ndarray, np.ndarray]:
    """Held-out and synthetic images' smallest ranks over the feature sets."""
    held_out, synthetic = (np.min([getattr(f, part) for f in found], axis=0) for part in ("held_out", "synthetic"))
    return held_out, synthetic


def _check(sets: Sequence[FeatureSet], train: np.ndarray, held_out: np.ndarray, prompts: np.ndarray | None) -> None:
    if not sets:
        raise AuditError("an audit needs at least one feature set")
    shape = _shape(sets[0])
    if not shape[3]:
        raise AuditError("an audit needs planted copies: without a positive control it can't say what it would miss")
    for features in sets:
        if _shape(features) != shape:
            raise AuditError(f"{features.name} and {sets[0].name} must be of the same images; extract both anew")
    images = (len(train), len(held_out), shape[2] if prompts is None else len(prompts))
    if shape[:3] != images:
        raise AuditError(f"features of {shape[:3]} training, held-out and synthetic images, but names for {images}")


def _shape(features: FeatureSet) -> tuple[int, int, int, tuple[tuple[str, int], ...]]:
    planted = tuple((copies.kind, len(copies.features)) for copies in features.planted)
    return len(features.train), len(features.held_out), len(features.synthetic), planted


def _comparable(sets: Sequence[FeatureSet], train_patients: np.ndarray, settings: AuditSettings) -> Score:
    """Training against held-out patients, by principal components of one image of each; of all sets but the model's."""
    rows = one_a_patient(train_patients, settings.seed)[: settings.sample]
    told = []
    for features in [features for features in sets if not features.of_model] or sets:
        train, held_out = flat(features.train[rows]), flat(features.held_out[: settings.sample])
        axes = components(np.concatenate([train, held_out]), settings.seed)
        told.append((axes.transform(train), axes.transform(held_out)))
    score = told_apart(*(np.hstack(parts) for parts in zip(*told, strict=True)), seed=settings.seed)
    if not score.low <= 0.5 <= score.high:
        raise NotComparable(score)
    return score


def _control(kind: str, planted: np.ndarray, held_out: np.ndarray) -> Score:
    """AUC of planted copies against held-out images, by d1 of all feature sets together."""
    value = auc(-planted, -held_out)
    low, high = auc_interval(value, len(planted), len(held_out))
    return Score(f"planted copies, {kind}", value, low, high, len(planted), "higher")


def _suspects(p: np.ndarray, nearness: np.ndarray, found: Sequence[Found], fdr: float) -> tuple[Suspect, ...]:
    rows = np.flatnonzero(flagged_by(p, fdr))
    rows = rows[np.argsort(nearness[rows], kind="stable")]
    by = [found[which] for which in np.argmin([f.synthetic[rows] for f in found], axis=0)]
    return tuple(
        Suspect(int(row), int(f.near_synthetic.index[row]), f.features.name, float(p[row]))
        for row, f in zip(rows, by, strict=True)
    )


def _failures(excess: Score, controls: Sequence[Score], settings: AuditSettings) -> tuple[str, ...]:
    lines = []
    if excess.high > settings.max_excess:
        why = "images are copied" if excess.low > 0 else "too few images, prompts or held-out patients to tell"
        lines.append(f"the excess copy rate may be {excess.high:.1%}, more than {settings.max_excess:.1%}: {why}")
    for score in controls:
        least = CONTROL_AUC.get(score.name.rsplit(" ", 1)[-1], OTHER_CONTROL_AUC)
        if score.value < least:
            lines.append(
                f"{score.name}: AUC {score.value:.4f} is below {least:g}; these features don't see such copies"
            )
    return tuple(lines)
