"""Checkpoints: whole or passed over."""

import json
import logging

import pytest
import torch

from synthcxr.train.checkpoint import latest_checkpoint, save_checkpoint


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Two shards' worth, of several types."""
    generator = torch.Generator().manual_seed(seed)
    parts = {f"part/{i}": torch.randn(1024, 1024, generator=generator) for i in range(4)}
    return {**parts, "half": torch.ones(3, dtype=torch.bfloat16), "steps": torch.tensor(seed), "rng": torch.arange(9)}


@pytest.fixture
def folder(tmp_path):
    for step in (3, 6):
        save_checkpoint(tmp_path, step, tensors(step))
    return tmp_path


def test_round_trip_is_exact(folder):
    checkpoint = latest_checkpoint(folder)
    assert checkpoint.step == 6 and checkpoint.tensors.keys() == tensors(6).keys()
    for name, tensor in tensors(6).items():
        assert torch.equal(checkpoint.tensors[name], tensor) and checkpoint.tensors[name].dtype == tensor.dtype
    shards = list((folder / "step-00000006").glob("*.safetensors"))
    assert len(shards) == 2 and max(path.stat().st_size for path in shards) < 16 * 2**20


def test_tensors_of_any_layout_are_kept(tmp_path):
    image = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    save_checkpoint(tmp_path, 1, {"image": image, "slice": image[:, ::2]})
    kept = latest_checkpoint(tmp_path).tensors
    assert torch.equal(kept["image"], image) and torch.equal(kept["slice"], image[:, ::2])


def test_nothing_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "missing") is None


def test_the_newest_are_kept(folder):
    save_checkpoint(folder, 12, tensors(12))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000006", "step-00000012"]


def test_remains_of_a_killed_process_are_cleared(folder):
    (folder / ".tmp-12345678-step-00000009").mkdir()
    assert latest_checkpoint(folder).step == 6
    save_checkpoint(folder, 9, tensors(9))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000006", "step-00000009"]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "cut state", "no state", "empty state", "other state"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(folder, caplog, damage):
    newest = folder / "step-00000006"
    shard, state = sorted(newest.glob("*.safetensors"))[1], newest / "state.json"
    data = shard.read_bytes()
    match damage:
        case "cut":
            shard.write_bytes(data[: len(data) // 2])
        case "changed":
            shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "missing":
            shard.unlink()
        case "cut state":
            state.write_text(state.read_text()[:20])
        case "no state":
            state.unlink()
        case "empty state":
            state.write_text("{}")
        case "other state":
            state.write_text(json.dumps(["step", 6]))
    with caplog.at_level(logging.WARNING):
        checkpoint = latest_checkpoint(folder)
    assert checkpoint.step == 3 and torch.equal(checkpoint.tensors["part/0"], tensors(3)["part/0"])
    assert "step-00000006" in caplog.text
    if damage in ("cut", "changed", "missing"):
        assert shard.name in caplog.text


def test_saving_over_a_broken_one_mends_it(folder):
    for shard in (folder / "step-00000006").glob("*.safetensors"):
        shard.write_bytes(b"")
    save_checkpoint(folder, 6, tensors(7))
    assert latest_checkpoint(folder).tensors["steps"] == 7


def test_none_whole_is_none(folder, caplog):
    for path in folder.glob("*/state.json"):
        path.unlink()
    assert latest_checkpoint(folder) is None
    assert caplog.text.count("broken") == 2
