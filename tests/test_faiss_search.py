"""The search by faiss gives what the search in blocks gives, patient by patient, however close or many rows are."""

import numpy as np
import pytest

from synthcxr.errors import UserError
from synthcxr.evaluation import faiss_search
from synthcxr.evaluation.config import AuditConfig
from synthcxr.evaluation.faiss_search import nearest_by_faiss
from synthcxr.evaluation.neighbours import nearest


def drawn(n: int, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("spare", [0, 32])
@pytest.mark.parametrize(("grouped", "owned"), [(False, False), (True, False), (True, True)])
def test_it_finds_what_the_search_in_blocks_finds(grouped, owned, spare, monkeypatch):
    """Long series, repeats and rows that float32 can't tell apart are among these, far from the origin."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(faiss_search, "SPARE", spare)
    monkeypatch.setattr(faiss_search, "ASKED", 50)
    rng = np.random.default_rng(0)
    reference = np.concatenate([drawn(400, seed=1), np.repeat(drawn(1, seed=2), 60, axis=0)]) + 1000
    close = reference[:20].astype(np.float64) + 1e-5 * rng.standard_normal((20, 6))
    queries = np.concatenate([drawn(100, seed=3) + 1000, reference[400:420], close])
    patients = np.minimum(rng.geometric(0.02, 460), 90) if grouped else None
    own = np.concatenate([patients[:110], np.full(30, -1)]) if owned else None
    expected = nearest(queries, reference.astype(np.float64), 9, patients, own)
    found = nearest_by_faiss(queries, reference.astype(np.float64), 9, patients, own)
    np.testing.assert_array_equal(found.index, expected.index)
    # The search in blocks loses to cancellation what lies a millionth of the norms apart; a thousand is far off.
    assert found.distance == pytest.approx(expected.distance, rel=1e-7, abs=3e-3)
    few = nearest_by_faiss(queries, reference, 1)
    apart = np.linalg.norm(queries[:, None] - reference[None].astype(np.float64), axis=2)
    assert few.distance[:, 0] == pytest.approx(apart.min(1), rel=1e-6)


def test_it_finds_what_brute_force_finds_in_many_dimensions():
    pytest.importorskip("faiss")
    queries, reference, groups = drawn(40, 500, 1), drawn(300, 500, 2), np.arange(300) // 3
    apart = np.linalg.norm(queries[:, None].astype(np.float64) - reference[None], axis=2)
    found = nearest_by_faiss(queries, reference, 51, groups)
    assert found.distance == pytest.approx(np.sort(apart.reshape(40, 100, 3).min(2), axis=1)[:, :51], rel=1e-6)
    np.testing.assert_array_equal(found.index, apart.argmin(1))


def test_without_it_the_remedy_is_named_before_anything_is_read(monkeypatch, tmp_path):
    from synthcxr.evaluation.audit_run import run

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(faiss_search, "import_module", missing)
    asked = {name: tmp_path / name for name in ("train", "held_out", "synthetic", "output")}
    with pytest.raises(UserError, match=r'search = faiss.*pip install "synthcxr\[faiss\]"'):
        run(AuditConfig(**asked, search="faiss"))
