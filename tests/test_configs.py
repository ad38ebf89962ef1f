"""Every YAML under configs/ is a valid input of its command; what a run folder keeps of it is one as well."""

from pathlib import Path

import pytest

from synthcxr.conditions import Condition, to_prompt
from synthcxr.config import dump_config, load_config
from synthcxr.data.curate.config import CurateConfig
from synthcxr.data.prepare import PrepareConfig
from synthcxr.downstream.config import DownstreamConfig
from synthcxr.evaluation.config import AuditConfig, EvaluateConfig
from synthcxr.generate_run import GenerateConfig
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.export.run import ExportConfig
from synthcxr.train.config import TrainConfig
from synthcxr.train.loop import learning_rate

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


def test_roentgen_v2_is_the_published_recipe() -> None:
    """Stable Diffusion 2.1-base at 512, autoencoder frozen, 60,000 steps, cosine after 500 of warm-up; no extras."""
    config = load_config(TrainConfig, CONFIGS / "train" / "roentgen-v2.yaml")
    base = config.base
    assert (config.resolution, config.sharp_repeats, config.finding_repeats) == (512, 1, 1)
    assert base.model.endswith("stable-diffusion-2-1-base") and base.decoder.steps == 0
    assert base.denoiser and base.text_encoder and base.lora is None and base.prediction is None
    assert (base.steps, base.warmup, base.weight_decay, base.learning_rate) == (60_000, 500, 1e-2, 1e-5)
    assert (base.ema, base.caption_dropout, base.min_snr, base.noise_offset, base.wordings) == (0, 0, None, 0, 1)
    assert (base.sample_steps, base.sample_guidance, base.zero_terminal_snr) == (75, 3, False)
    rates = [learning_rate(base, step) for step in (0, 249, 500, 30_250, 59_999)]
    assert rates == pytest.approx([1e-5 / 500, 0.5e-5, 1e-5, 0.5e-5, 0], abs=1e-9)
    said = to_prompt(Condition(age=86, race="black", sex="female", text="No acute process."), base.template)
    assert said == "86 year old BLACK female. No acute process."
