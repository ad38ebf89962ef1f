"""Uploading: no blank card, nothing of credentialed data in public unless told."""

import shutil

import pytest

from synthcxr.errors import ModelError
from synthcxr.model.push import PushConfig, check, run

OPEN, CLOSED = "CC BY 3.0", "PhysioNet Credentialed Health Data License 1.5.0"


@pytest.fixture
def folder(tmp_path, tiny_model):
    def written(*licences: str, card: str = "# m\n\n- licence of the weights: CC BY 4.0\n"):
        import json

        target = tmp_path / "model"
        shutil.copytree(tiny_model, target, dirs_exist_ok=True)
        info = json.loads((target / "synthcxr.json").read_text())
        (target / "synthcxr.json").write_text(json.dumps(info | {"data_licences": licences or None}))
        (target / "README.md").write_text(card)
        return target

    return written


def test_open_data_may_be_public(folder):
    check(PushConfig(model=folder(OPEN), repository="a/b", public=True))


@pytest.mark.parametrize("licences", [(OPEN, CLOSED), (CLOSED,), ("not stated",), ()])
def test_other_data_is_refused_in_public_unless_told(folder, licences):
    model = folder(*licences)
    with pytest.raises(ModelError, match="derived_from_credentialed=true"):
        run(PushConfig(model=model, repository="a/b", public=True))
    check(PushConfig(model=model, repository="a/b"))
    check(PushConfig(model=model, repository="a/b", public=True, derived_from_credentialed=True))


@pytest.mark.parametrize("blank", ["unknown", "", "TODO"])
def test_a_blank_card_is_refused(folder, blank):
    with pytest.raises(ModelError, match="licence of the weights"):
        check(PushConfig(model=folder(OPEN, card=f"# m\n\n- licence of the weights: {blank}\n"), repository="a/b"))


def test_uploads_the_folder_to_a_private_repository(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    class Hub:
        def create_repo(self, name, private, exist_ok):
            asked["private"] = private
            return f"https://hub/{name}"

        def model_info(self, name):
            return type("Info", (), {"private": True})

        def upload_folder(self, repo_id, folder_path, commit_message):
            asked["folder"] = folder_path

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    model = folder(CLOSED)
    assert run(PushConfig(model=model, repository="a/b")) == "https://hub/a/b"
    assert asked == {"private": True, "folder": model}
