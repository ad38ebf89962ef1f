"""What the audit's p-values promise, on real radiographs: fresh patients posing as synthetic are flagged at alpha."""

import numpy as np
import pytest

from synthcxr.evaluation.copying import calibrated_p, flagged_level, fresh_rates
from synthcxr.evaluation.feature_set import one_a_patient
from synthcxr.evaluation.neighbours import slices
from synthcxr.evaluation.pixels import pixel_features
from synthcxr.images import read_image

pytest.importorskip("scipy")
HELD_OUT, FRESH, SPLITS = 99, 400, 40


@pytest.fixture(scope="module")
def radiographs(cxr_open) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients of all NIH images, one image of each patient, and the distances (patients, images) from these to all.

    Between 64 x 64 z-scored pixels without shifts, so that all pairs are one product of matrices.
    """
    paths = sorted((cxr_open / "nih" / "images-128").glob("*.jpg"))
    patients = np.array([path.stem.split("_")[0] for path in paths])
    rows = pixel_features(read_image(path) for path in paths).reshape(len(paths), -1)
    asked = one_a_patient(patients, seed=0)
    # Of z-scored rows the squared distance is 2 less twice the correlation, in units of the pixels.
    apart = np.concatenate([1 - rows[asked[part]] @ rows.T / rows.shape[1] for part in slices(len(asked), 256)])
    return patients, asked, apart


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1, 10, 40])
def test_fresh_radiographs_are_flagged_at_the_nominal_rate_whatever_the_sizes(ratio, radiographs):
    """As many training images as 1, 10 and 40 times the held-out ones, series of a patient kept together."""
    patients, asked, apart = radiographs
    level, kept, rates = flagged_level(0.01, HELD_OUT)[1], 0, []
    low, high = fresh_rates(0.01, HELD_OUT, FRESH)
    for seed in range(SPLITS):
        order = np.random.default_rng([ratio, seed]).permutation(len(asked))
        held_out, fresh, rest = np.split(order, [HELD_OUT, HELD_OUT + FRESH])
        images = np.flatnonzero(np.isin(patients, patients[asked[rest]]))
        series = {name: number for number, name in enumerate(patients[asked[rest]])}
        by_patient = images[np.argsort([series[patients[image]] for image in images], kind="stable")]
        train = by_patient[: ratio * HELD_OUT]
        assert len(train) == ratio * HELD_OUT
        p = calibrated_p(*(apart[rows][:, train].min(1) for rows in (fresh, held_out)))
        rates.append((p <= 0.01).mean())
        kept += low <= rates[-1] <= high
    assert abs(np.mean(rates) - level) < 3.5 * np.std(rates) / np.sqrt(SPLITS), np.mean(rates)
    assert kept / SPLITS >= 0.9, kept
