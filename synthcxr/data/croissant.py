"""Croissant metadata (MLCommons Croissant 1.0 with its RAI terms): what catalogues and loaders read of a folder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import read_csv
from pyarrow.json import read_json

from synthcxr.images import DIGITAL_SOURCE_TYPE

CROISSANT = "croissant.json"
_TERMS = (
    "citeAs column dataType equivalentProperty examples data extract field fileProperty fileObject fileSet format "
    "includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform"
).split()
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    **{term: f"cr:{term}" for term in _TERMS},
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
}


@dataclass(frozen=True)
class Files:
    """Files of one kind in a folder: a pattern of their names, and their MIME type."""

    includes: str
    encoding: str


DATASET_TABLE = Files("manifest.parquet", "application/x-parquet")
DATASET_IMAGES = Files("shards/*.tar", "application/x-tar")


def croissant(
    name: str, info: Mapping[str, Any], table: pa.Table, tables: Files, images: Files, columns: Sequence[pa.Field]
) -> dict[str, Any]:
    """What `croissant.json` says. It names no date of publication: whoever publishes adds `datePublished`.

    Args:
        info: what dataset.json says.
        table: the manifest.
        tables: the files that have a row an image.
        images: the files that the images are in; the same as `tables` where one table holds both.
        columns: of the tables.
    """
    digest = info["manifest_sha256"]
    kinds = {"tables": tables, "images": images} if images != tables else {"tables": tables}
    synthetic = info["origin"] == "synthetic"
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name,
        "description": f"{table.num_rows} chest radiographs ({info['origin']}). Not for diagnosis.",
        "license": sorted(set(table.column("licence").to_pylist())) or ["none: no image"],
        "creator": [
            {"@type": "Organization", "name": source}
            for source in sorted(set(table.column("source").to_pylist())) or ["none: no image"]
        ],
        "version": f"{info['schema_version']}.0.0",
        "citeAs": f"{name}: chest radiographs ({info['origin']}), manifest sha256 {digest}",
        "keywords": ["chest radiograph", info["origin"]],
        "rai:dataCollectionType": ["Synthetic"] if synthetic else ["Secondary Data analysis"],
        "rai:dataCollection": f"generated: {DIGITAL_SOURCE_TYPE}" if synthetic else "as the sources in `creator` say",
        "rai:dataLimitations": ["Not for diagnosis. Findings are those asked for or published, not confirmed by hand."],
        "rai:dataUseCases": ["Research on radiograph models: training, validation, testing"],
        "rai:personalSensitiveInformation": ["Age", "Gender", "Race", "Health data"],
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": kind,
                "name": kind,
                "encodingFormat": files.encoding,
                "includes": files.includes,
            }
            for kind, files in kinds.items()
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "records",
                "name": "records",
                "description": "one an image",
                "field": [_field(column) for column in columns],
            }
        ],
    }


def columns_of(table: Path) -> list[pa.Field]:
    """The columns of a Parquet, CSV or JSON-lines table, but for those that hold tables of their own."""
    if table.suffix == ".parquet":
        schema = pq.read_schema(table)
    else:
        schema = (read_csv(table) if table.suffix == ".csv" else read_json(table)).schema
    return [column for column in schema if not pa.types.is_nested(column.type)]


def _field(column: pa.Field) -> dict[str, Any]:
    # An identifier takes neither blanks nor brackets, which NIH's headers have.
    identifier = re.sub(r"[^A-Za-z0-9_-]+", "_", column.name).strip("_")
    return {
        "@type": "cr:Field",
        "@id": f"records/{identifier}",
        "name": column.name,
        "dataType": _type(column.type),
        "source": {"fileSet": {"@id": "tables"}, "extract": {"column": column.name}},
    }


def _type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    if pa.types.is_string(kind) or pa.types.is_null(kind):
        return "sc:Text"
    raise ValueError(f"a column of {kind} has no type in Croissant")
