"""The classifier: what it is taught, how it is calibrated, that it reads each image for itself."""

import numpy as np
import pytest
import torch

from synthcxr.conditions import Condition
from synthcxr.errors import ModelError
from synthcxr.model.classifier import (
    AGE_MEAN,
    AGE_SCALE,
    FINDINGS,
    LABELS,
    Classifier,
    ClassifierShape,
    build_classifier,
    load_classifier,
    targets,
)
from synthcxr.train.classifier import label_loss, platt

SHAPE = ClassifierShape(size=32, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_classifier(SHAPE), "unsaved")


def test_what_is_known_is_taught_and_nothing_else():
    conditions = [
        Condition(
            findings={"Edema": "present", "Mass": "absent", "Hernia": "uncertain"}, age=65, sex="male", view="AP"
        ),
        Condition(findings=["No Finding"], sex="female", view="PA"),
        Condition(view="LATERAL"),
    ]
    rows = [dict(zip(LABELS, row, strict=True)) for row in targets(conditions).tolist()]
    ill, healthy, unknown = rows
    assert (ill["Edema"], ill["Mass"], ill["Atelectasis"]) == (1, 0, 0) and np.isnan(ill["Hernia"])
    assert (ill["male"], ill["AP"], ill["age"]) == (1, 1, pytest.approx((65 - AGE_MEAN) / AGE_SCALE))
    assert [healthy[finding.value] for finding in FINDINGS] == [0] * len(FINDINGS)
    assert (healthy["male"], healthy["AP"]) == (0, 0) and np.isnan(healthy["age"])
    assert np.isnan(list(unknown.values())).all()


def test_the_loss_of_what_is_unknown_is_nothing():
    logits = torch.zeros(3, len(LABELS), requires_grad=True)
    known = torch.full((3, len(LABELS)), float("nan"))
    known[0, 0], known[0, -1], known[1, -1] = 1.0, 2.0, 0.0
    loss = label_loss(logits, known)
    assert loss[0].item() == pytest.approx(np.log(2)) and loss[-1].item() == pytest.approx(1.0)  # (2 + 0) / 2
    assert loss[1:-1].abs().sum() == 0
    loss.sum().backward()
    assert (logits.grad != 0).sum() == 2 and logits.grad.isfinite().all()


def test_calibration_undoes_what_was_done_to_the_logits():
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 1.5, (20_000, len(LABELS))).astype(np.float32)
    known = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.float32)
    scale, shift = platt(torch.from_numpy(3 * true + 2), torch.from_numpy(known))
    assert scale[:-1].numpy() == pytest.approx(1 / 3, rel=0.1) and shift[:-1].numpy() == pytest.approx(-2 / 3, abs=0.1)
    assert (scale[-1], shift[-1]) == (1, 0)  # the age


def test_calibration_leaves_alone_what_no_image_tells():
    known = torch.full((50, len(LABELS)), float("nan"))
    scale, shift = platt(torch.randn(50, len(LABELS)), known)
    assert scale.tolist() == [1] * len(LABELS) and shift.tolist() == [0] * len(LABELS)


def test_readings_do_not_depend_on_the_batch(classifier):
    images = np.random.default_rng(1).integers(0, 256, (7, 48, 48), dtype=np.uint8)
    alone, together = classifier.read(images, batch_size=1), classifier.read(images, batch_size=5)
    for name in ("findings", "male", "ap", "age", "features"):
        assert getattr(alone, name) == pytest.approx(getattr(together, name), abs=1e-4)
    assert alone.findings.shape == (7, len(FINDINGS)) and alone.features.shape == (7, 16) and alone.age.shape == (7,)
    assert ((alone.findings > 0) & (alone.findings < 1)).all()


def test_8_and_16_bits_read_alike(classifier):
    image = np.random.default_rng(2).integers(0, 256, (32, 32), dtype=np.uint8)
    wide = image.astype(np.uint16) * 257
    assert classifier.read([image]).findings == pytest.approx(classifier.read([wide]).findings, abs=1e-6)


def test_a_model_without_one_says_so(tiny_model):
    with pytest.raises(ModelError, match="holds no classifier"):
        load_classifier(tiny_model)
