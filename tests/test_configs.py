"""Every YAML under configs/ is a valid input of its command; what a run folder keeps of it is one as well."""

from pathlib import Path

import pytest

from synthcxr.config import dump_config, load_config
from synthcxr.data.curate.config import CurateConfig
from synthcxr.data.prepare import PrepareConfig
from synthcxr.downstream.config import DownstreamConfig
from synthcxr.evaluation.config import AuditConfig, EvaluateConfig
from synthcxr.generate_run import GenerateConfig
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.export.run import ExportConfig
from synthcxr.train.config import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = {
    "audit": AuditConfig,
    "curate": CurateConfig,
    "downstream": DownstreamConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "generate": GenerateConfig,
    "prepare": PrepareConfig,
    "synthesize": SynthesizeConfig,
    "train": TrainConfig,
}
FILES = sorted(CONFIGS.rglob("*.y*ml"))


def test_each_command_has_an_example() -> None:
    assert {file.parent.name for file in FILES} == set(CLASSES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_loads_and_round_trips(file: Path, tmp_path: Path) -> None:
    config = load_config(CLASSES[file.parent.name], file)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_config(config), encoding="utf-8")
    assert load_config(type(config), resolved) == config
