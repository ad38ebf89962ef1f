"""The dense is thinned, the rare stays, and the weights add up."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from curate_images import record
from hypothesis import given, settings
from hypothesis import strategies as st

from synthcxr.data.curate.config import PruneConfig
from synthcxr.data.curate.prune import farthest_first, prune

pytest.importorskip("sklearn")


def _collection(n: int = 400, seed: int = 0) -> tuple[list, np.ndarray]:
    """A dense clump of normal chests, a thin cloud of effusions; every 40th has a hernia, somewhere in the clump."""
    rng = np.random.default_rng(seed)
    records, features = [], []
    for number in range(n):
        sparse = number % 5 == 0
        findings = ["Pleural Effusion"] if sparse else ["No Finding"]
        if number % 40 == 1:
            findings = ["Hernia"]
        records.append(record(number, patient=f"p{number // 2}", condition={"findings": findings}))
        centre = np.r_[8.0, np.zeros(15)] if sparse else np.r_[-2.0, np.zeros(15)]
        features.append(centre + rng.normal(0, 3.0 if sparse else 0.3, 16))
    return records, np.array(features)


def _prune(config: PruneConfig | None = None, **changes):
    records, features = _collection()
    config = config or PruneConfig(**{"share": 0.3, "rare": 0.05, **changes})
    return records, prune(records, features, config, seed=0)


def _kept(pruned) -> np.ndarray:
    return np.array([verdict == "kept" for verdict in pruned.verdict])


def test_the_share_is_kept_all_rare_ones_among_it_and_the_sparse_before_the_dense():
    records, pruned = _prune()
    kept = _kept(pruned)
    hernia, sparse = (
        np.array([name in r.condition.findings for r in records]) for name in ("Hernia", "Pleural Effusion")
    )
    assert kept.sum() == 120 and kept[hernia].all()
    assert kept[sparse].mean() > 0.9 > 0.2 > kept[~sparse & ~hernia].mean()
    assert {finding.value for finding in pruned.rare if finding} == {"Hernia"}


def test_every_image_is_stood_for_once_by_one_of_its_own_kind():
    records, pruned = _prune()
    kept = _kept(pruned)
    assert pruned.weight.sum() == pytest.approx(len(records)) and np.all((pruned.weight >= 1) == kept)
    assert kept[pruned.stand_in].all() and np.array_equal(pruned.stand_in[kept], np.flatnonzero(kept))
    assert np.array_equal(pruned.cluster[pruned.stand_in], pruned.cluster)
    # Hernias stand for none but themselves: by weight they're as rare as they were.
    assert sum(weight for weight, finding in zip(pruned.weight, pruned.rare, strict=True) if finding) == 10


def test_the_middle_of_a_cluster_does_not_stand_for_all_of_it():
    _, pruned = _prune()
    nearest = np.bincount(pruned.stand_in, minlength=len(pruned.weight))

    def effective(weight: np.ndarray) -> float:  # Kish 1965
        return weight.sum() ** 2 / np.square(weight).sum()

    assert effective(pruned.weight) > 1.2 * effective(nearest) and pruned.weight.max() < nearest.max()


def test_it_depends_on_the_seed_alone():
    _, one = _prune()
    _, two = _prune()
    assert one.verdict == two.verdict and np.array_equal(one.weight, two.weight)


def test_it_is_the_same_in_another_process():
    code = "from test_curate_prune import _prune; print(_prune()[1].weight.tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert done.stdout.strip() == str(_prune()[1].weight.tolist()), done.stderr


def test_a_smaller_share_keeps_a_part_of_a_larger_one():
    shares = [_kept(_prune(share=share)[1]) for share in (0.1, 0.3, 0.6, 1.0)]
    assert all(np.all(large[small]) for small, large in zip(shares, shares[1:], strict=False))
    assert shares[-1].all()


@pytest.mark.parametrize("cap", [1, 3])
def test_no_patient_has_more_than_the_cap_not_even_of_rare_findings(cap):
    rng = np.random.default_rng(0)
    records = [
        record(n, patient=f"p{n % 3}", condition={"findings": ["Hernia" if n % 30 == 0 else "Edema"]})
        for n in range(90)
    ]
    pruned = prune(records, rng.normal(size=(90, 4)), PruneConfig(share=0.5, rare=0.1, per_patient=cap), seed=0)
    counts = Counter(r.patient for r, verdict in zip(records, pruned.verdict, strict=True) if verdict == "kept")
    assert counts == {f"p{n}": cap for n in range(3)}
    assert "patient cap" in pruned.verdict and pruned.weight.sum() == pytest.approx(90)
    kept = [n for n in range(90) if pruned.verdict[n] == "kept" and n % 30 == 0]
    assert len(kept) == min(cap, 3) or cap == 3  # of p0 alone, which has all the hernias: they come first
    assert kept == [0, 30, 60][:cap]


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 99))
def test_spacing_falls_and_separates(n, d, seed):
    """At any threshold, those farther apart than it cover the rest (Gonzalez 1985)."""
    vectors = np.random.default_rng(seed).normal(size=(n, d))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    spacing = farthest_first(vectors)
    assert np.isinf(spacing).sum() == 1 and np.all(spacing >= 0)
    distance = 1 - vectors @ vectors.T
    for threshold in (0.05, 0.3, 1.0):
        kept = spacing > threshold
        apart = distance[np.ix_(kept, kept)][~np.eye(kept.sum(), dtype=bool)]
        assert np.all(apart > threshold - 1e-9)
        assert np.all(distance[:, kept].min(axis=1) <= threshold + 1e-9)


def test_small_and_equal_collections():
    assert prune([], np.zeros((0, 4)), PruneConfig(), 0).verdict == []
    one = prune([record(0)], np.ones((1, 4)), PruneConfig(share=0.01), 0)
    assert one.verdict == ["kept"] and one.weight.tolist() == [1]
    equal = prune([record(n) for n in range(40)], np.ones((40, 4)), PruneConfig(share=0.1), 0)
    assert equal.verdict.count("kept") == 4 and equal.weight.sum() == pytest.approx(40)


def _environment() -> dict[str, str]:
    import os
    from pathlib import Path

    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
