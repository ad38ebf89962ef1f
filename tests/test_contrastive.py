"""The image-text model: what it's taught, what its numbers mean, that its parts must belong together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from synthcxr.conditions import Condition, canonical_words
from synthcxr.errors import ModelError
from synthcxr.evaluation.image_text import Pairs, open_image_text, retrieval, similarity, zero_shot
from synthcxr.images import to_float
from synthcxr.model.classifier import ClassifierShape, build_classifier, load_classifier, pooled, shrunk
from synthcxr.model.contrastive import ContrastiveShape, build_contrastive, load_contrastive, weights_hash
from synthcxr.model.embedded import build_tokenizer
from synthcxr.model.folder import CLASSIFIER, CONTRASTIVE, hash_of
from synthcxr.train.contrastive import contrastive_loss

SHAPE = ClassifierShape(size=32, channels=(8, 8, 8, 16), depths=(1, 1, 1, 1))
WORDS = ("female", "male", "ap", "pa", "view", "cardiomegaly", "no", "year", "old", *map(str, range(30, 60)))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_pairs(n: int, seed: int, prompts: list[str] | None = None, truth: float = 0.0, width: int = 8) -> Pairs:
    """Images that tell of their prompt as much as `truth` says."""
    rng = np.random.default_rng(seed)
    said = prompts or [f"prompt {row}" for row in range(n)]
    by_prompt = dict(zip(sorted(set(said)), unit(rng.standard_normal((len(set(said)), width))), strict=True))
    texts = np.array([by_prompt[prompt] for prompt in said])
    return Pairs(unit(truth * texts + (1 - truth) * unit(rng.standard_normal((n, width)))), texts, said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A MODEL folder with a classifier and an image-text model of random weights. Not to be changed."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    build_classifier(SHAPE).half().save_pretrained(path / CLASSIFIER)
    tokenizer = build_tokenizer(canonical_words(), 24)
    shape = ContrastiveShape(width=32, tokens=24)
    tag, template = weights_hash(path / CLASSIFIER), "{age} year old {sex}. {view} view. {impression}"
    build_contrastive(shape, tokenizer, 16, tag, template, WORDS).half().save_pretrained(path / CONTRASTIVE)
    tokenizer.save_pretrained(path / CONTRASTIVE)
    return path


def test_the_loss_is_that_of_clip_where_all_prompts_differ():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(unit(rng.standard_normal((6, 5)))) for _ in range(2))
    logits = 7 * a @ b.T
    expected = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    told = contrastive_loss(a, b, torch.tensor(7.0), [f"{row}" for row in range(6)])
    assert told.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_same_words_are_no_negative():
    """What an image with the same prompt looks like changes nothing for another, and both can be told perfectly."""
    rng = np.random.default_rng(1)
    vectors = torch.from_numpy(unit(rng.standard_normal((3, 5))))
    images, said = vectors[[0, 0, 1, 2]].clone().requires_grad_(True), ["a", "a", "b", "c"]
    assert contrastive_loss(images, vectors[[0, 0, 1, 2]], torch.tensor(100.0), said).item() < 0.1
    wrong = contrastive_loss(images, vectors[[0, 0, 1, 2]], torch.tensor(100.0), ["a", "d", "b", "c"])
    assert wrong.item() > 0.3
    texts = vectors[[0, 0, 1, 2]].clone().requires_grad_(True)
    row = contrastive_loss(images, texts, torch.tensor(1.0), ["a", "a", "a", "a"])
    assert row.item() == pytest.approx(0, abs=1e-6)  # nothing to tell apart


def test_recall_of_chance_is_chance_and_of_truth_is_one():
    said = [f"prompt {row % 40}" for row in range(120)]
    held = []
    for seed in range(20):
        for found in retrieval(random_pairs(120, seed, said, width=40), (10,), seed=seed):
            held.append(found.score.low <= found.chance <= found.score.high)
    assert np.mean(held) > 0.8
    perfect = retrieval(random_pairs(120, 0, said, truth=1.0), (1,))
    assert [found.score.value for found in perfect] == [1.0, 1.0]
    names = [found.score.name for found in perfect]
    assert names == ["recall@1, image to text", "recall@1, text to image"]
    assert perfect[0].chance == pytest.approx(1 / 40) and perfect[1].chance == pytest.approx(3 / 120)


def test_a_model_that_tells_nothing_apart_finds_nothing():
    same = np.tile(unit(np.ones((1, 4))), (30, 1))
    for found in retrieval(Pairs(same, same, [f"{row}" for row in range(30)]), (1, 5)):
        assert found.score.value == 0


def test_similarity_is_that_of_brute_force():
    said = [f"prompt {row % 7}" for row in range(30)]
    pairs = random_pairs(30, 3, said, truth=0.5)
    own, shuffled, nearer = [], [], []
    for i in range(30):
        others = [j for j in range(30) if said[j] != said[i]]
        cosines = [float(pairs.images[i] @ pairs.texts[j]) for j in others]
        own.append(float(pairs.images[i] @ pairs.texts[i]))
        shuffled.append(np.mean(cosines))
        nearer.append(np.mean([own[-1] > cosine for cosine in cosines]))
    scores = {score.name: score for score in similarity(pairs, np.arange(30))}
    assert scores["image-text similarity"].value == pytest.approx(np.mean(own), abs=1e-6)
    assert scores["image-text similarity, prompts shuffled"].value == pytest.approx(np.mean(shuffled), abs=1e-6)
    assert scores["own prompt before another's"].value == pytest.approx(np.mean(nearer), abs=1e-6)
    for score in scores.values():
        assert score.low < score.value < score.high and score.n == 30


def test_pictures_that_ignore_their_words_reach_the_floor_and_no_more():
    held = []
    for seed in range(30):
        scores = {score.name: score for score in similarity(random_pairs(100, seed), np.arange(100), seed)}
        score = scores["own prompt before another's"]
        held.append(score.low <= 0.5 <= score.high)
    assert np.mean(held) > 0.85
    clear = {s.name: s for s in similarity(random_pairs(100, 0, truth=0.5), np.arange(100))}
    assert clear["own prompt before another's"].low > 0.7
    assert clear["image-text similarity"].low > clear["image-text similarity, prompts shuffled"].high


def test_one_prompt_for_all_has_no_floor():
    (score,) = similarity(random_pairs(12, 0, ["one"] * 12), np.arange(12))
    assert score.name == "image-text similarity"


def test_a_saved_model_reads_each_image_for_itself_and_knows_its_words(folder):
    model = load_contrastive(folder)
    features = load_classifier(folder).read(np.random.default_rng(1).integers(0, 256, (5, 48, 48), dtype=np.uint8))
    rows = model.images(features.features)
    assert rows.shape == (5, 32) and np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    asked = Condition(age=40, sex="male", race="black", findings={"Cardiomegaly": "present", "Mass": "present"})
    told = model.prompt(asked)
    assert told == "40 year old male. Cardiomegaly."  # neither a race nor a mass was in its training prompts
    texts = model.embed([told, "Female."])
    assert texts.shape == (2, 32) and np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.embed(["Female."])[0] == pytest.approx(texts[1], abs=1e-5)


def test_what_is_trained_on_is_what_is_read(folder):
    classifier = load_classifier(folder)
    images = np.random.default_rng(2).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    tensors = torch.from_numpy(to_float(images))[:, None]
    with torch.no_grad():
        features = pooled(classifier.network, shrunk(tensors, 32)).numpy()
    assert features == pytest.approx(classifier.read(images).features, abs=1e-5)


def test_zero_shot_asks_what_enough_images_are_labelled_with(folder):
    model = open_image_text(None, str(folder))
    conditions = [Condition(sex=("male", "female")[row % 2], findings=["Mass"]) for row in range(40)]
    male, female = model.embed(["Male.", "Female."])
    noise = np.random.default_rng(0).standard_normal((40, 32)) * 0.02
    images = unit(np.array([(male, female)[row % 2] for row in range(40)]) + noise)
    (score,) = zero_shot(model, images, conditions, np.arange(40))
    assert score.name == "AUROC, male" and score.value > 0.95 and score.n == 20


def test_it_is_no_part_of_the_models_hash(folder, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    before = hash_of(model)
    for part in (CLASSIFIER, CONTRASTIVE):
        shutil.copytree(folder / part, model / part)
    assert hash_of(model) == before and load_contrastive(model).hash == load_contrastive(folder).hash


def test_what_is_missing_damaged_or_of_another_classifier_is_said(folder, tiny_model, tmp_path):
    with pytest.raises(ModelError, match="holds no image-text model"):
        load_contrastive(tiny_model)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    torch.manual_seed(1)
    build_classifier(SHAPE).half().save_pretrained(other / CLASSIFIER)
    with pytest.raises(ModelError, match="features of another classifier"):
        load_contrastive(other)
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    weights = cut / CONTRASTIVE / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="can't be loaded"):
        load_contrastive(cut)
    shutil.rmtree(cut / CLASSIFIER)
    with pytest.raises(ModelError, match="holds no classifier"):
        load_contrastive(cut)


def test_a_clip_of_transformers_compares_as_it_does_itself(tmp_path):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    tokenizer = build_tokenizer(canonical_words(), 24)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=24, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **sizes)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    torch.manual_seed(0)
    network = CLIPModel(config).eval()
    network.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    said = {"size": {"shortest_edge": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(said))
    model = open_image_text(str(tmp_path / "clip"), None)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    prompts = ["Female. Cardiomegaly.", "Male.", "40 year old male. PA view. No acute findings."]
    told = model.images(model.extractor.read(list(pixels))) @ model.embed(prompts).T
    inputs = torch.from_numpy((pixels / 255 - 0.5) / 0.25).float()[:, None].expand(-1, 3, -1, -1)
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = network(pixel_values=inputs, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    expected = found.logits_per_image / network.logit_scale.exp().detach()
    np.testing.assert_allclose(told, expected.numpy(), atol=2e-3)
    assert model.prompt(Condition(sex="male", race="black")) == "Black male."  # a stock model is told everything


def test_other_models_are_no_clip(tmp_path):
    with pytest.raises(ModelError, match="hub id with its revision"):
        open_image_text("nowhere", None)
    from transformers import ViTConfig, ViTModel

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=32, **size)).save_pretrained(tmp_path / "vit")
    said = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="is a 'vit'; give a CLIPModel"):
        open_image_text(str(tmp_path / "vit"), None)
