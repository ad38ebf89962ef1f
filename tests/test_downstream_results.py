"""What is kept of an experiment is enough to compute its numbers again, and the page Results says the same as it."""

import csv
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from downstream_drawn import config_for, write
from sklearn.metrics import brier_score_loss, roc_auc_score

from synthcxr.downstream.config import DownstreamConfig
from synthcxr.downstream.run import run

ROOT = Path(__file__).resolve().parents[1]
KEPT = sorted(file.parent for file in (ROOT / "docs" / "results").glob("*/predictions.npz"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("downstream_results", ROOT / "scripts" / "downstream_results.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write(folder / "real", "real", 240, 0)
    write(folder / "synthetic", "synthetic", 60, 1)
    return folder


def done(drawn: Path, output: Path, **fields: object) -> DownstreamConfig:
    config = config_for(drawn, output, **fields)
    run(config)
    return config


def computed_again(kept: Path, most: int) -> int:
    """Compare up to `most` numbers of result.json with those of the predictions; how many there were."""
    result = json.loads((kept / "result.json").read_text(encoding="utf-8"))
    rows = list(csv.reader((kept / "test.csv").read_text(encoding="utf-8").splitlines()))
    asked = 0
    with np.load(kept / "predictions.npz", allow_pickle=False) as found:
        labels = list(found["labels"])
        for point in result["points"]:
            if point["metric"] not in ("AUROC", "Brier") or point["label"] not in labels or asked == most:
                continue
            told = found[f"{point['arm']}_fraction-{point['fraction']:g}_multiple-{point['multiple']:g}"]
            column = [row[rows[0].index(point["label"])] for row in rows[1:]]
            known = np.array([value != "" for value in column])
            there = np.array([value == "1" for value in column])[known]
            score = roc_auc_score if point["metric"] == "AUROC" else brier_score_loss
            again = [score(there, seed[known, labels.index(point["label"])] / 65535) for seed in told]
            assert again == pytest.approx(point["seeds"], abs=1e-3)
            assert np.mean(again) == pytest.approx(point["measured"]["value"], abs=1e-3)
            asked += 1
    return asked


def test_what_is_kept_gives_the_numbers_again(script: ModuleType, drawn: Path, tmp_path: Path) -> None:
    config = done(drawn, tmp_path / "run")
    script.keep(config.output, tmp_path / "results" / "tiny")
    assert computed_again(tmp_path / "results" / "tiny", 1000) == 7 * 4 * 2
    page = "# Results\n\n<!-- tiny -->\nNot run yet.\n<!-- end of tiny -->\n\nAfter.\n"
    filled = script.filled(page, tmp_path / "results")
    assert "Not run yet" not in filled and filled.endswith("<!-- end of tiny -->\n\nAfter.\n")
    assert script.filled(filled, tmp_path / "results") == filled
    result = json.loads((config.output / "result.json").read_text())
    for sentence in result["verdict"]:
        assert f"- {sentence}\n" in filled
    one = next(c for c in result["comparisons"] if (c["arm"], c["family"]) == ("mixed", "macro AUROC"))
    assert f"{one['difference']['value']:.3f} [{one['difference']['low']:.3f}, " in filled
    widths = {line.count("|") for line in filled.splitlines() if line.startswith("| mixed | 20% | 1x | ")}
    assert widths == {8, 6}  # differences, underdiagnosis


def test_all_four_cells_of_a_shortcut_are_on_the_page(script: ModuleType, drawn: Path, tmp_path: Path) -> None:
    shortcut = {"finding": "Pleural Effusion", "confounder": "male", "correlation": 0.8}
    config = done(drawn, tmp_path / "run", fractions=[1.0], seeds=1, least=10, multiples=[0.5], shortcut=shortcut)
    script.keep(config.output, tmp_path / "results" / "cells")
    page = script.filled("<!-- cells -->\n<!-- end of cells -->", tmp_path / "results")
    for cell in ("pleural effusion, male", "pleural effusion, not male", "no pleural effusion, male"):
        assert f"| {cell} |" in page
    assert "no pleural effusion, not male" in page and "| mixed | " in page and "| synthetic | " in page
    assert "called rightly" in (config.output / "report.html").read_text()


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_the_committed_results_can_be_computed_again(kept: Path) -> None:
    assert computed_again(kept, 40) >= 10


def test_the_page_says_what_the_committed_results_say(script: ModuleType) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert script.filled(page, ROOT / "docs" / "results") == page
