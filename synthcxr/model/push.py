"""Uploading a MODEL folder: a card without blanks, and no public repository for what isn't open data's."""

import re
from pathlib import Path

from pydantic import Field

from synthcxr.config import Config
from synthcxr.errors import ModelError, shown
from synthcxr.model.folder import INFO, ModelInfo, read_info

# Licences that let anyone have what was made of the data; all others ask for a signature, or say nothing or no.
OPEN = re.compile(r"^(CC0|CC BY(?!.*ND)|NIH Clinical Center)")
BLANK = re.compile(r"^- ([^:]+): *(unknown|none|\?|TODO|)$", re.MULTILINE | re.IGNORECASE)


class PushConfig(Config):
    """What `synthcxr push-to-hub` needs; the token is that of `hf auth login`."""

    model: Path = Field(description="MODEL folder")
    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    public: bool = Field(False, description="anyone may download it")
    derived_from_credentialed: bool = Field(
        False, description="make it public although the data is credentialed: you checked that its terms allow it"
    )


def closed_licences(info: ModelInfo) -> list[str]:
    """The licences of its training data that aren't open; one line where they aren't known at all."""
    if info.data_licences is None:
        return ["licences of the training data that aren't known"]
    return [licence for licence in info.data_licences if not OPEN.search(licence)]


def check(config: PushConfig) -> ModelInfo:
    """What may be uploaded.

    Raises:
        ModelError: no MODEL folder, a card with a blank field, or a public repository for data that isn't open.
    """
    info = read_info(config.model)
    card = config.model / "README.md"
    if info is None or not card.is_file():
        raise ModelError(f"{shown(config.model)} lacks {INFO} or its card; give a folder that `synthcxr train` wrote")
    if blank := BLANK.search(card.read_text(encoding="utf-8")):
        raise ModelError(f"{shown(card)}: {blank[1]!r} is blank; fill it in, or train with licence=...")
    closed = closed_licences(info)
    if config.public and closed and not config.derived_from_credentialed:
        raise ModelError(
            f"{shown(config.model)} was trained under {closed[0]}: it may hold what was shown to signatories alone; "
            "leave out public=true, or give derived_from_credentialed=true where the terms allow it"
        )
    return info


def run(config: PushConfig) -> str:
    """Upload the folder in one commit; returns the repository's address.

    Raises:
        ModelError: as `check` does; or the hub refuses.
    """
    check(config)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(config.repository, private=not config.public, exist_ok=True)
        if config.public is False and not api.model_info(config.repository).private:
            raise ModelError(f"{config.repository} is there already, and public; give another, or public=true")
        api.upload_folder(repo_id=config.repository, folder_path=config.model, commit_message="Model of synthcxr")
    except (HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{config.repository} can't be written ({reason}); check the name, the login, the network"
        ) from error
    return str(address)
