"""The Croissant description of an export: what MLCommons' tools and dataset searches read.

Source: the Croissant Format Specification 1.0, MLCommons.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_ENCODINGS = {
    ".json": "application/json",
    ".gz": "application/gzip",
    ".tar": "application/x-tar",
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".md": "text/markdown",
}
_COCO_FILE = "annotations.json"
_COCO_RECORDS = "annotations"
_COCO_FIELDS = {
    "id": "sc:Integer",
    "image_id": "sc:Integer",
    "category_id": "sc:Integer",
    "area": "sc:Float",
    "iscrowd": "sc:Integer",
}
"""Of the annotations alone: mlcroissant reads all record sets of a JSON file as columns of one length."""


def croissant(facts: Mapping[str, Any], files: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Any]:
    """Return the description as JSON-LD.

    Args:
        facts: Of `datasheet_values`.
        files: Name -> SHA-256 of the files at the top of the export.
        folders: Folders there.
    """
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts["labels_from"],
        "description": (
            f"{facts['images']} images with {facts['objects']} labelled objects of {len(facts['classes'])} classes, "
            f"exported by groundlabel as {facts['format']}"
        ),
        "conformsTo": CONFORMS_TO,
        "keywords": [row["name"] for row in facts["classes"]],
        "distribution": [*(_file_object(name, digest) for name, digest in files.items()), *map(_file_set, folders)],
    }
    if "licence" in facts:
        described["license"] = facts["licence"]
    if facts["format"].startswith("coco") and _COCO_FILE in files:
        described["recordSet"] = [_coco_records()]
    return described


def _file_object(name: str, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": _ENCODINGS.get(Path(name).suffix, "application/octet-stream"),
        "sha256": digest,
    }


def _file_set(folder: Path) -> dict[str, Any]:
    endings = sorted({path.suffix.lower() for path in folder.rglob("*") if not path.is_dir()})
    return {
        "@type": "cr:FileSet",
        "@id": f"{folder.name}/",
        "name": folder.name,
        "encodingFormat": _ENCODINGS.get(endings[0], "image/*") if len(endings) == 1 else "application/octet-stream",
        "includes": f"{folder.name}/**",
    }


def _coco_records() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": _COCO_RECORDS,
        "name": _COCO_RECORDS,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{_COCO_RECORDS}/{name}",
                "name": name,
                "dataType": kind,
                "source": {
                    "fileObject": {"@id": _COCO_FILE},
                    "extract": {"jsonPath": f"$.{_COCO_RECORDS}[*].{name}"},
                },
            }
            for name, kind in _COCO_FIELDS.items()
        ],
    }
