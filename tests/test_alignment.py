"""Alignment and control: a judge that sees what was asked says so, and one that doesn't doesn't."""

import numpy as np
import pytest

from synthcxr.conditions import Condition
from synthcxr.data.record import Record
from synthcxr.evaluation.alignment import alignment
from synthcxr.evaluation.control import counterfactual_pairs, entanglement
from synthcxr.evaluation.features import readings
from synthcxr.model.classifier import AGE_SCALE, FINDINGS, LABELS, Readings, targets

metrics = pytest.importorskip("sklearn.metrics")
MASS, EDEMA = (next(i for i, finding in enumerate(FINDINGS) if finding == name) for name in ("Mass", "Edema"))


def conditions_of(rng: np.random.Generator, n: int) -> list[Condition]:
    names = ("Mass", "Edema", "No Finding")
    return [
        Condition(
            findings=[names[rng.integers(3)]], age=int(rng.integers(20, 90)),
            sex=("female", "male")[rng.integers(2)], view=("PA", "AP")[rng.integers(2)],
        )
        for _ in range(n)
    ]  # fmt: skip


def judged(conditions: list[Condition], rng: np.random.Generator, blur: float) -> Readings:
    """Readings that tell the truth, but for noise."""
    known = np.nan_to_num(targets(conditions).astype(float))
    chances = 1 / (1 + np.exp(-(4 * known[:, :-1] - 2 + blur * rng.standard_normal(known[:, :-1].shape))))
    age = 50 + AGE_SCALE * known[:, -1] + 5 * blur * rng.standard_normal(len(known))
    return Readings(chances[:, :-2], chances[:, -2], chances[:, -1], age, known)


def test_scores_are_those_of_scikit_learn_and_numpy():
    rng = np.random.default_rng(0)
    conditions = conditions_of(rng, 200)
    told, known = judged(conditions, rng, 2.0), targets(conditions)
    scores = {score.name: score for score in alignment(told, conditions, np.arange(200))}
    area = metrics.roc_auc_score(known[:, MASS], told.findings[:, MASS])
    assert scores["AUROC, Mass"].value == pytest.approx(area, abs=1e-12) and "AUROC, Hernia" not in scores
    mean = (area + metrics.roc_auc_score(known[:, EDEMA], told.findings[:, EDEMA])) / 2
    assert scores["AUROC, mean"].value == pytest.approx(mean, abs=1e-12)
    male = known[:, LABELS.index("male")]
    assert scores["accuracy, sex"].value == pytest.approx(metrics.balanced_accuracy_score(male, told.male >= 0.5))
    years = np.array([condition.age for condition in conditions])
    assert scores["error, age"].value == pytest.approx(metrics.mean_absolute_error(years, told.age), rel=1e-6)
    assert scores["correlation, age"].value == pytest.approx(np.corrcoef(years, told.age)[0, 1], rel=1e-6)
    for score in scores.values():
        assert score.low <= score.value <= score.high and score.low < score.high


def test_pictures_that_ignore_the_prompt_score_by_chance():
    rng, held = np.random.default_rng(1), []
    for seed in range(20):
        asked, drawn = conditions_of(rng, 150), conditions_of(rng, 150)
        scores = alignment(judged(drawn, rng, 1.0), asked, np.arange(150), seed)
        chance = {"correlation, age": 0.0}
        held += [s.low <= chance.get(s.name, 0.5) <= s.high for s in scores if s.name != "error, age"]
    assert np.mean(held) > 0.88


def test_what_few_images_are_labelled_with_is_left_out():
    conditions = [Condition(findings=["Mass"] if n < 9 else ["Edema"], view="PA") for n in range(40)]
    told = judged(conditions, np.random.default_rng(0), 1.0)
    assert alignment(told, conditions, np.arange(40)) == []
    counts = {score.name: score.n for score in alignment(told, conditions, np.arange(40), least=9)}
    assert counts["AUROC, Mass"] == 9 and counts["AUROC, Edema"] == 31


def test_readings_come_back_from_their_rows():
    rows = np.arange(2 * 20.0).reshape(2, 20)
    told = readings(rows)
    assert told.findings.shape == (2, 14) and told.features.shape == (2, 3)
    np.testing.assert_array_equal(np.column_stack([told.findings, told.male, told.ap, told.age, told.features]), rows)


def record(row: int, group: str, seed: int, **condition) -> Record:
    return Record(
        id=f"r{row}", shard="00000.tar", offset=0, size=1, sha256="0", width=8, height=8, bits=8, native_width=8,
        native_height=8, patient=group, study=group, split="train", origin="synthetic", source="x", licence="x",
        condition=Condition(**condition), seed=seed, model="m",
    )  # fmt: skip


def test_pairs_differ_in_one_attribute_alone():
    base = {"findings": ["No Finding"], "age": 40, "sex": "female", "view": "PA"}
    others = [
        {"sex": "male"}, {"age": 70}, {"findings": ["Mass"]}, {"view": "LATERAL"}, {"sex": "male", "age": 70},
        {"findings": {"Mass": {"state": "present", "side": "left"}}}, {"findings": ["Pacemaker"]},
    ]  # fmt: skip
    rows = [record(0, "g", 1, **base), *(record(n + 1, "g", 1, **(base | other)) for n, other in enumerate(others))]
    rows += [record(20, "g", 2, **(base | {"sex": "male"})), record(21, "h", 1, **(base | {"sex": "male"}))]
    pairs = {(pair.low, pair.high): (pair.attribute, pair.step) for pair in counterfactual_pairs(rows)}
    assert pairs == {
        (0, 1): ("male", 1), (0, 2): ("age", 2), (0, 3): ("Mass", 1), (0, 6): ("Mass", 1),
        (1, 5): ("age", 2), (2, 5): ("male", 1),
    }  # fmt: skip


def test_the_matrix_shows_what_moves_along():
    """Making somebody male here also makes the heart's chance rise by 0.2; an effusion moves nothing but itself."""
    rows, told = [], []
    rng = np.random.default_rng(0)
    for group in range(40):
        for sex, effusion in (("female", False), ("male", False), ("female", True)):
            findings = ["Pleural Effusion" if effusion else "No Finding"]
            rows.append(record(len(rows), f"g{group}", group, findings=findings, age=50, sex=sex, view="PA"))
            reading = rng.normal(0.3, 0.02, 17)
            reading[LABELS.index("male")] += 0.4 * (sex == "male")
            reading[LABELS.index("Cardiomegaly")] += 0.2 * (sex == "male")
            reading[LABELS.index("Pleural Effusion")] += 0.5 * effusion
            told.append(reading)
    told = np.array(told)
    seen = Readings(told[:, :14], told[:, 14], told[:, 15], told[:, 16] * AGE_SCALE, told)
    groups = np.array([row.patient for row in rows])
    found = entanglement(seen, counterfactual_pairs(rows), groups)
    assert set(found.changed) == {"male", "Pleural Effusion"} and found.pairs == (40, 40)
    scores = {score.name: score for score in found.scores}
    assert scores["control of male"].value == pytest.approx(0.4, abs=0.02)
    leak = scores["leakage of male into Cardiomegaly"]
    assert leak.value == pytest.approx(0.2, abs=0.02) and leak.low > 0.15
    assert scores["control of Pleural Effusion"].low > 0.45
    assert found.effect.shape == (2, 17)
    assert entanglement(seen, counterfactual_pairs(rows[:6]), groups) is None
