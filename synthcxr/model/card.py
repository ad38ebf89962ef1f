"""Model cards."""

from collections import Counter
from collections.abc import Mapping, Sequence

from synthcxr.data.record import Record
from synthcxr.model.folder import ModelInfo


def model_card(info: ModelInfo) -> str:
    return f"# {info.name}\n"
