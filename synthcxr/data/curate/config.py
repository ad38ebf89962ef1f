"""What `synthcxr curate` needs; see configs/curate/."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from synthcxr.config import Config
from synthcxr.data.curate.columns import known_column
from synthcxr.data.record import Split

ColumnName = Annotated[str, AfterValidator(known_column)]


class NearConfig(Config):
    """Which images count as copies of each other."""

    max_distance: int = Field(10, ge=0, le=64, description="bits of 64 in which the perceptual hashes may differ")
    min_similarity: float = Field(0.9, gt=0, le=1, description="correlation of fine detail at 128 pixels")


class PruneConfig(Config):
    """How many images are kept, and which first."""

    share: float = Field(1 / 3, gt=0, le=1, description="of the images that aren't duplicates")
    clusters: int | None = Field(None, ge=1, description="none: one for 25 images; more make weights more even")
    rare: float = Field(0.02, ge=0, le=1, description="findings of a smaller share of the images are kept first, all")
    per_patient: int | None = Field(10, ge=1, description="most images of a patient; none: any number")


class BalanceConfig(Config):
    """Which columns are made independent of each other, two at a time."""

    pairs: tuple[tuple[ColumnName, ColumnName], ...] = Field(min_length=1, description="findings or columns")
    method: Literal["subsample", "weight"] = "subsample"
    margins: Literal["kept", "equal"] = Field("kept", description="shares of the levels: as they are, or all alike")


class CurateConfig(Config):
    """What `synthcxr curate` needs."""

    data: tuple[Path, ...] = Field(min_length=1, description="DATASET folders, which become one")
    output: Path
    exact: bool = Field(True, description="drop images with the pixels of another")
    near: NearConfig | None = Field(NearConfig(), description="drop altered copies; none: leave them")
    prune: PruneConfig | None = Field(None, description="keep what carries the information; {}: with the defaults")
    balance: BalanceConfig | None = Field(None, description="make columns independent")
    splits: tuple[Split, ...] = Field(
        ("train",), min_length=1, description="to prune and balance; the others lose their duplicates alone"
    )
    features: Literal["auto", "pixels", "classifier"] = Field(
        "auto", description="what pruning compares; auto: the model's classifier where it has one, else pixels"
    )
    model: str | None = Field(None, description="whose classifier: a folder or hub id; none: the embedded model")
    seed: int = 0
