"""Autoencoder, tokenizer, prompts, model folders; stock folders too."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel

from synthcxr.conditions import Condition, canonical_words, parse_prompt, to_prompt
from synthcxr.errors import ModelError
from synthcxr.generate import Generator, Request
from synthcxr.model.autoencoder import (
    ChestAutoencoder,
    detail_noise,
    edge_energy,
    own_noise,
    psnr,
    sharpened,
    start_from_pca,
)
from synthcxr.model.embedded import AutoencoderShape, build_autoencoder, build_tokenizer
from synthcxr.model.folder import EMBEDDED, load_model, save_model
from synthcxr.model.lapped import block_pca, lap, lapping, pca_reconstruction, unlap
from synthcxr.model.prompts import understood, words_of
from synthcxr.model.sampler import SamplerSettings


def smooth_images(count: int, size: int = 64) -> torch.Tensor:
    noise = torch.randn(count, 1, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic").clamp(-2, 2) / 2


def test_block_pca_is_the_singular_value_decomposition():
    images = smooth_images(6)
    mean, directions, deviations = block_pca(images, 5)
    blocks = images.unfold(2, 16, 16).unfold(3, 16, 16).reshape(-1, 256).double()
    _, values, rows = torch.linalg.svd(blocks - blocks.mean(0), full_matrices=False)
    assert torch.allclose(mean.double(), blocks.mean(0), atol=1e-5)
    assert torch.allclose(deviations.double(), values[:5] / len(blocks) ** 0.5, rtol=1e-4)
    assert torch.allclose((directions.double() @ rows[:5].T).abs(), torch.eye(5, dtype=torch.float64), atol=1e-3)


def test_all_components_tell_everything():
    images = smooth_images(40)
    assert psnr(images, pca_reconstruction(images, block_pca(images, 256))).min() > 60


def test_lapping_is_orthogonal_and_leaves_constants_and_the_edge_alone():
    matrix = lapping(80)
    assert torch.allclose(matrix @ matrix.T, torch.eye(80), atol=1e-6)
    assert torch.allclose(matrix.sum(1), torch.ones(80), atol=1e-6)
    assert torch.equal(matrix[:8], torch.eye(80)[:8]) and torch.equal(matrix[-8:], torch.eye(80)[-8:])
    mixed = matrix[8:24, 8:24]  # about the first seam
    assert torch.equal(matrix[24:40, 24:40], mixed) and mixed[7, 8] > 0.1


def fresh_autoencoder(images: torch.Tensor, channels: int, whitening: float = 0.0) -> ChestAutoencoder:
    autoencoder = build_autoencoder(
        AutoencoderShape(latent_channels=channels, channels=(16, 16, 16), detail_channels=(16, 16, 16)), 64
    )
    start_from_pca(autoencoder, images, whitening)
    return autoencoder.requires_grad_(False)


@pytest.mark.parametrize("whitening", [0.0, 0.5])
def test_fresh_autoencoder_is_the_lapped_pca_whatever_its_whitening(whitening):
    images = smooth_images(8)
    # Every block beside its negative: the mean block is one grey level, and nothing is lost to the single bias.
    images = torch.cat([images, -images]) * 0.4 + 0.1
    autoencoder = fresh_autoencoder(images, 8, whitening)
    latents = autoencoder.encode(images).latent_dist.mean
    told = unlap(pca_reconstruction(lap(images), block_pca(lap(images), 8)))
    assert (autoencoder.decode(latents).sample - told).abs().max() < 1e-3
    assert latents.square().mean().item() == pytest.approx(1, abs=0.05)


def test_overlapping_blocks_tell_smooth_images_better_than_blocks_do():
    images = smooth_images(32)
    autoencoder = fresh_autoencoder(images, 4)
    told = autoencoder.decode(autoencoder.encode(images).latent_dist.mean).sample
    assert psnr(images, told).mean() > psnr(images, pca_reconstruction(images, block_pca(images, 4))).mean() + 0.5


def test_an_error_in_a_latent_is_as_large_in_the_picture():
    autoencoder = fresh_autoencoder(smooth_images(32), 8)
    latents = torch.zeros(8, 8, 4, 4)
    for channel in range(8):
        latents[channel, channel, 1, 2] = 1
    shown = autoencoder.decode(latents).sample - autoencoder.decode(torch.zeros_like(latents)).sample
    gram = shown.flatten(1) @ shown.flatten(1).T
    assert torch.allclose(gram / gram[0, 0], torch.eye(8), atol=1e-4)


def detailed(steps: int, seed: int = 0) -> tuple[ChestAutoencoder, torch.Tensor]:
    """An autoencoder that draws detail by an untrained network, and pictures' latents."""
    torch.manual_seed(seed)
    images = smooth_images(32)
    autoencoder = fresh_autoencoder(images, 8)
    autoencoder.register_to_config(detail_steps=steps, detail_scale=0.1)
    return autoencoder.eval(), autoencoder.encode(images[:3]).latent_dist.mean


def test_detail_changes_nothing_of_what_the_linear_map_tells():
    autoencoder, latents = detailed(4)
    shown = autoencoder.decode(latents).sample
    assert (shown - autoencoder.coarse(latents)).std() > 0.02
    assert torch.allclose(autoencoder.linear(shown), autoencoder.linear(autoencoder.coarse(latents)), atol=1e-4)
    once = autoencoder.free(shown)
    assert torch.allclose(autoencoder.free(once), once, atol=1e-5)


def test_detail_is_the_same_each_time_and_in_any_batch():
    autoencoder, latents = detailed(4)
    together = autoencoder.decode(latents).sample
    assert torch.equal(together, autoencoder.decode(latents).sample)
    alone = torch.cat([autoencoder.decode(latents[i : i + 1]).sample for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_detail_is_as_loud_as_its_model_says():
    autoencoder, latents = detailed(32)
    # To tell no v at all is right for detail of deviation 1, and no step then leads away from it.
    autoencoder.detail.conv_out.weight.zero_()
    autoencoder.detail.conv_out.bias.zero_()
    coarse = autoencoder.coarse(latents)
    noise = autoencoder.free(own_noise(latents))
    assert torch.allclose(autoencoder.drawn(latents, coarse), 0.1 * noise, atol=0.02)


def test_each_picture_has_noise_of_its_own_and_nearly_equal_ones_nearly_the_same():
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(12, 32, 8, 8, generator=rng)
    noise = own_noise(latents).flatten(1)
    alike = torch.corrcoef(noise)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert (alike - torch.eye(12)).abs().max() < 0.5 and (alike - torch.eye(12)).square().mean().sqrt() < 0.2
    near = own_noise(latents + 1e-4 * torch.randn(latents.shape, generator=rng)).flatten(1)
    assert (near - noise).abs().max() < 0.01


def test_noise_of_detail_grows_by_the_same_factor():
    alpha, sigma = detail_noise(torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(alpha.square() + sigma.square(), torch.ones(3, 1, 1, 1))
    low, middle, high = (sigma / alpha).flatten().tolist()
    assert (low, high) == (pytest.approx(0.05), pytest.approx(30)) and middle == pytest.approx((low * high) ** 0.5)


def test_sharpening_strengthens_waves_by_their_frequency_and_leaves_ramps_alone():
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    assert torch.allclose(sharpened(ramp, 0.1)[..., 1:-1], ramp[..., 1:-1], atol=1e-6)
    places = torch.arange(32) + 0.5
    for frequency in (1, 8, 31):
        wave = torch.cos(torch.pi * frequency * places / 32)
        gain = 1 + 0.1 * (2 - 2 * np.cos(np.pi * frequency / 32))  # the Laplacian's eigenvalue, edges reflected
        for image in (wave.expand(1, 1, 32, 32), wave[:, None].expand(1, 1, 32, 32)):
            assert torch.allclose(sharpened(image, 0.1), gain * image, atol=1e-5)
    assert sharpened(ramp, 0.0) is ramp


def test_edge_energy_known_answers():
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1
    assert edge_energy(stripes).item() == pytest.approx(1)
    assert edge_energy(torch.ones(2, 1, 8, 8)).tolist() == [0, 0]


def test_psnr_known_answers():
    zeros = torch.zeros(1, 1, 16, 16)
    assert psnr(zeros, zeros + 0.2).item() == pytest.approx(20)  # peak to peak 2, error 0.2
    assert psnr(zeros, zeros).item() > 100


def test_tokenizer_keeps_words_whole_and_splits_numbers():
    tokenizer = build_tokenizer(canonical_words(), 48)
    assert [word for word in canonical_words() if len(tokenizer.tokenize(word)) != 1] == []
    assert tokenizer.tokenize("72") == ["7</w>", "2</w>"]
    ids = tokenizer("pleural “Ünï 🙂 effusion").input_ids
    assert ids.count(tokenizer.eos_token_id) == 1  # an unknown byte would else end the prompt


def test_the_same_words_give_the_same_tokenizer_in_any_process():
    """A resumed run builds it anew, and goes on with the embeddings of the tokens it had."""
    code = (
        "from synthcxr.conditions import canonical_words; from synthcxr.model.embedded import build_tokenizer;"
        "print(build_tokenizer(canonical_words(), 48).backend_tokenizer.to_str())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = {build_tokenizer(canonical_words(), 48).backend_tokenizer.to_str() for _ in range(4)}
    assert here == {told.strip()}


def test_words_never_seen_are_left_out_and_nothing_is_turned_around():
    words = words_of(["60 year old female. PA view. Pleural effusion. Cardiomegaly."], [18, 90])
    asked = parse_prompt("72 year old female. Large right pleural effusion. No cardiomegaly. Possible fracture.")
    kept, missing = understood(asked, "{age} year old {sex}. {view} view. {impression}", words)
    assert to_prompt(kept) == "72 year old female. Pleural effusion."
    assert set(missing) == {"large", "right", "no", "possible", "fracture"}
    assert understood(asked, "{impression}", None) == (asked, [])


def test_stock_diffusers_opens_and_runs_the_folder(tiny_model):
    pipeline = DiffusionPipeline.from_pretrained(tiny_model)
    image = pipeline("72 year old female.", num_inference_steps=2, output_type="pil").images[0]
    assert image.size == (64, 64) and image.mode == "L"
    with safe_open(tiny_model / "text_encoder_2" / "model.safetensors", "pt") as file:
        assert all(key.startswith(("text_model.", "text_projection.")) for key in file.keys())  # noqa: SIM118


def test_autoencoder_config_is_its_own_arguments(tiny_model):
    config = json.loads((tiny_model / "vae" / "config.json").read_text())
    assert "act_fn" not in config and config["latent_channels"] == 4
    again = ChestAutoencoder.from_pretrained(tiny_model / "vae")
    assert tuple(again.config.block_out_channels) == (4, 16, 16, 16, 16)


def test_saving_changes_and_says_nothing(tiny_model, tmp_path, caplog, capfd):
    model = load_model(tiny_model)
    before = {name: value.clone() for name, value in model.pipeline.unet.state_dict().items()}
    with caplog.at_level("INFO"):
        save_model(model, tmp_path / "again", "# again")
    after = model.pipeline.unet.state_dict()
    assert all(torch.equal(value, after[name]) and value.dtype == torch.float32 for name, value in before.items())
    assert "float32" not in caplog.text + "".join(capfd.readouterr())
    assert load_model(tmp_path / "again").hash == load_model(tiny_model).hash  # twice through half: the same


def test_hash_follows_the_files(tiny_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert load_model(copy).hash == load_model(tiny_model).hash
    info = json.loads((copy / "synthcxr.json").read_text())
    (copy / "synthcxr.json").write_text(json.dumps(info | {"name": "other"}))
    assert load_model(copy).hash != load_model(tiny_model).hash


@pytest.mark.parametrize("damage", ["no index", "no weights", "cut weights", "bad info"])
def test_damaged_folder_is_one_line(tiny_model, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "no index":
        (copy / "model_index.json").unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        (copy / "synthcxr.json").write_text('{"name": 3}')
    with pytest.raises(ModelError) as error:
        load_model(copy)
    assert "\n" not in str(error.value) and "copy" in str(error.value)


def test_a_process_that_imports_nothing_else_opens_the_folder(tiny_model):
    """Diffusers takes our autoencoder only from a module that is imported already."""
    code = "import sys; from synthcxr.model.folder import load_model; print(load_model(sys.argv[1]).hash)"
    result = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True)
    assert result.stdout.strip() == load_model(tiny_model).hash, result.stderr[-500:]


def test_a_pipeline_that_is_no_stable_diffusion_is_refused(tmp_path):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ModelError, match="DDPMPipeline"):
        load_model(tmp_path / "ddpm")


def test_hub_id_needs_a_revision():
    with pytest.raises(ModelError, match="revision"):
        load_model("someone/some-model")


def test_stock_stable_diffusion_folder_generates(tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(canonical_words(), 77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    blocks = dict(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            sample_size=32,
            **blocks,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, attention_head_dim=4, **blocks,
        ),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(tmp_path / "sd")
    model = load_model(tmp_path / "sd")
    generator = Generator(model, SamplerSettings(steps=2))
    (picture,) = generator([Request(condition=Condition(text="A chest, freely told."))], progress=False)
    assert picture.pixels.shape == (32, 32) and picture.prompt == "A chest, freely told."


@pytest.mark.skipif(not (EMBEDDED / "model_index.json").exists(), reason="no embedded weights in this checkout")
def test_stock_diffusers_runs_the_embedded_model():
    image = DiffusionPipeline.from_pretrained(EMBEDDED)("72 year old female.", num_inference_steps=1).images[0]
    assert image.size == (256, 256) and image.mode == "L"


@pytest.mark.skipif(not (EMBEDDED / "model_index.json").exists(), reason="no embedded weights in this checkout")
def test_embedded_model_keeps_its_promises():
    model = load_model()
    parts = [part for part in model.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert sum(p.numel() for part in parts for p in part.parameters()) <= 28e6
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 60e6 and max(path.stat().st_size for path in files) <= 16e6
    assert not any(b'"_name_or_path"' in path.read_bytes() for path in files if path.suffix == ".json")
    pictures = list(
        Generator(model)([Request(condition=Condition(age=60), seed=seed) for seed in (0, 1)], progress=False)
    )
    first, second = (picture.pixels.astype(float) for picture in pictures)
    assert first.shape == (256, 256) and first.std() > 20  # neither blank nor flat
    assert np.abs(first - second).mean() > 5
    # A frontal chest: lungs, on either side of the midline, are darker than what lies between and below them.
    middle = (first + second) / 2
    lungs = (middle[90:140, 50:90].mean() + middle[90:140, 166:206].mean()) / 2
    assert lungs < middle[90:140, 118:138].mean() and lungs < middle[200:240, 80:176].mean()
