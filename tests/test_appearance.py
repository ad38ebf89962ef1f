"""How pictures look: known answers for sharpness, spectrum, grays and similarity; and the plots of a report."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import drawn_chest
from PIL import Image, ImageFilter

from synthcxr.evaluation.appearance import (
    APPEARANCE,
    RINGS,
    appearance_features,
    frequencies,
    gray_distance,
    ring_of,
    sharpness,
    spectra,
    spectrum_error,
)
from synthcxr.evaluation.diversity import PAIRS, ms_ssim, pairs_within, similarity_within
from synthcxr.evaluation.fidelity import bootstrap
from synthcxr.evaluation.result import Line, Number
from synthcxr.evaluation.svg import curves, heat_map, interval_plot

pytest.importorskip("scipy")
torchmetrics = pytest.importorskip("torchmetrics")


def chests(count: int, blur: float = 0.0, first: int = 0) -> list[np.ndarray]:
    images = [Image.fromarray(drawn_chest(64, first + seed)) for seed in range(count)]
    return [np.asarray(image.filter(ImageFilter.GaussianBlur(blur)) if blur else image) for image in images]


def test_a_set_is_alike_itself_and_twice_the_contrast_is_two_octaves_sharper():
    images = [(image // 4 + 64).astype(np.uint8) for image in chests(6)]
    plain = appearance_features(images)
    double = appearance_features([(2 * (image.astype(int) - 64)).astype(np.uint8) for image in images])
    for metric in APPEARANCE.values():
        assert metric.measure(plain, plain) == (pytest.approx(0, abs=1e-9),)
    assert sharpness(plain, double) == pytest.approx(2, abs=0.01)  # energy is amplitude squared
    assert spectrum_error(plain, double) == pytest.approx(20 * np.log10(2), abs=0.05)


def test_a_wave_has_its_power_in_the_ring_of_its_frequency():
    x = np.arange(128)
    wave = np.uint8(128 + 100 * np.sin(2 * np.pi * 16 * x / 128)[None].repeat(128, 0))
    told = spectra(appearance_features([wave]))[0]
    assert abs(int(told.argmax()) - ring_of(128)[0, 16]) <= 1 and told.max() - np.median(told) > 20
    middle = frequencies(128)[ring_of(128)[0, 16]]
    assert middle == pytest.approx(16 / 64, rel=0.15)
    for size in (32, 48, 64, 256):
        assert len(np.unique(ring_of(size))) == RINGS + 1  # and what lies outside


def test_grays_that_move_by_a_tenth_lie_a_tenth_apart():
    low, high = (np.full((32, 32), gray, dtype=np.uint8) for gray in (100, 126))
    assert gray_distance(*(appearance_features([image]) for image in (low, high))) == pytest.approx(0.1, abs=1 / 64)


def test_blur_shows_in_every_replicate():
    plain, blurred = appearance_features(chests(40)), appearance_features(chests(40, blur=1.5, first=100))
    score = bootstrap(APPEARANCE["sharpness"], plain, blurred, replicates=20)[0]
    assert score.high < -1 and score.direction == "zero"
    assert bootstrap(APPEARANCE["spectrum"], plain, blurred, replicates=20)[0].low > 3


def test_similarity_is_that_of_torchmetrics_and_smaller_pictures_take_fewer_scales():
    images = [np.array(Image.fromarray(image).resize((192, 192))) for image in chests(3)]
    alike, other = ms_ssim([(images[0], images[0]), (images[0], images[1])])
    assert alike == pytest.approx(1, abs=1e-5) and 0 <= other < 1
    import torch

    both = [torch.from_numpy(image)[None, None].float() / 255 for image in images[:2]]
    measure = torchmetrics.functional.image.multiscale_structural_similarity_index_measure
    assert other == pytest.approx(float(measure(*both, data_range=1.0)), abs=1e-4)
    small = chests(2)
    assert ms_ssim([(small[0], small[0])])[0] == pytest.approx(1, abs=1e-5)


def test_pairs_are_of_one_key_and_different_units():
    keys, units = ["a"] * 30 + ["b"] * 2 + ["c"] * 2, [*range(30), 30, 30, 32, 33]
    pairs = pairs_within(keys, units, most=100)
    assert all(keys[one] == keys[other] and units[one] != units[other] for one, other in pairs)
    assert len(pairs) == PAIRS + 1 and len({row for pair in pairs for row in pair}) == 2 * len(pairs)
    assert len(pairs_within(keys, units, most=3)) == 3
    score = similarity_within("x", np.array([0.2, 0.4, 0.6]), np.array(["a", "a", "b"]))
    assert score.value == pytest.approx(0.4) and score.low <= 0.4 <= score.high


def test_plots_are_xml_and_escape_what_they_are_given():
    number = Number(value=0.5, low=0.4, high=0.7, n=10)
    lines = [
        Line(section="fidelity", name="x", direction="lower", extractor="e", measured=number, reference=reference)
        for reference in (number, None)
    ]
    name = 'a<b> & "c"'
    plots = [
        interval_plot(lines, [name, name]), curves(frequencies(64), {name: np.arange(RINGS, dtype=float)}, name, name),
        heat_map([name], [name, "d"], [[0.5, -0.25]]), interval_plot(lines[:1] * 2, ["same", "same"], (0.5, 0.5)),
    ]  # fmt: skip
    for plot in plots:
        told = "".join(ElementTree.fromstring(plot).itertext())
        assert name in told or "same" in told
