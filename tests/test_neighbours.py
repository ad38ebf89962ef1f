"""Nearest neighbours: the same as by brute force, patient by patient, over shifts, whatever the blocks."""

import numpy as np
import pytest
from conftest import drawn_chest

from synthcxr.evaluation import neighbours, pixels
from synthcxr.evaluation.copies import COPIES, planted_copy
from synthcxr.evaluation.neighbours import nearest
from synthcxr.evaluation.pixels import SHIFT, SIZE, nearest_shifted, pixel_features
from synthcxr.images import read_image


def drawn(n: int, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def smooth(n: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Random images with the spectrum of pictures (energy falls with frequency), z-scored."""
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((n, size, size)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    images = np.fft.ifft2(noise / (frequency + 1 / size) ** 1.5).real.astype(np.float32)
    return (images - images.mean((1, 2), keepdims=True)) / images.std((1, 2), keepdims=True)


def patient_distances(apart: np.ndarray, groups: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """(n, m) -> (n, patients), sorted: the smallest distance to each patient but one's own."""
    names = np.unique(groups)
    by_patient = np.stack([apart[:, groups == name].min(axis=1) for name in names], axis=1)
    if own is not None:
        by_patient[own[:, None] == names[None]] = np.inf
    return np.sort(by_patient, axis=1)


def best_correlation(queries: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n, m): over all shifts, by numpy's own correlation."""
    middle = queries[:, SHIFT:-SHIFT, SHIFT:-SHIFT].reshape(len(queries), -1)
    side, places = SIZE - 2 * SHIFT, range(2 * SHIFT + 1)
    windows = [reference[:, y : y + side, x : x + side].reshape(len(reference), -1) for y in places for x in places]
    return np.max([np.corrcoef(middle, window)[: len(queries), len(queries) :] for window in windows], axis=0)


def test_nearest_is_that_of_brute_force():
    queries, reference = drawn(40, seed=1), drawn(70, seed=2)
    apart = np.linalg.norm(queries[:, None] - reference[None], axis=2)
    found = nearest(queries, reference, k=6)
    assert found.distance == pytest.approx(np.sort(apart, axis=1)[:, :6], rel=1e-12)
    np.testing.assert_array_equal(found.index, apart.argmin(1))


@pytest.mark.parametrize("with_own", [False, True])
def test_a_patient_is_one_neighbour_and_never_their_own(with_own):
    rng = np.random.default_rng(0)
    patients = rng.choice(["a", "b", "c", "d", "e"], 30)
    reference, own = drawn(30, seed=1), np.array([*patients[:19], "nobody"]) if with_own else None
    queries = np.concatenate([reference[:19], drawn(1, seed=3)])
    apart = np.linalg.norm(queries[:, None] - reference[None], axis=2)
    found = nearest(queries, reference, 3, groups=patients, own=own)
    assert found.distance == pytest.approx(patient_distances(apart, patients, own)[:, :3], abs=1e-12)
    assert (found.distance[:19, 0] > 0).all() if with_own else (found.distance[:19, 0] == 0).all()
    if with_own:
        assert (patients[found.index[:19]] != own[:19]).all()


def test_equal_rows_are_at_distance_zero_even_far_from_the_origin():
    x = drawn(50) + 1e4
    assert (nearest(x, x).distance == 0).all()
    assert (nearest(x.astype(np.float32), x.astype(np.float32)).distance == 0).all()
    np.testing.assert_array_equal(nearest(x, x).index, np.arange(50))


@pytest.mark.parametrize("numbers", [5, 64, 300])
def test_blocks_do_not_show(monkeypatch, numbers):
    queries, reference, groups = drawn(33, seed=1), drawn(41, seed=2), np.arange(41) // 3
    whole = nearest(queries, reference, 4, groups)
    monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", numbers)
    in_blocks = nearest(queries, reference, 4, groups)
    assert in_blocks.distance == pytest.approx(whole.distance, rel=1e-12)
    np.testing.assert_array_equal(in_blocks.index, whole.index)


@pytest.mark.parametrize("search", [nearest, nearest_shifted])
def test_what_does_not_go_together_is_refused(search):
    x = smooth(4) if search is nearest_shifted else drawn(4)
    for arguments in ((x, x, 5), (x, x, 0), (x, x, 3, np.array([0, 0, 1, 1])), (x, x, 1, np.arange(3))):
        with pytest.raises(ValueError):
            search(*arguments)
    with pytest.raises(ValueError, match="not empty"):
        search(x, x[:0])
    with pytest.raises(ValueError, match="finite"):
        search(x, np.where(x > 1, np.inf, x))
    with pytest.raises(ValueError):
        search(x, x, own=np.arange(3))


def test_shifted_search_finds_the_best_correlation_over_all_shifts():
    queries, reference = smooth(20, seed=1), smooth(150, seed=2)
    expected = best_correlation(queries, reference)
    found = nearest_shifted(queries, reference)
    assert found.distance[:, 0] == pytest.approx(np.sqrt(2 - 2 * expected.max(1)), abs=1e-5)
    np.testing.assert_array_equal(found.index, expected.argmax(1))
    every = nearest_shifted(queries, reference, k=137)  # 137 + 13: each is looked at
    assert every.distance == pytest.approx(np.sort(np.sqrt(2 - 2 * expected), axis=1)[:, :137], abs=1e-5)


def test_shifted_search_by_patients_and_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 30, 90)
    reference, own = smooth(90, seed=1), patients[:12]
    queries = np.concatenate([reference[:11], smooth(1, seed=2)])
    apart = np.sqrt(np.maximum(0, 2 - 2 * best_correlation(queries, reference)))
    expected = patient_distances(apart, patients, own)
    whole = nearest_shifted(queries, reference, 4, patients, own)
    assert whole.distance[:, 0] == pytest.approx(expected[:, 0], abs=2e-3)  # a root of what float32 leaves near 1
    assert (patients[whole.index[:11]] != own[:11]).all()
    monkeypatch.setattr(pixels, "BANK_IMAGES", 25)
    monkeypatch.setattr(pixels, "QUERIES", 5)
    in_blocks = nearest_shifted(queries, reference, 4, patients, own)
    assert in_blocks.distance == pytest.approx(expected[:, :4], abs=2e-3)
    np.testing.assert_array_equal(in_blocks.index, whole.index)


def test_every_shift_within_reach_is_found_and_none_beyond():
    large = smooth(1, seed=5, size=96)[0]
    reference = np.concatenate([smooth(30, seed=6), large[None, 16:80, 16:80]])
    moves = [(dy, dx) for dy in range(-SHIFT, SHIFT + 1) for dx in range(-SHIFT, SHIFT + 1)]
    queries = np.stack([large[16 + dy : 80 + dy, 16 + dx : 80 + dx] for dy, dx in moves])
    found = nearest_shifted(queries, reference)
    assert (found.index == 30).all() and found.distance.max() < 2e-3
    beyond = large[None, 16:80, 16 + SHIFT + 2 : 80 + SHIFT + 2]
    assert nearest_shifted(beyond, reference).distance[0, 0] > 0.05


def test_contrast_does_not_matter_and_a_flat_image_is_like_nothing():
    x = smooth(20, seed=1)
    assert nearest_shifted(3 * x + 7, x).distance.max() < 2e-3
    flat = np.zeros((1, SIZE, SIZE), np.float32)
    assert nearest_shifted(flat, x).distance[0, 0] == pytest.approx(np.sqrt(2))
    mixed = nearest_shifted(x[:3], np.concatenate([flat, x]))
    assert mixed.distance.max() < 2e-3 and (mixed.index == [1, 2, 3]).all()


def test_pixel_features_do_not_depend_on_size_bits_or_contrast():
    image = drawn_chest(256, seed=1)
    dim = (image // 2 + 20).astype(np.uint8)
    features = pixel_features([image, image.astype(np.uint16) * 257, dim, np.full((80, 90), 7, np.uint8)])
    assert features.shape == (4, SIZE, SIZE) and features.dtype == np.float32
    assert features[0].mean() == pytest.approx(0, abs=1e-5) and features[0].std() == pytest.approx(1, abs=1e-4)
    assert features[1] == pytest.approx(features[0], abs=1e-4) and features[2] == pytest.approx(features[0], abs=0.05)
    assert not features[3].any()
    assert pixel_features([]).shape == (0, SIZE, SIZE)


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planted_copies_keep_the_form_and_change_what_they_say(kind, dtype):
    image = drawn_chest(96, seed=1).astype(dtype) * (257 if dtype is np.uint16 else 1)
    copy = planted_copy(image, kind, seed=3)
    assert copy.shape == image.shape and copy.dtype == image.dtype
    np.testing.assert_array_equal(copy, planted_copy(image, kind, seed=3))
    assert (copy == image).all() == (kind == "exact")
    if kind not in ("exact", "jpeg70"):
        assert (copy != planted_copy(image, kind, seed=4)).any()


def test_real_copies_are_found_among_real_radiographs(cxr_open):
    """The bound may prune only what is no nearest neighbour, and every altered copy must lead back to its original."""
    paths = sorted((cxr_open / "nih" / "images-128").glob("*.jpg"))[::12]
    images = [read_image(path) for path in paths]
    patients = np.array([path.stem.split("_")[0] for path in paths])
    reference = pixel_features(images)
    assert len(reference) > 400
    sources = np.arange(0, len(images), 40)
    queries = pixel_features(planted_copy(images[i], kind, seed=int(i)) for kind in COPIES for i in sources)
    found = nearest_shifted(queries, reference, 3, groups=patients)
    np.testing.assert_array_equal(found.index, np.tile(sources, len(COPIES)))
    fresh, others = reference[sources], np.isin(patients, patients[sources], invert=True)
    expected = best_correlation(fresh, reference[others])
    seen = nearest_shifted(fresh, reference, 1, groups=patients, own=patients[sources])
    assert seen.distance[:, 0].min() > found.distance[:, 0].max()
    assert nearest_shifted(fresh, reference[others]).distance[:, 0] == pytest.approx(
        np.sqrt(2 - 2 * expected.max(1)), abs=1e-5
    )
