"""Retraining by several processes: each sample once an epoch, one end whatever the processes hold and how many."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from base_folders import FOLDERS
from several import PATIENCE, launch

from synthcxr.config import dump_config
from synthcxr.data.dataset import Dataset
from synthcxr.model.folder import load_model
from synthcxr.train.batches import batch_items
from synthcxr.train.checkpoint import latest_checkpoint
from synthcxr.train.config import TrainConfig

STEPS, BATCH, IMAGES = 4, 4, 8
COMMON = {"steps": STEPS, "batch_size": BATCH, "warmup": 1, "log_every": 1, "validate_every": 99, "ema": 0.5}
COMMON |= {"checkpoint_every": 99, "validation_images": 2, "learning_rate": 1e-3, "sample_steps": 1, "wordings": 2}
CASES = {
    "whole": (False, {}),
    "whole, streamed": (False, {"latents": "live"}),
    "divided": (True, {}),
    "divided, with text": (True, {"text_encoder": True, "gradient_checkpointing": True, "accumulate": 2}),
    "divided adapters of XL": (True, {"lora": {"rank": 2, "text_encoder": True}}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return FOLDERS["sd15"](tmp_path_factory.mktemp("bases") / "sd15")


@pytest.fixture(scope="module")
def base_xl(tmp_path_factory) -> Path:
    return FOLDERS["sdxl"](tmp_path_factory.mktemp("bases") / "sdxl")


def set_up(folder: Path, base: Path, dataset: Dataset, **changes: object) -> Path:
    """A folder with the config of a run that shows each of 8 images once an epoch."""
    outer = {"data": [dataset.path], "output": folder / "run", "resolution": 64, "device": "cpu", "precision": "fp32"}
    once = {"sharp_repeats": 1, "finding_repeats": 1}
    folder.mkdir(exist_ok=True)
    config = TrainConfig(**outer, **once, base={**COMMON, "model": str(base), **changes})
    (folder / "config.yaml").write_text(dump_config(config))
    return folder


def seen(folder: Path) -> dict[int, list[int]]:
    """By step, the images that its processes saw, each in its place: none twice, since none was done twice."""
    lines = [json.loads(line) for file in folder.glob("seen-*.jsonl") for line in file.read_text().splitlines()]
    steps: dict[int, list[int]] = {}
    for step, rank, count, batch in lines:
        place = steps.setdefault(step, [-1] * (count * len(batch)))
        assert place[rank::count] == [-1] * len(batch)
        place[rank::count] = batch
    return steps


def logged(folder: Path, event: str, field: str) -> list[float]:
    lines = map(json.loads, (folder / "run" / "log.jsonl").read_text().splitlines())
    return [line[field] for line in lines if line["event"] == event]


def state(folder: Path) -> dict[str, torch.Tensor]:
    kept = latest_checkpoint(folder / "run" / "base" / "checkpoints")
    assert kept.step == STEPS
    return dict(kept.tensors)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_with_other_processes_and_ends_the_same(base, base_xl, tiny_dataset, tmp_path, case):
    """2 processes, then 1, then 2, each stopped in the middle of an epoch (2 steps), against 1 left in peace."""
    divided, changes = CASES[case]
    model = base_xl if "XL" in case else base
    straight, changed = (set_up(tmp_path / name, model, tiny_dataset, **changes) for name in ("straight", "changed"))
    assert (ended := launch(straight, 1)).codes == [0], ended.said
    for processes, stop in ((2, 1), (1, 3), (2, None)):
        ended = launch(changed, processes, divided and processes > 1, stop)
        assert ended.codes == [143 if stop else 0] * processes, ended.said
        assert stop is None or f"base saved at step {stop}" in ended.said
    expected = {step + 1: batch_items(np.arange(IMAGES), 0, step, BATCH).tolist() for step in range(STEPS)}
    assert seen(straight) == seen(changed) == expected
    assert all(sorted(expected[i] + expected[i + 1]) == list(range(IMAGES)) for i in (1, 3))
    for event, fields in {"base/step": ("step", "loss", "norm"), "base/validate": ("loss",)}.items():
        for field in fields:
            assert logged(changed, event, field) == pytest.approx(logged(straight, event, field), rel=1e-3), field
    ours, theirs = state(changed), state(straight)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # Adam's first steps have the gradient's sign alone, which rounding decides where there's hardly any.
        near = torch.isclose(ours[name].float(), value.float(), rtol=1e-2, atol=1e-4).float().mean()
        assert ours[name].shape == value.shape and near > 0.99, name
    one, other = (load_model(folder / "run" / "model").pipeline.unet.state_dict() for folder in (straight, changed))
    assert one.keys() == other.keys() and all(torch.allclose(one[k], other[k], atol=2e-3) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("divided", [False, True], ids=["whole", "divided"])
def test_several_processes_stopped_end_like_as_many_left_in_peace(base, tiny_dataset, tmp_path, divided):
    straight, stopped = (set_up(tmp_path / name, base, tiny_dataset) for name in ("straight", "stopped"))
    assert (ended := launch(straight, 2, divided)).codes == [0, 0], ended.said
    assert (ended := launch(stopped, 2, divided, stop=3)).codes == [143, 143], ended.said
    assert (ended := launch(stopped, 2, divided)).codes == [0, 0], ended.said
    ours, theirs = state(stopped), state(straight)
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []
    assert load_model(straight / "run" / "model").hash == load_model(stopped / "run" / "model").hash


@pytest.mark.slow
@pytest.mark.parametrize("divided", [False, True], ids=["whole", "divided"])
def test_a_loss_that_explodes_names_the_images_of_all_processes(base, tiny_dataset, tmp_path, divided):
    folder = set_up(tmp_path / "wild", base, tiny_dataset, learning_rate=1e30, checkpoint_every=1)
    ended = launch(folder, 2, divided)
    assert ended.codes == [2, 2] and "isn't finite; its images: " in ended.said, ended.said
    line = next(line for line in ended.said.splitlines() if "isn't finite" in line)
    assert len(set(line.split("images: ")[1].split(";")[0].split(", "))) == BATCH
    kept = latest_checkpoint(folder / "run" / "base" / "checkpoints")
    assert kept is None or all(tensor.isfinite().all() for tensor in kept.tensors.values())


@pytest.mark.slow
def test_a_launcher_that_is_told_to_end_lets_its_processes_save(base, tiny_dataset, tmp_path):
    folder = set_up(tmp_path / "told", base, tiny_dataset, steps=10_000, validate_every=10_000)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "synthcxr.cli", "train", str(folder / "config.yaml")]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | paths)
    try:
        log, end = folder / "run" / "log.jsonl", time.monotonic() + PATIENCE
        while not (log.exists() and '"base/step"' in log.read_text()) and time.monotonic() < end:
            time.sleep(0.2)
        launcher.send_signal(signal.SIGTERM)
        _, said = launcher.communicate(timeout=PATIENCE)
    finally:
        launcher.kill()
    assert launcher.returncode != 0 and "base saved at step" in said, said[-3000:]
    kept = latest_checkpoint(folder / "run" / "base" / "checkpoints")
    assert kept.step == logged(folder, "base/step", "step")[-1]


@pytest.mark.slow
def test_what_processes_cannot_divide_is_refused_in_a_line(base, tiny_dataset, tmp_path):
    refused = {
        "fsdp_version: 1 isn't supported": ({}, {"FSDP_VERSION": "1"}),
        "base.optimizer = adamw8bit has no moments": ({"optimizer": "adamw8bit"}, {}),
        "base.decoder.steps = 1: processes don't divide the decoder": ({"decoder": {"steps": 1, "crop": 32}}, {}),
    }
    for number, (line, (changes, environment)) in enumerate(refused.items()):
        folder = set_up(tmp_path / str(number), base, tiny_dataset, **changes)
        ended = launch(folder, 2, divided=True, **environment)
        assert ended.codes == [2, 2] and f"error: {line}" in ended.said, ended.said
        assert "Traceback" not in ended.said


def test_the_shipped_launch_settings_say_what_the_run_reads(monkeypatch):
    root = Path(__file__).parents[1] / "scripts" / "accelerate"
    for name, divided in {"ddp.yaml": False, "fsdp.yaml": True}.items():
        arguments = launch_command_parser().parse_args(["--config_file", str(root / name), "train.py"])
        arguments, _, _ = _validate_launch_command(arguments)
        environment = prepare_multi_gpu_env(arguments)
        assert (environment.get("ACCELERATE_USE_FSDP") == "true") == divided
        if divided:
            for key, value in environment.items():
                monkeypatch.setenv(key, value)
            told = FullyShardedDataParallelPlugin()
            assert told.fsdp_version == 2 and told.reshard_after_forward is True
            assert not told.cpu_ram_efficient_loading and not told.activation_checkpointing
