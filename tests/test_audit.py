"""The whole of `synthcxr audit`: an honest set passes, copies don't, nor does an overfitted model; it's bound."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from synthcxr.cli import app
from synthcxr.conditions import Condition
from synthcxr.config import dump_config
from synthcxr.data.dataset import Dataset
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import DatasetError, ModelError, UserError
from synthcxr.evaluation import scores
from synthcxr.evaluation.audit_result import AuditResult
from synthcxr.evaluation.audit_run import REPORT, run
from synthcxr.evaluation.config import AuditConfig
from synthcxr.evaluation.copying import AuditError
from synthcxr.evaluation.feature_set import AuditSettings
from synthcxr.evaluation.membership import Denoiser, Known
from synthcxr.generate import Generator, Request
from synthcxr.images import to_float
from synthcxr.model.audit import AuditRecord
from synthcxr.model.autoencoder import start_from_pca
from synthcxr.model.folder import Model, bind_audit, check_bindable, hash_of, load_model
from synthcxr.model.sampler import SamplerSettings

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

SIDE = 64
RATE = AuditSettings(alpha=0.02, max_excess=0.2, neighbours=5, sample=200)  # of few patients and images


def anatomy(patient: int, image: int = 0) -> np.ndarray:
    """uint8 (64, 64): a smooth random field of each patient's own over an outline that all share; noise each image."""
    rng = np.random.default_rng(patient)
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(SIDE), np.fft.fftfreq(SIDE)))
    outline = np.hypot(*np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j])
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / (frequency + 2 / SIDE) ** 1.5)
    noise = np.random.default_rng([patient, image, 1]).standard_normal((SIDE, SIDE))
    return np.clip(128 + 30 * field / field.std() - 40 * outline + 3 * noise, 0, 255).astype(np.uint8)


def write(path: Path, origin: str, pixels: dict[str, list[np.ndarray]], model: str | None = None) -> Dataset:
    """Images by patient; the splits go by the names, which begin with them."""
    with DatasetWriter(path, origin=origin) as writer:
        for number, (patient, images) in enumerate(pixels.items()):
            for place, image in enumerate(images):
                made = {"prompt": f"{patient} {place}", "seed": number, "model": model} if model else {}
                writer.add(
                    image, id=f"{patient}-{place}", patient=patient, study=patient, split=patient.split("-")[0],
                    source="drawn", licence="CC0", condition=Condition(age=30 + number % 60), **made,
                )  # fmt: skip
    return writer.dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    real = {f"train-{n}": [anatomy(n, i) for i in range(1 + n % 2)] for n in range(120)}
    real |= {f"test-{n}": [anatomy(1000 + n)] for n in range(110)}
    write(folder / "real", "real", real)
    return folder


def synthetic(path: Path, model: str, copies: int = 0, fresh: int = 120) -> Dataset:
    rng = np.random.default_rng(0)
    made = {f"test-s{n}": [anatomy(5000 + n)] for n in range(fresh)}
    for n in range(copies):
        blurred = Image.fromarray(anatomy(n)).filter(ImageFilter.GaussianBlur(0.7))
        made[f"test-c{n}"] = [np.roll(np.asarray(blurred), rng.integers(-2, 3), axis=1)]
    return write(path, "synthetic", made, model)


def config(folder: Path, output: Path, **changes) -> AuditConfig:
    told = {
        "train": folder / "real", "held_out": folder / "real", "synthetic": output.parent / "made", "output": output,
        "planted": 20, "settings": RATE, "size": SIDE, "cache": folder / "cache", **changes,
    }  # fmt: skip
    return AuditConfig(**told)


def numbers(result: AuditResult) -> dict:
    return {one.name: one for one in result.numbers}


def test_an_honest_set_passes_and_its_report_says_so(folder, tmp_path):
    synthetic(tmp_path / "made", "m" * 64)
    result = run(config(folder, tmp_path / "out"))
    assert result.passed, result.failures
    assert result.excess.low <= 0 <= result.excess.high and result.model is None
    told = numbers(result)
    assert {"planted copies, exact", "excess copy rate, pixels", "excess copy rate, random network"} <= set(told)
    assert all(told[name].value >= 0.99 for name in told if name.startswith("planted"))
    text = (tmp_path / "out" / REPORT).read_text()
    assert ": passed</h1>" in text and str(tmp_path) not in text
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert AuditResult.model_validate(saved) == result


def test_copies_are_found_named_and_shown(folder, tmp_path):
    synthetic(tmp_path / "made", "m" * 64, copies=40, fresh=60)
    result = run(config(folder, tmp_path / "out"))
    assert not result.passed and "images are copied" in result.failures[0]
    named = {suspect.synthetic: suspect.train for suspect in result.suspects}
    right = [named.get(f"test-c{n}-0", "").startswith(f"train-{n}-") for n in range(40)]
    assert np.mean(right) >= 0.9 and sum("-s" in name for name in named) <= 8
    text = (tmp_path / "out" / REPORT).read_text()
    assert "not passed" in text and "data:image/jpeg" in text
    (tmp_path / "config.yaml").write_text(dump_config(config(folder, tmp_path / "out")))
    said = CliRunner().invoke(app, ["audit", str(tmp_path / "config.yaml")])
    assert said.exit_code == 1 and "failed: the excess copy rate" in said.stdout and "not passed" in said.stdout


def test_the_result_is_bound_to_the_weights_and_the_hash_stays(folder, tmp_path, tiny_model):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    before = hash_of(model)
    synthetic(tmp_path / "made", before, fresh=60)
    small = {"membership_images": 12, "worst_prompts": 2, "worst_seeds": 2, "model": str(model)}
    asked = config(folder, tmp_path / "out", sampler={"steps": 1}, precision="bfloat16", **small)
    result = run(asked)
    told = numbers(result)
    assert {"excess copy rate, autoencoder", "membership by loss", "membership by step error"} <= set(told)
    assert "excess copy rate, training prompts" in told and result.model == before == hash_of(model)
    # An untrained model knows nobody.
    assert all(told[name].low <= 0.5 <= told[name].high for name in told if name.startswith("membership"))
    loaded = load_model(model)
    assert loaded.info.audit.weights == loaded.hash == before and loaded.audited == result.passed
    assert loaded.info.audit.train == Dataset.open(folder / "real").hash
    assert "- privacy audit: passed" in (model / "README.md").read_text() or not result.passed
    assert run(asked) == result  # what is finished is read
    weights = next(model.glob("unet/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DatasetError, match="which is audited"):
        run(asked)
    assert hash_of(model) != before and not load_model(model).audited


def bare(model: Path, text: str | None) -> Path:
    """A model whose synthcxr.json holds this text, or isn't there."""
    (model / "synthcxr.json").unlink() if text is None else (model / "synthcxr.json").write_text(text)
    return model


@pytest.mark.parametrize("form", ["no last newline", "one line", "no audit yet"])
def test_an_audit_is_bound_however_the_file_is_laid_out(form, tmp_path, tiny_model):
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    said = json.loads((model / "synthcxr.json").read_text())
    if form == "no audit yet":
        del said["audit"]
    text = json.dumps(said) + "\n" if form == "one line" else (model / "synthcxr.json").read_text().rstrip("\n")
    before = hash_of(bare(model, json.dumps(said, indent=1) if form == "no audit yet" else text))
    assert before == hash_of(tiny_model)
    record = AuditRecord(
        weights=before, train="a", held_out="b", synthetic="c", alpha=0.01, excess=0.0, excess_low=-0.01,
        excess_high=0.01, membership=None, images=500, held_out_patients=300, failures=(),
    )  # fmt: skip
    bind_audit(model, record)
    assert hash_of(model) == before and load_model(model).audited
    (model / "synthcxr.json").write_text((model / "synthcxr.json").read_text().replace("tiny", "other"))
    with pytest.raises(ModelError, match="other weights"):
        bind_audit(model, record)


def test_what_would_fail_at_the_end_is_refused_at_the_beginning(folder, tmp_path, tiny_model, monkeypatch):
    """Before any picture is read: no extractor is asked."""

    def never(*_):
        raise AssertionError("a picture was read")

    monkeypatch.setattr("synthcxr.evaluation.collected.features_of", never)
    synthetic(tmp_path / "made", hash_of(tiny_model), fresh=40)
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    asked, text = {"model": str(model), "membership_images": 0}, (model / "synthcxr.json").read_text()
    few = write(tmp_path / "few", "synthetic", {"test-s0": [anatomy(1)] * 3}, hash_of(tiny_model)).path
    for changes, error, message in (
        ({"settings": AuditSettings(alpha=0.005)}, AuditError, "hold out at least 199"),
        ({"held_out_split": ("test", "train")}, AuditError, "both in training and held out"),
        ({"synthetic": few}, AuditError, "3 synthetic images can't be audited; give at least 20"),
        ({"held_out": tmp_path / "made"}, DatasetError, "held_out = .* holds synthetic images; give a real dataset"),
        ({"train": [folder / "real", folder / "real"]}, DatasetError, "train names a dataset twice"),
        ({"held_out_split": "validate"}, DatasetError, "no images in split 'validate'"),
    ):
        with pytest.raises(error, match=message):
            run(config(folder, tmp_path / "out", **asked | changes))
    bare(model, None)
    with pytest.raises(DatasetError, match="which is audited"):  # other files, another hash
        run(config(folder, tmp_path / "out", **asked))
    with pytest.raises(ModelError, match="has no synthcxr.json; train it with `synthcxr train`, or give bind=false"):
        check_bindable(model, "m")
    said = json.loads(text) | {"data_hash": "d" * 64}
    synthetic(tmp_path / "again", hash_of(bare(model, json.dumps(said))), fresh=40)
    with pytest.raises(DatasetError, match="aren't the images that the model was trained on"):
        run(config(folder, tmp_path / "out", **asked | {"synthetic": tmp_path / "again"}))
    monkeypatch.setattr(scores, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(UserError, match=r'pip install "synthcxr\[eval\]"'):
        run(config(folder, tmp_path / "out", **asked))
    assert not (tmp_path / "out").exists()


def test_several_datasets_are_audited_as_one(folder, tmp_path):
    """Copies of either are found, named by their own images; what was read is told by dataset."""
    more = {f"train-more{n}": [anatomy(20_000 + n)] for n in range(40)} | {
        f"test-more{n}": [anatomy(30_000 + n)] for n in range(100)
    }
    more |= {f"validate-more{n}": [anatomy(40_000 + n)] for n in range(10)}
    write(tmp_path / "more", "real", more)
    both = (folder / "real", tmp_path / "more")
    made = {f"test-s{n}": [anatomy(5000 + n)] for n in range(60)}
    made |= {f"test-c{n}": [anatomy(20_000 + n)] for n in range(20)} | {f"test-d{n}": [anatomy(n)] for n in range(20)}
    write(tmp_path / "made", "synthetic", made, "m" * 64)
    result = run(
        config(folder, tmp_path / "out", train=both, held_out=tmp_path / "more", held_out_split=("validate", "test"))
    )
    near = {suspect.synthetic: suspect.train for suspect in result.suspects}
    assert all(near[f"test-c{n}-0"] == f"train-more{n}-0" for n in range(20))
    assert all(near[f"test-d{n}-0"].startswith(f"train-{n}-") for n in range(20))
    assert [(given.role, given.name) for given in result.inputs] == [
        ("train", "real"), ("train", "more"), ("held_out", "more"), ("synthetic", "made"),
    ]  # fmt: skip
    assert result.held_out_patients == 110


def test_pictures_of_another_model_or_real_ones_are_refused(folder, tmp_path, tiny_model):
    synthetic(tmp_path / "made", "another", fresh=4)
    with pytest.raises(DatasetError, match="made by model another, not by"):
        run(config(folder, tmp_path / "a", model=str(tiny_model)))
    with pytest.raises(DatasetError, match="holds real images"):
        run(config(folder, tmp_path / "b", synthetic=folder / "real"))


def by_heart(model: Model, images: list[np.ndarray]) -> Callable[..., UNet2DConditionOutput]:
    """What training without end on a few images leads to: the best denoiser of just these, as a UNet's forward pass.

    It has a closed form, the mean of the training latents weighted by how likely each explains what is seen, and
    sampling with it draws a training image each time (Gu et al. 2023, eq. 2).
    """
    schedule = model.pipeline.scheduler.alphas_cumprod.double()
    with torch.inference_mode():
        latents = Denoiser(model).latents([Known(image, Condition(), SIDE) for image in images]).double()

    def forward(x, t, encoder_hidden_states=None, return_dict=True, **_):
        share = schedule[int(t.flatten()[0])]  # of a batch, all have the same time
        alpha, sigma = share.sqrt(), (1 - share).sqrt()
        seen = x.double()
        apart = (seen[:, None] - alpha * latents[None]).square().sum(dim=(2, 3, 4))
        weights = torch.softmax(-apart / (2 * sigma**2), dim=1)
        clean = torch.einsum("bn,nchw->bchw", weights, latents)
        v = (alpha * (seen - alpha * clean) / sigma - sigma * clean).to(x.dtype)
        return UNet2DConditionOutput(sample=v) if return_dict else (v,)

    return forward


def test_a_model_that_learned_its_images_by_heart_is_caught(tmp_path, tiny_model, monkeypatch):
    """By what it draws, by what training prompts bring back, and by its losses."""
    learned = [anatomy(n) for n in range(16)]
    real = {f"train-{n}": [image] for n, image in enumerate(learned)}
    write(tmp_path / "real", "real", real | {f"test-{n}": [anatomy(3000 + n)] for n in range(110)})
    loaded = load_model(tiny_model)
    model = Model(loaded.pipeline, loaded.info, "b" * 64)
    start_from_pca(model.pipeline.vae, torch.from_numpy(np.stack([to_float(image) for image in learned]))[:, None])
    model.pipeline.unet.forward = by_heart(model, learned)
    settings = SamplerSettings(sampler="dpm++", steps=20, guidance=1)
    requests = [Request(condition=Condition(age=30 + n), seed=n) for n in range(48)]
    drawn = Generator(model, settings, batch_size=16)(requests, progress=False)
    write(tmp_path / "made", "synthetic", {f"test-s{n}": [one.pixels] for n, one in enumerate(drawn)}, model.hash)
    monkeypatch.setattr("synthcxr.evaluation.audit_run.load_model", lambda source: model)
    result = run(
        config(
            tmp_path, tmp_path / "out", model="by-heart", sampler=settings, membership_images=16, worst_prompts=6,
            worst_seeds=2,
        )
    )  # fmt: skip
    assert not result.passed and result.excess.low > 0.5, result.excess
    told = numbers(result)
    assert told["excess copy rate, training prompts"].low > 0.2
    assert told["membership by loss"].low > 0.6
    for part in ("images are copied", "are recognised", "of their pictures are copies"):
        assert any(part in reason for reason in result.failures)
    assert len({suspect.train for suspect in result.suspects}) > 8
