"""The screen: planted faults are caught, real and fresh pictures pass at the stated rates, whatever the batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import drawn_chest

from synthcxr.conditions import Condition
from synthcxr.data.dataset import Dataset
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import ConfigError, ModelError
from synthcxr.evaluation.copies import COPIES, planted_copy
from synthcxr.evaluation.copying import AuditError
from synthcxr.evaluation.pixels import pixel_features
from synthcxr.images import read_image
from synthcxr.model.classifier import FINDINGS, ClassifierShape, Readings, build_classifier
from synthcxr.model.folder import CLASSIFIER, SCREEN, hash_of
from synthcxr.synthesis.screen import ScreenConfig, open_screen
from synthcxr.synthesis.screen.broken import measure_form
from synthcxr.synthesis.screen.calibrate import CalibrateConfig, run
from synthcxr.synthesis.screen.calibration import load_calibration
from synthcxr.synthesis.screen.condition import FEWEST, fit_limits
from synthcxr.synthesis.screen.distribution import fit_gaussian, lowest_passing
from synthcxr.synthesis.screen.privacy import BITS, CopyCheck, build_index

NOTHING = {"broken": False, "distribution": False, "condition": False, "privacy": False}
TRAIN, HELD_OUT, FRESH = 60, 60, 40


def patient_image(number: int, size: int = 64) -> np.ndarray:
    """A drawn chest under smooth shadows of its patient's own."""
    rng = np.random.default_rng(number)
    coarse = torch.from_numpy(rng.normal(0, 25, (1, 1, 9, 9)))
    shadows = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0, 0].numpy()
    return np.clip(drawn_chest(size, number, number % 2 == 1) + shadows, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("screen-data") / "dataset"
    with DatasetWriter(path, origin="real") as writer:
        for number in range(TRAIN + HELD_OUT):
            writer.add(
                patient_image(number), id=f"drawn-{number:03d}", patient=f"patient-{number}", study="one",
                split="train" if number < TRAIN else "validate", source="drawn", licence="CC0",
                condition=Condition(
                    findings=["Cardiomegaly" if number % 2 else "No Finding"],
                    age=30 + number % 50, sex=("female", "male")[number // 2 % 2], view="PA",
                ),
            )  # fmt: skip
    return writer.dataset


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model, data) -> Path:
    """A model with a random classifier, calibrated on drawn chests."""
    folder = tmp_path_factory.mktemp("screen-model") / "model"
    shutil.copytree(tiny_model, folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = ClassifierShape(size=32, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1))
        build_classifier(shape).save_pretrained(folder / CLASSIFIER)
    run(calibration_of(folder, data))
    return folder


def calibration_of(folder: Path, data: Dataset, **fields: object) -> CalibrateConfig:
    given = {"outliers": 0.05, "alpha": 0.05, **fields}
    return CalibrateConfig(model=folder, data=(data.path,), **given)


def verdicts(model: Path, pictures: list[np.ndarray], condition: Condition | None = None, **on: bool) -> list:
    screen = open_screen(ScreenConfig(**NOTHING | on), str(model))
    return screen(pictures, [condition or Condition()] * len(pictures))


def failed(found: list) -> list[str | None]:
    return [verdict.failed for verdict in found]


def broken_pictures() -> dict[str, np.ndarray]:
    chest, rng = drawn_chest(256), np.random.default_rng(0)
    half = chest.copy()
    half[128:] = 128
    return {
        "black": np.zeros((256, 256), np.uint8),
        "white": np.full((256, 256), 255, np.uint8),
        "grey": np.full((256, 256), 120, np.uint8),
        "faint": (chest // 10 + 100).astype(np.uint8),
        "burnt out": np.clip(chest.astype(int) * 4, 0, 255).astype(np.uint8),
        "drowned": np.clip(chest.astype(int) - 120, 0, 255).astype(np.uint8),
        "half": half,
        "uniform noise": rng.integers(0, 256, (256, 256), dtype=np.uint8),
        "salt and pepper": np.where(rng.random((256, 256)) < 0.5, 0, 255).astype(np.uint8),
    }


@pytest.mark.parametrize("name", broken_pictures())
def test_what_is_not_whole_is_caught_without_a_model(name):
    screen = open_screen(ScreenConfig(distribution=False, condition=False, privacy=False), None)
    assert failed(screen([broken_pictures()[name], drawn_chest(256)], [Condition()] * 2)) == ["broken", None]


def test_real_radiographs_are_whole(cxr_open):
    folders = [cxr_open / "nih" / "images", cxr_open / "nih" / "images-128", cxr_open / "hannover"]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.[jp][pn]g"))[::40]]
    whole = [measure_form(read_image(path)).whole for path in paths]
    assert len(whole) > 200 and np.mean(whole) > 0.99


def test_noise_is_unlike_chests_and_fresh_chests_are_not(model):
    """Even to a classifier with random weights, which doesn't know much else."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    assert failed(verdicts(model, [noise], distribution=True)) == ["distribution"]
    fresh = [patient_image(1000 + number) for number in range(FRESH)]
    assert failed(verdicts(model, fresh, distribution=True)).count("distribution") <= 0.05 * FRESH + 5


@pytest.mark.parametrize("rate", [0.9, 0.95, 0.99])
def test_limits_keep_their_rate(rate):
    """Averaged over calibrations, a share of at most 1 - rate of fresh values fails; not much fewer do."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        limit = lowest_passing(rng.standard_normal(150), rate)
        shares.append((rng.standard_normal(200) < limit).mean())
    assert (1 - rate) * 0.4 < np.mean(shares) < (1 - rate) * 1.1
    assert lowest_passing(np.arange(5.0), rate) == -np.inf


def test_the_distance_knows_a_direction_that_did_not_vary():
    rng = np.random.default_rng(0)
    train = rng.standard_normal((500, 8)) * [5, 4, 3, 2, 1, 1, 1, 1e-3] + 7
    held_out = rng.standard_normal((300, 8)) * [5, 4, 3, 2, 1, 1, 1, 1e-3] + 7
    fitted = fit_gaussian(train, held_out, 0.99)
    assert (fitted.distance(held_out) <= fitted.limit).mean() >= 0.99
    assert fitted.distance(train).mean() == pytest.approx(1, abs=0.1)
    off = np.full((1, 8), 7.0)
    off[0, 7] += 2
    assert fitted.distance(off)[0] > fitted.limit
    with pytest.raises(ValueError, match="held-out patients"):
        fit_gaussian(train, held_out[:50], 0.99)


def readings_of(sex: np.ndarray, ill: np.ndarray, age: np.ndarray, seed: int) -> Readings:
    """A reader that tells sex and Edema well, age roughly, and Mass not at all; the rest never."""
    rng = np.random.default_rng(seed)

    def told(truth: np.ndarray, strength: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(strength * (2 * truth - 1) + rng.standard_normal(len(truth)))))

    findings = np.full((len(sex), len(FINDINGS)), 0.05)
    names = [finding.value for finding in FINDINGS]
    findings[:, names.index("Edema")] = told(ill, 2)
    findings[:, names.index("Mass")] = rng.random(len(sex))
    half_as_far = 50 + 0.5 * (age - 50) + rng.normal(0, 4, len(age))
    return Readings(findings, told(sex, 2), np.full(len(sex), 0.5), half_as_far, np.zeros((len(sex), 1)))


@pytest.fixture(scope="module")
def read():
    """Limits, and what they were not calibrated on: readings and the true conditions of as many patients."""
    rng = np.random.default_rng(5)
    n = 2000
    sex, ill, mass, age = rng.random(n) < 0.5, rng.random(n) < 0.3, rng.random(n) < 0.2, rng.integers(20, 90, n)
    conditions = [
        Condition(
            findings=["Edema"] * int(i) + ["Mass"] * int(m) or ["No Finding"], sex="male" if s else "female", age=int(a)
        )
        for s, i, m, a in zip(sex, ill, mass, age, strict=True)
    ]
    half = slice(0, n // 2), slice(n // 2, n)
    readings = [readings_of(sex[part], ill[part], age[part], seed) for seed, part in enumerate(half)]
    limits = fit_limits(readings[0], conditions[half[0]], np.arange(n // 2), 0.95)
    return limits, readings[1], conditions[half[1]]


def one(readings: Readings, row: int) -> Readings:
    return Readings(*(getattr(readings, name)[row : row + 1] for name in Readings.__dataclass_fields__))


def passing(read, change=lambda condition: condition) -> float:
    limits, readings, conditions = read
    judged = [change(condition) for condition in conditions]
    passed = [limits.check(one(readings, row), asked)[0] for row, asked in enumerate(judged) if asked is not None]
    assert len(passed) > 100
    return float(np.mean(passed))


def test_what_was_asked_passes_at_the_stated_rate(read):
    assert passing(read, lambda c: Condition(sex=c.sex)) == pytest.approx(0.95, abs=0.025)
    assert passing(read, lambda c: Condition(age=c.age)) == pytest.approx(0.95, abs=0.025)
    for name, state in (("Edema", "present"), ("Edema", "absent"), ("No Finding", "present")):

        def asked(condition: Condition, name=name, state=state) -> Condition | None:
            there = name in [finding.value for finding in condition.findings]
            return Condition(findings={name: state}) if there == (state == "present") else None

        assert passing(read, asked) == pytest.approx(0.95, abs=0.04), (name, state)


def test_what_was_not_asked_fails(read):
    assert passing(read, lambda c: Condition(sex={"male": "female", "female": "male"}[c.sex])) < 0.2
    assert passing(read, lambda c: Condition(age=c.age + 45) if c.age < 50 else None) < 0.05

    def other(condition: Condition) -> Condition | None:
        ill = "Edema" in [finding.value for finding in condition.findings]
        return Condition(findings={"Edema": "absent" if ill else "present"})

    assert passing(read, other) < 0.2


def test_only_what_can_be_told_counts(read):
    limits, readings, _ = read
    assert [limits.labels[name].judged for name in ("Edema", "male", "No Finding", "Mass", "AP", "Hernia")] == [
        True, True, True, False, False, False
    ]  # fmt: skip
    assert limits.labels["Mass"].auc == pytest.approx(0.5, abs=0.1) and limits.labels["Hernia"].patients[0] < FEWEST
    unjudged = Condition(findings={"Mass": "present", "Edema": "uncertain", "Pacemaker": "present"}, view="LATERAL")
    assert limits.check(one(readings, 0), unjudged) == (True, {})
    _, values = limits.check(one(readings, 0), Condition(findings=["Mass", "Edema"], sex="male", age=40))
    assert set(values) == {"Edema", "male", "age"}


def test_sexes_of_one_patient_are_no_evidence():
    """Ninety images of eight patients tell nothing of sex, however well they are told apart."""
    patients = np.repeat(np.arange(8), 12)
    sex = patients % 2 == 0
    readings = readings_of(sex, sex, np.full(len(sex), 50), 0)
    conditions = [Condition(sex="male" if male else "female", age=50) for male in sex]
    limits = fit_limits(readings, conditions, patients, 0.95)
    assert not limits.labels["male"].judged and not limits.age.judged


def test_copies_of_training_images_are_caught_and_other_patients_are_not(model):
    for kind in ("exact", "shifted", "jpeg70"):
        planted = [planted_copy(patient_image(number), kind, number) for number in range(20)]
        assert failed(verdicts(model, planted, privacy=True)).count("privacy") >= 19, kind
    fresh = [patient_image(1000 + number) for number in range(FRESH)]
    assert failed(verdicts(model, fresh, privacy=True)).count("privacy") <= 0.05 * FRESH + 4


def test_real_copies_are_caught_and_real_patients_are_not(cxr_open):
    paths = sorted((cxr_open / "nih" / "images-128").glob("*.jpg"))[::7]
    images = [read_image(path) for path in paths]
    names = np.array([path.stem.split("_")[0] for path in paths])
    order = np.random.default_rng(0).permutation(np.unique(names))
    assert len(order) > 500
    train, held_out, fresh = (
        np.flatnonzero(np.isin(names, part)) for part in np.split(order, [len(order) // 2, len(order) * 3 // 4])
    )

    def one_each(rows: np.ndarray) -> np.ndarray:
        return rows[np.unique(names[rows], return_index=True)[1]]

    features = pixel_features(images[row] for row in train)
    fitted = np.unique(names[train], return_index=True)[1]
    index = build_index(features, fitted, np.stack([images[row] for row in one_each(held_out)]), 0.01, 0)
    assert index.codes.nbytes <= len(train) * BITS // 8
    check = CopyCheck(index)
    for kind in COPIES:
        caught = [check.p(planted_copy(images[row], kind, int(row))) <= 0.01 for row in train[::12]]
        assert np.mean(caught) > 0.95, kind
    wrongly = [check.p(images[row]) <= 0.01 for row in one_each(fresh)]
    assert np.mean(wrongly) < 0.04


def test_a_blank_picture_is_no_copy(model):
    assert failed(verdicts(model, [np.full((64, 64), 90, np.uint8)], privacy=True)) == [None]


def test_too_few_held_out_patients_for_the_rate_are_refused():
    train = pixel_features(patient_image(number) for number in range(30))
    held_out = np.stack([patient_image(100 + number) for number in range(30)])
    with pytest.raises(AuditError, match="hold out at least 99"):
        build_index(train, np.arange(30), held_out, 0.01, 0)


def test_verdicts_do_not_depend_on_the_batch(model):
    pictures = [patient_image(number) for number in range(55, 65)] + [np.zeros((64, 64), np.uint8)]
    conditions = [Condition(sex="male", age=40 + number, findings=["Cardiomegaly"]) for number in range(len(pictures))]
    screen = open_screen(ScreenConfig(), str(model))
    together = screen(pictures, conditions)
    alone = [verdict for pair in zip(pictures, conditions, strict=True) for verdict in screen(*([one] for one in pair))]
    assert alone == together == open_screen(ScreenConfig(), str(model))(pictures, conditions)
    assert together[-1].failed == "broken" and "privacy" in failed(together)
    for verdict in together:
        assert np.isfinite(list(verdict.values.values())).all() and {"range", "distance", "p_copy"} <= set(
            verdict.values
        )
        assert json.loads(json.dumps(verdict.values)) == verdict.values


def test_the_first_check_that_fails_is_named_and_each_can_be_switched_off(model):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert failed(verdicts(model, [noise], broken=True, distribution=True, privacy=True)) == ["broken"]
    assert failed(verdicts(model, [noise], distribution=True, privacy=True)) == ["distribution"]
    assert failed(verdicts(model, [noise], privacy=True)) == [None]
    [silent] = verdicts(model, [noise])
    assert silent.failed is None and silent.values == {}
    copy = patient_image(0)
    assert failed(verdicts(model, [copy], broken=True, privacy=True)) == ["privacy"]
    assert failed(verdicts(model, [copy], broken=True)) == [None]


def test_the_models_hash_stays_and_the_screen_is_small(model, tiny_model):
    assert hash_of(model) == hash_of(tiny_model)
    assert sum(file.stat().st_size for file in (model / SCREEN).iterdir()) < 2.5e6
    calibration, digest = load_calibration(model)
    assert calibration.limits.images == TRAIN and calibration.limits.patients == HELD_OUT
    assert open_screen(ScreenConfig(), str(model)).hash == digest


def test_calibrating_again_gives_the_same_files(model, data, tmp_path):
    again = tmp_path / "model"
    shutil.copytree(model, again)
    run(calibration_of(again, data, cache=tmp_path / "cache"))
    assert load_calibration(again)[1] == load_calibration(model)[1]
    assert not list(again.glob("*.new"))


def test_what_does_not_fit_is_said_in_one_line(model, tiny_model, data, tmp_path):
    for on in ("distribution", "condition", "privacy"):
        with pytest.raises(ModelError, match="holds no calibration .*synthcxr calibrate"):
            open_screen(ScreenConfig(**NOTHING | {on: True}), str(tiny_model))
    with pytest.raises(ModelError, match="no classifier"):
        run(calibration_of(tiny_model, data))
    other = tmp_path / "other"
    shutil.copytree(model, other)
    info = json.loads((other / "synthcxr.json").read_text())
    (other / "synthcxr.json").write_text(json.dumps({**info, "data_hash": "0" * 64}))
    with pytest.raises(ConfigError, match="data: these aren't the images"):
        run(calibration_of(other, data))
    build_classifier(ClassifierShape(size=32, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1))).save_pretrained(
        other / CLASSIFIER
    )
    with pytest.raises(ModelError, match="another classifier"):
        open_screen(ScreenConfig(), str(other))
    (other / SCREEN / "index.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="can't be read"):
        open_screen(ScreenConfig(), str(other))
