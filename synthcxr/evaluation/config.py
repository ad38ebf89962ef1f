"""What `synthcxr evaluate` and `synthcxr audit` need; see configs/evaluate/ and configs/audit/."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from synthcxr.config import Config
from synthcxr.data.record import Split
from synthcxr.evaluation.feature_set import AuditSettings
from synthcxr.model.precision import Precision
from synthcxr.model.sampler import SamplerSettings

CACHE = Path("build/features")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


Folders = Annotated[tuple[Path, ...], BeforeValidator(_listed)]


class EvaluateConfig(Config):
    """What `synthcxr evaluate` needs."""

    real: Path = Field(description="DATASET of real images, of patients that no model was trained on")
    synthetic: Folders = Field(min_length=1, description="DATASET folders to judge; several are compared")
    train: Path | None = Field(None, description="DATASET that the model was trained on: shows what lies nearest in it")
    output: Path
    split: Split | None = Field("test", description="of the real images; none: all")
    train_split: Split | None = Field("train", description="of the training images; none: all")
    extractor: str = Field(
        "embedded",
        description="embedded (the model's classifier), pixels, xrv:WEIGHTS, rad-dino, or a transformers "
        "vision model by folder or hub id (owner/name@revision)",
    )
    model: str | None = Field(None, description="whose classifier judges: a folder or hub id; none: the embedded model")
    image_text: str | None = Field(
        None,
        description="tells how well a picture fits its words: a CLIPModel of transformers by folder or hub id "
        "(owner/name@revision); none: the model's own image-text model",
    )
    images: int = Field(2000, ge=10, description="of each dataset, at most, drawn at random")
    size: int = Field(256, ge=32, description="pixels a side that images are compared at, at most")
    least: int = Field(50, ge=12, description="images of a finding or group, of either kind; smaller ones are left out")
    replicates: int = Field(50, ge=10, description="half-samples behind an interval of fidelity")
    cache: Path = Field(CACHE, description="folder of features that were computed before")
    seed: int = 0


class AuditConfig(Config):
    """What `synthcxr audit` needs."""

    train: Folders = Field(min_length=1, description="DATASET that the model was trained on, or several: all of them")
    held_out: Folders = Field(
        min_length=1, description="DATASET with patients that it wasn't trained on, or several; may be the same folders"
    )
    synthetic: Path = Field(description="DATASET that the model made")
    output: Path
    model: str | None = Field(
        None,
        description="MODEL folder, hub id or embedded: adds its autoencoder's view, membership tests and the worst "
        "case; none: the pictures alone",
    )
    train_split: Split | None = Field("train", description="none: all images")
    held_out_split: Annotated[tuple[Split, ...], BeforeValidator(_listed)] | None = Field(
        ("test",), description="one or several, such as [validate, test]; none: all images"
    )
    per_patient: int = Field(
        5, ge=1, description="as the model was trained: by it and `train` its training images are known again"
    )
    bind: bool = Field(
        True, description="write the result into the model's synthcxr.json and card, where it is a folder"
    )
    images: int = Field(
        10_000, ge=100, description="held-out and synthetic ones, at most, drawn at random; training images all count"
    )
    planted: int = Field(200, ge=20, description="training images that are altered in each way, as a positive control")
    settings: AuditSettings = AuditSettings()
    search: Literal["blockwise", "faiss"] = Field(
        "blockwise",
        description="of nearest neighbours; faiss finds the same, sooner from some 10,000 images on",
    )
    membership_images: int = Field(200, ge=0, description="of trained-on and held-out patients each; 0: no such test")
    worst_prompts: int = Field(20, ge=0, description="training prompts that are generated from anew; 0: none")
    worst_seeds: int = Field(10, ge=1, description="pictures of each of these")
    sampler: SamplerSettings = Field(SamplerSettings(), description="of the worst case")
    precision: Precision = Field("float32", description="of the worst case; auto: bfloat16 where it's faster here")
    size: int = Field(256, ge=64, description="pixels a side that images are compared at, at most")
    cache: Path = Field(CACHE, description="folder of features that were computed before")
    seed: int = 0
