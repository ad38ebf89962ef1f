"""The reader against coded reports; the goals are kept on all of them, and on those that nobody looked at."""

import importlib.util
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from synthcxr.conditions import Finding

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "score_reports.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_reports", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["score_reports"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def coded(script, cxr_open):
    if not list((cxr_open / "openi").glob("reports*.tgz")):
        pytest.skip("no coded reports here: set SYNTHCXR_DATA to the folder that holds openi/")
    return script.read_coded(cxr_open / "openi")


def test_coded_reports_are_read_as_well_as_promised(script, coded):
    start = time.process_time()
    truth, read, hedged = script.truth_and_read(coded)
    assert (time.process_time() - start) / len(coded) < 10 / 2000
    averaged = truth.sum(0) >= script.MIN_POSITIVES
    assert averaged.sum() >= 15
    unseen = np.array([not report.seen for report in coded])
    for chosen in (unseen, unseen | True):
        f1 = np.array([row.f1 for row in script.scores(truth[chosen], read[chosen], hedged[chosen])])[averaged]
        assert f1.mean() >= 0.8 and f1.min() >= 0.6, f1


def test_terms_stand_for_findings_by_heading_and_place(script):
    terms = [
        "Opacity/lung/base/left",
        "Cardiac Shadow/enlarged",
        "Mass/breast/large",
        "Thickening/bronchi",
        "Scoliosis",
    ]
    assert script.coded_findings(terms) == {Finding.LUNG_OPACITY, Finding.CARDIOMEGALY}
    assert script.coded_findings(["normal"]) == {Finding.NO_FINDING}
    assert script.coded_findings(["No Indexing"]) == set()


def test_scores_of_a_table_done_by_hand(script):
    truth = np.zeros((4, len(script.LABELS)), dtype=bool)
    read, hedged = truth.copy(), truth.copy()
    truth[:3, 0] = read[:2, 0] = read[3, 0] = True  # 2 hits, 1 miss, 1 false alarm
    hedged[:, 0] = True
    first, second = script.scores(truth, read, hedged)[:2]
    assert (first.n, first.precision, first.recall, first.f1) == pytest.approx((3, 2 / 3, 2 / 3, 2 / 3))
    assert first.hedged_f1 == pytest.approx(6 / 7) and (second.n, second.f1) == (0, 0)
    low, high = script.macro_interval(truth, read, np.arange(len(script.LABELS)) == 0)
    assert 0 <= low <= 2 / 3 <= high <= 1


def test_reports_are_found_packed_and_unpacked(script, tmp_path, capsys):
    xml = '<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">Nodule.</AbstractText>{}</eCitation>'
    (tmp_path / "1.xml").write_text(xml.format("<MeSH><major>Nodule/lung</major></MeSH>"))
    expected = [script.Coded("CXR1", "FINDINGS: Nodule.", ("Nodule/lung",))]
    assert script.read_coded(tmp_path) == expected
    packed = tmp_path / "packed" / "reports-even.tgz"
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "1.xml", "ecgen-radiology/1.xml")
    assert script.read_coded(packed) == script.read_coded(packed.parent) == expected
    script.main(tmp_path)
    assert "Nodule" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="must hold OpenI reports"):
        script.read_coded(tmp_path / "nothing")
