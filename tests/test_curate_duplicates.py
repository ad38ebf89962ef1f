"""Copies are found however they were saved again, other exposures aren't, and what stays is never a leak."""

import numpy as np
import pytest
from curate_images import ALTERED, chest, record
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.data.curate.config import NearConfig
from synthcxr.data.curate.duplicates import Pair, choose, crossing, exact_pairs
from synthcxr.data.curate.fingerprint import Fingerprints, Scanner
from synthcxr.data.curate.near import best_correlation, fine_detail, near_pairs
from synthcxr.images import read_image

SPLITS = ("train", "validate", "test")


def _scan(images: list[np.ndarray]) -> Fingerprints:
    scanner = Scanner()
    assert all(out is given for out, given in zip(scanner.watch(images), images, strict=True))
    return scanner.fingerprints()


def _near(images: list[np.ndarray], **config: float) -> list[Pair]:
    return near_pairs(_scan(images), images.__getitem__, NearConfig(**config))


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_copies_are_found_and_nothing_else(alter):
    images = [chest(patient, exposure) for patient in range(6) for exposure in range(2)]
    copies = [alter(image) for image in images]
    pairs = _near([*images, *copies])
    assert {(pair.one, pair.other) for pair in pairs} == {(index, index + 12) for index in range(12)}
    assert all(0.9 <= pair.similarity <= 1 and pair.distance <= 10 and not pair.exact for pair in pairs)


def test_two_exposures_of_one_patient_are_distinct():
    images = [chest(patient=1, exposure=number) for number in range(8)]
    assert _near(images, max_distance=64) == []


def test_real_radiographs_have_copies_only_where_planted(cxr_open):
    """The first patients of NIH have long series of films in one pose."""
    paths = sorted((cxr_open / "nih").rglob("*.jpg"))[:150]
    images = [read_image(path) for path in paths]
    copies = [alter(images[place]) for place, alter in enumerate(ALTERED.values())]
    pairs = _near([*images, *copies])
    assert {(pair.one, pair.other) for pair in pairs} == {(place, 150 + place) for place in range(len(ALTERED))}


def test_equal_pixels_are_found_whatever_file_they_came_from_and_alike_ones_are_not():
    image = chest()
    one_off = image.copy()
    one_off[3, 3] ^= 1
    turned = np.ascontiguousarray(image.T)
    images = [
        image,
        one_off,
        image.copy(),
        turned,
        image.astype(np.uint16),
        image[:, ::-1][:, ::-1],
        image.reshape(96, -1),
    ]
    assert [(pair.one, pair.other) for pair in exact_pairs(_scan(images))] == [(0, 2), (0, 5), (2, 5)]


def test_blank_images_are_no_copies_of_each_other_unless_equal():
    images = [np.full((70, 80), level, np.uint8) for level in (0, 90, 255)] + [chest(size=96)]
    assert _near(images, max_distance=64) == [] and exact_pairs(_scan(images)) == []


def test_correlation_is_one_with_itself_and_finds_half_pixel_shifts():
    image = chest(size=256)
    shifted = np.roll(image, (5, -3), (0, 1))  # 2.5 and 1.5 pixels of 128
    assert best_correlation(fine_detail(image, 128), fine_detail(image, 128)) == pytest.approx(1, abs=1e-4)
    assert best_correlation(fine_detail(image, 128), fine_detail(shifted, 128)) > 0.97
    assert best_correlation(fine_detail(image, 128), fine_detail(chest(9, size=256), 128)) < 0.5


@given(
    st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(1, 3)), min_size=2, max_size=9),
    st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=14),
)
def test_no_pair_is_left_and_everything_dropped_has_a_copy_that_stays(images, edges):
    records = [
        record(number, split=split, native_width=size, native_height=size)
        for number, (split, size) in enumerate(images)
    ]
    edges = {(min(edge), max(edge)) for edge in edges if edge[0] != edge[1] and max(edge) < len(records)}
    dropped = {duplicate.index: duplicate for duplicate in choose(records, [Pair(a, b, False) for a, b in edges])}
    for a, b in edges:
        assert a in dropped or b in dropped
    for index, duplicate in dropped.items():
        kept, gone = records[duplicate.of], records[index]
        assert duplicate.of not in dropped and tuple(sorted((index, duplicate.of))) in edges
        assert SPLITS.index(kept.split) >= SPLITS.index(gone.split)
        if kept.split == gone.split:
            assert kept.native_width >= gone.native_width


def test_what_copies_do_not_share_is_said():
    here = record(0, patient="a")
    assert crossing(here, record(1, patient="a")) is None
    assert crossing(here, record(1, patient="b")) == "patient"
    assert crossing(here, record(1, patient="b", split="test")) == "split and patient"
