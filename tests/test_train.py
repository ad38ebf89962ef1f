"""Training ends the same whatever happens to it on the way: compared to the last bit with a run left in peace."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from synthcxr.conditions import Condition
from synthcxr.data.dataset import Dataset
from synthcxr.generate import Generator, Request
from synthcxr.model.classifier import load_classifier
from synthcxr.model.contrastive import load_contrastive
from synthcxr.model.folder import load_model
from synthcxr.model.sampler import SamplerSettings
from synthcxr.train.checkpoint import Checkpoint, latest_checkpoint

STAGES = ("autoencoder", "detail", "few_detail", "denoiser", "distillation", "classifier", "contrastive")
STEPS = 8
COMMON = {"steps": STEPS, "batch_size": 4, "warmup": 2, "ema": 0.9, "log_every": 1, "validate_every": 4}
COMMON |= {"checkpoint_every": 3, "validation_images": 2}
AUTOENCODER = {
    "crop": 32,
    "shape": {"latent_channels": 4, "channels": [8, 8, 8], "detail_channels": [8, 8, 8], "groups": 4},
}
DETAIL = {"crop": 32}
FEW_DETAIL = {"crop": 32, "evaluations": 2, "teacher_steps": 4}
DENOISER = {
    "shape": {"channels": [8, 16, 16], "groups": 4, "head_width": 8, "text_width": 32, "tokens": 16},
    "sample_steps": 1,
}
DISTILLATION = {"evaluations": 2, "teacher": {"steps": 4}, "pictures": 8, "rank": 2}
CLASSIFIER = {"shape": {"size": 32, "channels": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}}
CONTRASTIVE = {"shape": {"width": 32, "tokens": 16}}
PATIENCE = 500  # seconds; a busy machine is no failure


def train(folder: str, at: tuple[str, int, int] | None = None) -> None:
    """`synthcxr train config.yaml` in a process of its own; what it says goes to `said.txt`.

    The indices of each batch go to `batches.jsonl`. `at` is (stage, step, signal): a signal to itself after that step.
    """
    os.chdir(folder)
    descriptor = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import synthcxr.train.autoencoder
    import synthcxr.train.classifier
    import synthcxr.train.contrastive
    import synthcxr.train.denoiser
    import synthcxr.train.distillation
    from synthcxr.cli import main
    from synthcxr.train.batches import batch_items
    from synthcxr.train.loop import Stage, Trainer

    at_work: list[str] = []  # stages, the one that is trained last
    begin, report = Trainer.__init__, Trainer._report

    def beginning(self: Trainer, stage: Stage, *rest: object, **others: object) -> None:
        at_work.append(stage.name)
        begin(self, stage, *rest, **others)

    def watched(items: object, seed: int, step: int, batch_size: int) -> object:
        batch = batch_items(items, seed, step, batch_size)
        with open("batches.jsonl", "a") as file:
            file.write(json.dumps([at_work[-1], step, batch.tolist()]) + "\n")
        return batch

    Trainer.__init__ = beginning
    for name in ("autoencoder", "denoiser", "distillation", "classifier", "contrastive"):
        getattr(synthcxr.train, name).batch_items = watched

    def signalling(self: Trainer, event: str, **values: float) -> None:
        report(self, event, **values)
        if at and (self.stage.name, self.step, event) == (at[0], at[1], "step"):
            os.kill(os.getpid(), at[2])

    Trainer._report = signalling
    sys.argv = ["synthcxr", "train", "config.yaml"]
    main()


@dataclass(frozen=True)
class RunFolder:
    """A folder with a config.yaml whose output is `run` beside it, so that a copy is the same run elsewhere."""

    path: Path

    def train(self, at: tuple[str, int, int] | None = None) -> int:
        """Exit code of a run in a process of its own. It is forked from one in which torch is imported already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["synthcxr.train.run", "synthcxr.cli"])
        (self.path / "said.txt").unlink(missing_ok=True)
        process = context.Process(target=train, args=(str(self.path), at))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            pytest.fail(f"still running after {PATIENCE} s: {self.said[-500:]}")
        return process.exitcode

    @property
    def said(self) -> str:
        file = self.path / "said.txt"
        return file.read_text() if file.exists() else ""

    def batches(self) -> dict[tuple[str, int], list[int]]:
        """Indices by stage and step; a step that was seen twice must have been seen alike."""
        batches: dict[tuple[str, int], list[int]] = {}
        for line in (self.path / "batches.jsonl").read_text().splitlines():
            name, step, indices = json.loads(line)
            assert batches.setdefault((name, step), indices) == indices
        return batches

    def logged(self, event: str, field: str = "step") -> list[float]:
        lines = (self.path / "run" / "log.jsonl").read_text().splitlines()
        return [entry[field] for entry in map(json.loads, lines) if entry["event"] == event]

    def state(self, stage: str) -> Checkpoint:
        return latest_checkpoint(self.path / "run" / stage / "checkpoints")

    def files(self) -> dict[str, bytes]:
        """What is in the run's folder."""
        root = self.path / "run"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def set_up(folder: Path, dataset: Dataset, **changes: object) -> RunFolder:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "data": [str(dataset.path)], "output": "run", "resolution": 64, "device": "cpu", "precision": "fp32",
        "autoencoder": {**COMMON, **AUTOENCODER}, "detail": {**COMMON, **DETAIL},
        "few_detail": {**COMMON, **FEW_DETAIL}, "denoiser": {**COMMON, **DENOISER},
        "distillation": {**COMMON, **DISTILLATION},
        "classifier": {**COMMON, **CLASSIFIER}, "contrastive": {**COMMON, **CONTRASTIVE},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes))
    return RunFolder(folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_dataset) -> RunFolder:
    """A run left in peace. Not to be changed."""
    run = set_up(tmp_path_factory.mktemp("straight"), tiny_dataset)
    assert run.train() == 0, run.said
    return run


@pytest.fixture
def copied(straight, tmp_path) -> Callable[..., RunFolder]:
    """A copy of that run as it was before parts of it were made."""

    def copy(*without: str) -> RunFolder:
        shutil.copytree(straight.path, tmp_path / "copy")
        for name in without:
            path = tmp_path / "copy" / "run" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return RunFolder(tmp_path / "copy")

    return copy


def assert_same(run: RunFolder, other: RunFolder) -> None:
    """Every tensor of weights, moments, average and generator, every batch, every file of the model."""
    for stage in STAGES:
        ours, theirs = run.state(stage), other.state(stage)
        assert ours.step == theirs.step == STEPS and ours.tensors.keys() == theirs.tensors.keys()
        assert {name.split("/")[0] for name in ours.tensors} == {"model", "ema", "optimizer", "rng", "steps"}
        assert [name for name, tensor in ours.tensors.items() if not torch.equal(tensor, theirs.tensors[name])] == []
    assert run.batches() == other.batches()
    assert _model_files(run) == _model_files(other)
    assert load_model(run.path / "run" / "model").hash == load_model(other.path / "run" / "model").hash


def _model_files(run: RunFolder) -> dict[str, bytes]:
    files = run.files()
    return {name: data for name, data in files.items() if name[:6] == "model/" and name != "model/README.md"}


def test_a_run_leaves_what_it_promises(straight):
    assert {stage for stage, _ in straight.batches()} == set(STAGES)
    for stage in STAGES:
        assert straight.logged(f"{stage}/step") == list(range(1, STEPS + 1))
        assert straight.logged(f"{stage}/validate") == [4, 8]
    for stage in ("autoencoder", "detail", "few_detail", "denoiser"):
        assert len(list((straight.path / "run" / stage / "sheets").glob("*.png"))) == 2
    assert list((straight.path / "run").rglob("events.out.tfevents.*"))
    result = json.loads((straight.path / "run" / "result.json").read_text())
    model = load_model(straight.path / "run" / "model")
    assert result["model_hash"] == model.hash and {"no", "female", "cardiomegaly"} <= set(model.info.words)
    drawn = model.pipeline.vae.config
    assert (drawn.detail_steps, drawn.detail_order) == (2, 1) and drawn.detail_gain != 1
    (picture,) = Generator(model, SamplerSettings(steps=1))([Request()], progress=False)
    assert picture.pixels.shape == (64, 64)
    readings = load_classifier(straight.path / "run" / "model").read([picture.pixels])
    assert np.isfinite(readings.age).all() and result["classifier"]["images"] == 2
    fits = load_contrastive(straight.path / "run" / "model")
    vectors = [fits.images(readings.features), fits.embed([fits.prompt(Condition(sex="female"))])]
    assert np.isfinite(vectors).all() and result["contrastive"]["images"] == 2
    card = (straight.path / "run" / "model" / "README.md").read_text()
    assert "patient-4" in card and "patient-5" not in card  # held out for validation; test patients aren't read


def test_the_model_says_nothing_of_where_it_was_made(straight):
    texts = [data for name, data in _model_files(straight).items() if name.endswith(".json")]
    assert texts and not any(str(straight.path.parent).encode() in data or b'"run/' in data for data in texts)


def test_the_average_is_what_is_saved(straight):
    average = straight.state("denoiser").tensors
    weights = load_file(straight.path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(weights["conv_in.weight"], average["ema/00000"].half())
    assert not torch.equal(average["model/unet.conv_in.weight"], average["ema/00000"])


def test_killed_training_ends_like_one_left_in_peace(straight, tiny_dataset, tmp_path):
    run = set_up(tmp_path / "killed", tiny_dataset)
    for stage in STAGES:  # epochs are 2 and 4 steps long, checkpoints 3: each is lost and resumed in mid-epoch
        assert run.train(at=(stage, 5, signal.SIGKILL)) == -signal.SIGKILL, run.said
        assert run.state(stage).step == 3
    assert run.train() == 0, run.said
    assert run.logged("denoiser/step") == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
    assert_same(run, straight)


def test_sigterm_saves_and_the_next_run_goes_on(straight, copied):
    run = copied("denoiser", "classifier", "model", "result.json", "cache")
    (run.path / "run" / "log.jsonl").unlink()
    assert run.train(at=("denoiser", 5, signal.SIGTERM)) == 143
    assert run.logged("denoiser/step") == [1, 2, 3, 4, 5] and run.state("denoiser").step == 5
    assert "denoiser saved at step 5" in run.said and "Traceback" not in run.said
    assert run.train() == 0, run.said
    assert run.logged("denoiser/step") == list(range(1, STEPS + 1))
    assert_same(run, straight)


def test_a_run_made_longer_in_time_equals_one_that_was_as_long_from_the_start(straight, copied, tiny_dataset):
    run = copied("denoiser", "model", "result.json")
    set_up(run.path, tiny_dataset, denoiser={**COMMON, **DENOISER, "steps": 12})
    assert run.train(at=("denoiser", 4, signal.SIGTERM)) == 143  # of 12, the level ends at 8.4
    set_up(run.path, tiny_dataset)
    assert run.train(at=("denoiser", 7, signal.SIGTERM)) == 143  # of 8, it ends at 5.6
    set_up(run.path, tiny_dataset, denoiser={**COMMON, **DENOISER, "steps": 12})
    assert run.train() == 2
    assert "error: denoiser.steps = 12 can't take the place of 8 at step 7" in run.said
    set_up(run.path, tiny_dataset)
    assert run.train() == 0, run.said
    assert_same(run, straight)


def test_a_run_goes_on_from_a_model(straight, tiny_dataset, tmp_path):
    start = shutil.copytree(straight.path / "run" / "model", tmp_path / "tuned")
    said = json.loads((start / "synthcxr.json").read_text())
    said["sampler"]["guidance"] = 1.5
    (start / "synthcxr.json").write_text(json.dumps(said))
    stages = {"denoiser": {**COMMON, **DENOISER, "steps": 0}}
    stages |= {stage: {"steps": 0} for stage in ("distillation", "classifier", "contrastive")}
    run = set_up(tmp_path / "next", tiny_dataset, start=str(start), **stages)
    assert run.train() == 0, run.said
    models = [load_model(folder) for folder in (start, run.path / "run" / "model")]
    assert (
        models[1].info.sampler == models[0].info.sampler and models[1].info.few_steps == models[0].info.few_steps == 2
    )
    assert_equal(*(model.few_step.unet for model in models))
    before, after = (model.pipeline for model in models)
    assert after.tokenizer_2.get_vocab() == before.tokenizer_2.get_vocab()
    for part in ("unet", "text_encoder_2"):  # 0 steps
        assert_equal(getattr(before, part), getattr(after, part))
    for part in ("linear_encoder", "encoder"):  # what latents mean
        assert_equal(getattr(before.vae, part), getattr(after.vae, part))
    for load in (load_classifier, load_contrastive):
        assert load(start).hash == load(run.path / "run" / "model").hash
    assert before.vae.config.scaling_factor == after.vae.config.scaling_factor
    assert not torch.equal(before.vae.decoder[0].weight, after.vae.decoder[0].weight)


def test_new_latents_are_learned_by_the_denoiser_of_the_start(straight, tiny_dataset, tmp_path):
    stages = {stage: {"steps": 0} for stage in ("detail", "few_detail", "distillation", "classifier", "contrastive")}
    stages |= {"autoencoder": {**COMMON, **AUTOENCODER, "keep_encoder": False}}
    stages |= {"denoiser": {**COMMON, **DENOISER, "steps": 0}}
    start = straight.path / "run" / "model"
    run = set_up(tmp_path / "next", tiny_dataset, start=str(start), **stages)
    assert run.train() == 0, run.said
    before, after = (load_model(folder).pipeline for folder in (start, run.path / "run" / "model"))
    assert_equal(before.vae.linear_encoder, after.vae.linear_encoder)
    assert not torch.equal(before.vae.encoder[-1].weight, after.vae.encoder[-1].weight)
    assert not torch.equal(before.unet.gaussian.loudness, after.unet.gaussian.loudness)
    assert after.vae.config.detail_steps == 0  # what is left out is another thing now
    assert not (run.path / "run" / "model" / "few_step").exists()


def assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    theirs = other.state_dict()
    assert [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, theirs[name])] == []


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_broken_checkpoint_is_named_and_costs_only_its_steps(straight, copied, damage):
    run = copied("model", "result.json")
    (shard,) = (run.path / "run" / "denoiser" / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    assert run.train() == 0, run.said
    assert f"step-{STEPS:08d} is broken ({shard.name}" in run.said and "goes on from step 6" in run.said
    assert_same(run, straight)


def test_a_finished_run_is_left_alone(copied):
    run = copied()
    before = run.files()
    assert run.train() == 0
    assert run.files() == before and before["result.json"]


def test_another_config_is_refused(copied, tiny_dataset):
    run = copied("result.json")
    before = run.files()
    set_up(run.path, tiny_dataset, seed=1)
    assert run.train() == 2
    assert run.said.startswith("error: ") and run.said.count("\n") == 1 and "seed 0, now 1" in run.said
    assert run.files() == before


def test_words_need_a_classifier_to_be_compared_with(tiny_dataset, tmp_path):
    few = {"steps": 1, "validation_images": 1}
    stages = {"autoencoder": {**AUTOENCODER, **few}, "denoiser": {**DENOISER, **few}, "classifier": {"steps": 0}}
    run = set_up(tmp_path / "alone", tiny_dataset, **stages)
    assert run.train() == 2
    assert "error: contrastive.steps = 8 needs classifier.steps" in run.said and not (run.path / "run").exists()


def test_a_loss_that_explodes_names_its_step_and_images(tiny_dataset, tmp_path):
    wild = {**COMMON, **AUTOENCODER, "learning_rate": 1e30, "checkpoint_every": 1}
    run = set_up(tmp_path / "wild", tiny_dataset, autoencoder=wild)
    assert run.train() == 2
    assert "error: autoencoder: " in run.said and "isn't finite" in run.said and "drawn-0" in run.said
    saved = run.state("autoencoder")
    assert saved is None or all(tensor.isfinite().all() for tensor in saved.tensors.values())


@pytest.mark.slow
def test_two_processes_train_like_one(straight, tiny_dataset, tmp_path):
    run = set_up(tmp_path / "pair", tiny_dataset)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*launch, __file__, str(run.path)], capture_output=True, text=True, timeout=PATIENCE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-500:] + run.said[-1500:]
    assert run.batches() == straight.batches()  # of both processes, in each step
    assert len((run.path / "batches.jsonl").read_text().splitlines()) == 2 * len(run.batches())
    for stage in STAGES[:4]:  # the classifier normalises over the images of one process
        ours, theirs = run.logged(f"{stage}/step", "loss"), straight.logged(f"{stage}/step", "loss")
        assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
        assert ours == pytest.approx(theirs, rel=0.05)
    for event, field in (("autoencoder/validate", "psnr"), ("denoiser/validate", "loss")):
        assert run.logged(event, field) == pytest.approx(straight.logged(event, field), rel=0.02)


if __name__ == "__main__":  # a process of test_two_processes_train_like_one
    train(sys.argv[1])
