"""Metrics of fidelity: known answers, other people's implementations, invariances, and intervals that hold."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from synthcxr.evaluation import neighbours
from synthcxr.evaluation.fidelity import (
    CMMD_SCALE,
    METRICS,
    Metric,
    bootstrap,
    frechet_distance,
    gaussian_mmd,
    kernel_distance,
    leading_frechet_distance,
    precision_recall_density_coverage,
)
from synthcxr.evaluation.scores import auc, auc_interval
from synthcxr.images import read_image


def drawn(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ np.diag(np.linspace(0.5, 2, d)) + shift


def with_moments(n: int, mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T).T
    return x @ np.linalg.cholesky(covariance).T + mean


def covariance_of(d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((d, d))
    return x @ x.T / d + 0.1 * np.eye(d)


def test_a_set_is_at_no_distance_from_itself():
    x = drawn(300)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert astuple(precision_recall_density_coverage(x, x))[:2] == (1, 1)
    assert precision_recall_density_coverage(x, x).coverage == 1
    # Unbiased estimators leave out a row's kernel with itself within a set, not across: they lie 2 (1 - mean) / n low.
    kernel = np.exp(-np.square(x[:, None] - x[None]).sum(2) / 8)
    mean = (kernel.sum() - 300) / (300 * 299)
    assert gaussian_mmd(x, x, bandwidth=2.0) == pytest.approx(CMMD_SCALE * 2 * (mean - 1) / 300)
    assert kernel_distance(x, x, subset_size=300, subsets=1) < 0


def test_frechet_distance_of_gaussians_is_the_closed_form():
    mean_a, mean_b, var_a, var_b = np.arange(4.0), np.ones(4), np.array([1, 4, 9, 0.25]), np.array([4, 4, 1, 1])
    a, b = with_moments(50, mean_a, np.diag(var_a), 1), with_moments(70, mean_b, np.diag(var_b), 2)
    expected = np.square(mean_a - mean_b).sum() + np.square(np.sqrt(var_a) - np.sqrt(var_b)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_is_that_of_the_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    cov_a, cov_b = covariance_of(12, 3), covariance_of(12, 4)
    a, b = with_moments(40, np.zeros(12), cov_a, 5), with_moments(40, np.ones(12), cov_b, 6)
    expected = 12 + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9) == frechet_distance(b, a)


def test_leading_frechet_distance_is_that_of_the_directions_that_vary_most():
    scales = np.concatenate([np.full(4, 5.0), np.full(200, 0.01)])
    far = np.where(scales > 1, 3.0, 0.0)
    a, b = (np.random.default_rng(seed).standard_normal((60, 204)) * scales + far * seed for seed in (0, 1))
    assert leading_frechet_distance(a, b, 4) == pytest.approx(frechet_distance(a[:, :4], b[:, :4]), rel=1e-3)
    x = drawn(40, d=6)
    assert leading_frechet_distance(x, x + 1) == pytest.approx(frechet_distance(x, x + 1))
    with pytest.raises(ValueError, match="5 more are needed"):
        leading_frechet_distance(a, b)


def test_frechet_distance_stands_dead_features():
    """Features that never vary (a network's dead units) make a covariance singular, and change nothing."""
    a, b = drawn(200, 6, seed=1), drawn(200, 6, seed=2, shift=0.3)
    padded = [np.hstack([x, np.zeros((200, 20))]) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_too_few_rows_are_refused_with_how_many_are_missing():
    with pytest.raises(ValueError, match="4 more are needed"):
        frechet_distance(drawn(5), drawn(100))
    with pytest.raises(ValueError, match="more than 5 rows"):
        precision_recall_density_coverage(drawn(5), drawn(100))
    for metric in (frechet_distance, kernel_distance, gaussian_mmd, precision_recall_density_coverage):
        with pytest.raises(ValueError, match="one extractor"):
            metric(drawn(50, 8), drawn(50, 7))
        with pytest.raises(ValueError, match="finite"):
            metric(drawn(50), np.where(drawn(50) > 2, np.nan, drawn(50)))


class Passthrough(torch.nn.Module):
    num_features = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_frechet_and_kernel_distance_agree_with_torchmetrics(shift):
    fid_module, kid_module = (pytest.importorskip(f"torchmetrics.image.{name}") for name in ("fid", "kid"))
    a, b = drawn(200, seed=1), drawn(200, seed=2, shift=shift)
    fid = fid_module.FrechetInceptionDistance(Passthrough()).set_dtype(torch.float64)
    kid = kid_module.KernelInceptionDistance(Passthrough(), subsets=1, subset_size=200).set_dtype(torch.float64)
    for metric in (fid, kid):
        metric.update(torch.from_numpy(a), real=True)
        metric.update(torch.from_numpy(b), real=False)
    assert frechet_distance(a, b) == pytest.approx(float(fid.compute()), rel=1e-6)
    assert kernel_distance(a, b, subsets=1, subset_size=200) == pytest.approx(
        float(kid.compute()[0]), rel=1e-6, abs=1e-9
    )


def test_kernel_metrics_agree_with_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = drawn(120, seed=1), drawn(90, seed=2, shift=0.2)

    def unbiased(kernel, a, b):
        within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
        return sum(within) - 2 * kernel(a, b).mean()

    gauss = unbiased(lambda x, y: pairwise.rbf_kernel(x, y, gamma=1 / (2 * 3.0**2)), a, b)
    cubic = unbiased(lambda x, y: pairwise.polynomial_kernel(x, y, degree=3, coef0=1), a[:90], b)
    assert gaussian_mmd(a, b, bandwidth=3.0) == pytest.approx(CMMD_SCALE * gauss, rel=1e-9)
    assert kernel_distance(a[:90], b, subsets=3) == pytest.approx(cubic, rel=1e-9)
    whole = unbiased(lambda x, y: pairwise.polynomial_kernel(x, y, degree=3, coef0=1), a, b)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-9)  # no more rows than a subset: whole, once


def test_manifold_agrees_with_brute_force():
    real, fake, k = drawn(80, 3, seed=1), drawn(60, 3, seed=2, shift=0.7), 5

    def apart(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=2)

    real_radius, fake_radius = (np.sort(apart(x, x), axis=1)[:, k] for x in (real, fake))
    inside = apart(real, fake) < real_radius[:, None]
    expected = (
        inside.any(0).mean(),
        (apart(real, fake) < fake_radius[None]).any(1).mean(),
        inside.sum(0).mean() / k,
        inside.any(1).mean(),
    )
    assert astuple(precision_recall_density_coverage(real, fake, k)) == pytest.approx(expected, abs=1e-12)
    assert 0.2 < expected[0] < 1 and 0.2 < expected[1] < 1  # else it would show little


@pytest.mark.parametrize("name", ["frechet", "gaussian_mmd", "manifold"])
def test_turning_moving_and_shuffling_both_sets_changes_nothing(name):
    a, b = drawn(150, seed=1), drawn(130, seed=2, shift=0.3)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))
    measure, rng = METRICS[name].measure, np.random.default_rng(1)
    moved = [rng.permutation(x @ turn + 5) for x in (a, b)]
    assert measure(*moved) == pytest.approx(measure(a, b), rel=1e-8)


def test_scale_acts_as_it_should():
    a, b = drawn(150, seed=1), drawn(130, seed=2, shift=0.3)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * frechet_distance(a, b))
    assert gaussian_mmd(3 * a, 3 * b) == pytest.approx(gaussian_mmd(a, b))


def test_blocks_do_not_show(monkeypatch):
    a, b = drawn(150, seed=1), drawn(130, seed=2, shift=0.3)
    whole = [gaussian_mmd(a, b), *astuple(precision_recall_density_coverage(a, b))]
    monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", 600)  # 4 rows at a time
    assert [gaussian_mmd(a, b), *astuple(precision_recall_density_coverage(a, b))] == pytest.approx(whole, rel=1e-10)


def test_fresh_draws_are_no_distance_apart_on_average():
    pairs = [(drawn(100, seed=seed), drawn(100, seed=1000 + seed)) for seed in range(60)]
    for metric in (gaussian_mmd, lambda a, b: kernel_distance(a, b, subsets=2)):
        values = np.array([metric(a, b) for a, b in pairs])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(60)
    density = [precision_recall_density_coverage(a, b).density for a, b in pairs]
    assert np.mean(density) == pytest.approx(1, abs=0.06)


def test_kernel_subsets_are_random_whatever_the_order_of_rows():
    """Real and generated images often lie sorted by finding: the first rows are no sample."""
    a = np.concatenate([drawn(300, seed=1), drawn(300, seed=2, shift=3)])
    b = np.concatenate([drawn(300, seed=4, shift=3), drawn(300, seed=3)])
    apart = kernel_distance(drawn(300, seed=1), drawn(300, seed=4, shift=3), subsets=5, subset_size=100)
    first, same, other = (kernel_distance(a, b, subsets=40, subset_size=100, seed=seed) for seed in (1, 1, 2))
    assert abs(first) < 0.02 * apart and first == same != other


def test_lost_modes_lower_coverage_and_recall_and_not_precision():
    rng = np.random.default_rng(0)
    modes = rng.normal(0, 20, (10, 4))

    def around(count, chosen):
        return modes[rng.choice(chosen, count)] + rng.standard_normal((count, 4))

    real, whole, lost = around(600, 10), around(600, 10), around(600, 3)
    good, bad = (precision_recall_density_coverage(real, fake) for fake in (whole, lost))
    assert good.coverage > 0.9 and good.recall > 0.8
    assert bad.coverage < 0.4 and bad.recall < 0.4 and bad.precision > 0.8
    assert frechet_distance(real, lost) > 10 * frechet_distance(real, whole)


def test_repeated_images_do_not_break_the_balls():
    """An image that comes more often than k has a ball of radius 0, which still holds it."""
    x = np.repeat(drawn(20, seed=1), 8, axis=0)
    assert precision_recall_density_coverage(x, x).precision == 1 == precision_recall_density_coverage(x, x).coverage
    assert precision_recall_density_coverage(x, x + 1e-3).precision == 0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_prefers_fresh_draws_to_others_and_gives_an_interval_around_its_value(name):
    real, fresh, other = drawn(200, seed=1), drawn(200, seed=2), drawn(200, seed=3, shift=1.5)
    better, worse = (bootstrap(METRICS[name], real, fake, replicates=10) for fake in (fresh, other))
    for good, bad, most in zip(better, worse, np.broadcast_to(METRICS[name].most, len(better)), strict=True):
        assert (good.value < bad.value) == (good.direction == "lower")
        assert good.low <= good.value <= good.high and good.n == 200
        assert METRICS[name].least <= bad.low and max(good.high, bad.high) <= most
    assert [score.name for score in better] == list(METRICS[name].names)
    assert bootstrap(METRICS[name], real, fresh, replicates=10) == better


MEAN = Metric(("mean",), lambda a, b: (float(a.mean() - b.mean()),), "zero")


def coverage(metric, draw, truth, replicates=40, trials=120):
    """How often intervals hold the truth, by `draw(seed) -> (a, b, groups_a, groups_b)`."""
    held = 0
    for seed in range(trials):
        score = bootstrap(metric, *draw(seed), replicates=replicates, seed=seed)[0]
        held += score.low <= truth <= score.high
    return held / trials


def test_intervals_hold_what_they_should():
    def draw(seed):
        return drawn(80, 3, seed=seed), drawn(80, 3, seed=10_000 + seed, shift=1.0), None, None

    assert 0.9 <= coverage(MEAN, draw, -1.0) <= 0.99
    frechet = METRICS["frechet"]
    expected = np.mean([frechet.measure(*draw(50_000 + seed)[:2])[0] for seed in range(300)])
    assert 0.88 <= coverage(frechet, draw, expected) <= 0.99


def test_the_patient_is_the_unit_of_an_interval():
    def draw(seed):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(30), 6)
        a = (rng.standard_normal((30, 1)) * 2)[patients] + rng.standard_normal((180, 1)) * 0.2
        return a, drawn(180, 1, seed=5_000 + seed), patients, None

    with_patients = coverage(MEAN, draw, 0.0)
    without = coverage(MEAN, lambda seed: (*draw(seed)[:2], None, None), 0.0)
    assert 0.9 <= with_patients <= 0.99 and without < 0.75


def test_drawing_with_repetition_would_lie():
    """Why `bootstrap` takes half-samples: the plain one's replicates of density and distance lie far off the value."""
    rng = np.random.default_rng(0)
    a, b = drawn(150, seed=1), drawn(150, seed=2)
    again = [(a[rng.integers(0, 150, 150)], b[rng.integers(0, 150, 150)]) for _ in range(40)]
    assert np.min([frechet_distance(*pair) for pair in again]) > frechet_distance(a, b)
    recall = [precision_recall_density_coverage(*pair).recall for pair in again]
    assert np.max(recall) < precision_recall_density_coverage(a, b).recall


def test_auc_agrees_with_scikit_learn_and_its_interval_holds():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 70) + 2, rng.integers(0, 9, 50)
    expected = metrics.roc_auc_score(np.repeat([1, 0], (70, 50)), np.concatenate([a, b]))
    assert auc(a, b) == pytest.approx(expected)
    held = 0
    for _ in range(400):
        low, high = auc_interval(auc(rng.normal(1.0, 1, 60), rng.normal(0, 1, 40)), 60, 40)
        held += low <= 0.7602 <= high  # the standard normal below 1 / sqrt(2)
    assert 0.925 <= held / 400 <= 0.985
    low, high = auc_interval(1.0, 60, 40)
    assert 0.9 < low < 1 and high == 1


def test_real_halves_are_closer_than_a_blurred_half(cxr_open):
    """By the plainest features of radiographs: 4 x 4 grays, and how much neighbouring pixels differ."""
    paths = sorted((cxr_open / "nih" / "images-128").glob("*.jpg"))[::12]
    images = [Image.fromarray(read_image(path)) for path in paths]

    def features(images):
        small = np.array([np.asarray(image.resize((4, 4), Image.Resampling.BOX), np.float64) for image in images])
        edges = [
            np.abs(np.diff(np.asarray(image, np.float64), axis=axis)).mean() for image in images for axis in (0, 1)
        ]
        return np.hstack([small.reshape(len(images), -1) / 16, np.reshape(edges, (-1, 2))])

    blurred = [image.filter(ImageFilter.GaussianBlur(1.5)) for image in images[1::2]]
    a, b, fake = features(images[::2]), features(images[1::2]), features(blurred)
    assert len(a) > 250
    for name, metric in METRICS.items():
        floor, value = metric.measure(a, b), metric.measure(a, fake)
        assert (np.array(value) < floor).all() if metric.direction == "higher" else value > floor, name
