"""What docs/extend.md tells to write works as it stands there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from synthcxr.data import sources
from synthcxr.data.dataset import Dataset
from synthcxr.data.prepare import PrepareConfig
from synthcxr.data.prepare import run as prepare
from synthcxr.evaluation import fidelity
from synthcxr.images import write_png
from synthcxr.model.folder import INFO, read_info

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")


def block(title: str) -> str:
    return re.search(rf'```python title="{re.escape(title)}"\n(.*?)```', PAGE, re.S)[1]


def test_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mine")
    exec(block("synthcxr/data/sources/mine.py"), module.__dict__)
    for name, function in eval("{" + block("SOURCES") + "}", module.__dict__).items():
        monkeypatch.setitem(sources.SOURCES, name, function)
    root, lines = tmp_path / "root", ["image,patient,age,sex"]
    random = np.random.default_rng(0)
    for number in range(6):
        lines.append(f"{number}.png,p{number // 2},{40 + number},{'FM'[number % 2]}")
        write_png(root / f"{number}.png", random.integers(0, 256, (80, 80), np.uint8))
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    prepare(PrepareConfig(source="mine", root=root, output=tmp_path / "out", workers=1))
    records = Dataset.open(tmp_path / "out").records
    told = {(one.patient, one.condition.age, one.condition.sex) for one in records}
    assert told == {(f"mine-p{n // 2}", 40 + n, ("female", "male")[n % 2]) for n in range(6)}


def test_a_finding(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "synthcxr", tmp_path / "synthcxr", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    vocabulary = tmp_path / "synthcxr" / "vocabulary.py"
    text = vocabulary.read_text(encoding="utf-8")
    text, enum = re.subn(r'(    HERNIA = "Hernia"\n)', rf"\1    {block('Finding')}", text)
    text, synonyms = re.subn(r"(SYNONYMS: .*= \{\n)", rf"\1    {block('SYNONYMS')}", text)
    assert enum == synonyms == 1
    vocabulary.write_text(text, encoding="utf-8")
    code = (
        "from synthcxr.conditions import parse_prompt, to_prompt\n"
        "from synthcxr.vocabulary import CHEXPERT_LABELS, Finding\n"
        "told = parse_prompt('60 year old male. Mild bronchial dilatation on the right. No edema.')\n"
        "assert told.findings[Finding.BRONCHIECTASIS].side == 'right' and parse_prompt(to_prompt(told)) == told\n"
        "assert 'ronchiectasis' in to_prompt(told) and 'Support Devices' in CHEXPERT_LABELS\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True, timeout=300
    )


def test_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    names = dict(vars(fidelity))
    exec(block("synthcxr/evaluation/fidelity.py"), names)
    ((name, metric),) = eval("{" + block("METRICS") + "}", names).items()
    monkeypatch.setitem(fidelity.METRICS, name, metric)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((60, 4)), random.standard_normal((60, 4)) + np.array([3, 0, 0, 0])
    (score,) = fidelity.bootstrap(fidelity.METRICS[name], a, b)
    assert score.low <= score.value <= score.high and score.value == pytest.approx(3, abs=0.6)
    assert metric.measure(a, a) == (0,)


def test_a_template_of_a_base_model(tmp_path: Path) -> None:
    said = re.search(r"```json\n(.*?)```", PAGE, re.S)[1]
    (tmp_path / INFO).write_text(said)
    (tmp_path / "model_index.json").write_text("{}")
    assert read_info(tmp_path).template == json.loads(said)["template"]
