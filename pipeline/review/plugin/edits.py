"""Changes of labels and tags that an operator makes, written with a journal by which they can be taken back.

The journal is a collection of our own beside FiftyOne's, under the dataset's id. It is written before the labels: a
step that was cut off is taken back as far as it came.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.review.documents import signature
from pipeline.review.ingest import only_writer
from pipeline.review.schema import POLYGONS
from pipeline.review.written import note_line

_JOURNAL = "groundlabel.undo"
_STEPS_KEPT = 50
_EDITS_A_ROW = 20
_CHUNK = 200

Document = dict[str, Any]


@dataclass(frozen=True)
class LabelEdit:
    """One label that is replaced, added or taken away.

    Attributes:
        sample_id: `bson.ObjectId` of its sample.
        field: Name of the label field.
        before: As MongoDB has it; None where the label is new.
        after: As it shall be; None where it goes.
        noted: The change is no person's: it is noted as written by us, so that no sync takes it for a correction.
    """

    sample_id: Any
    field: str
    before: Document | None
    after: Document | None
    noted: bool = False


@dataclass(frozen=True)
class TagsEdit:
    """Tags that a sample gets and loses; those that it has or lacks already are not in here."""

    sample_id: Any
    added: tuple[str, ...]
    removed: tuple[str, ...]


Edit = LabelEdit | TagsEdit


@dataclass(frozen=True)
class Undone:
    """What an undo did.

    Attributes:
        title: Of the step that was taken back.
        edits: Changes that were taken back.
        left: Changes that were left, because somebody changed the same label since.
    """

    title: str
    edits: int
    left: int


def list_key(field: str) -> str:
    """Return the key under which a label field keeps its list."""
    return f"{field}.{'polylines' if field == POLYGONS else 'detections'}"


def retagged(document: Document, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Document:
    """Return a stored label with other tags; the order of those that stay is kept."""
    tags = [tag for tag in document.get("tags") or () if tag not in {*remove}]
    return {**document, "tags": [*tags, *(tag for tag in add if tag not in tags)]}


def tags_edit(sample: Mapping[str, Any], add: Iterable[str] = (), remove: Iterable[str] = ()) -> TagsEdit | None:
    """Return the change that gives tags to a stored sample and takes others; None where nothing changes."""
    present = {*(sample.get("tags") or ())}
    added, removed = tuple(sorted({*add} - present)), tuple(sorted({*remove} & present))
    return TagsEdit(sample["_id"], added, removed) if added or removed else None


def apply_edits(dataset: Any, title: str, edits: Sequence[Edit], view: Any = None) -> int:
    """Write changes as one step that `undo_last` takes back.

    Args:
        dataset: A FiftyOne dataset of a run.
        title: What was done, for the person who takes it back.
        edits: At most one a label; N may be 0, and then there is no step.
        view: What the App shows; single objects in a patches view are copies, which change along.

    Returns:
        How many changes there were.
    """
    if edits:
        with only_writer(dataset.name):
            _journal(dataset, title, edits)
            _write(dataset, edits)
            _mirror(view, edits)
    return len(edits)


def undo_last(dataset: Any, view: Any = None) -> Undone | None:
    """Take the last step back; a label that was changed again since is left as it is.

    Args:
        dataset: A FiftyOne dataset of a run.
        view: As for `apply_edits`.

    Returns:
        None where there is nothing to take back.
    """
    with only_writer(dataset.name):
        rows = _rows_of_last(dataset)
        if not rows:
            return None
        edits = [_reverse(_edit_from(row)) for part in rows for row in part["edits"]]
        possible = [edit for edit in edits if _still_applies(dataset, edit)]
        _write(dataset, possible)
        _mirror(view, possible)
        _collection().delete_many({"_id": {"$in": [row["_id"] for row in rows]}})
        return Undone(rows[0]["title"], len(possible), len(edits) - len(possible))


def _collection() -> Any:
    import fiftyone.core.odm as foo

    return foo.get_db_conn()[_JOURNAL]


def _rows_of_last(dataset: Any) -> list[Document]:
    key = {"dataset": dataset._doc.id}
    last = _collection().find_one(key, sort=[("step", -1)])
    return [] if last is None else [*_collection().find({**key, "step": last["step"]}).sort("part", 1)]


def _journal(dataset: Any, title: str, edits: Sequence[Edit]) -> None:
    rows = _rows_of_last(dataset)
    step = rows[0]["step"] + 1 if rows else 1
    key = {"dataset": dataset._doc.id, "step": step, "title": title, "time": datetime.now(UTC)}
    parts = [edits[start : start + _EDITS_A_ROW] for start in range(0, len(edits), _EDITS_A_ROW)]
    _collection().insert_many(
        [{**key, "part": number, "edits": [_edit_to(edit) for edit in part]} for number, part in enumerate(parts)]
    )
    _collection().delete_many({"dataset": dataset._doc.id, "step": {"$lte": step - _STEPS_KEPT}})


def _edit_to(edit: Edit) -> Document:
    if isinstance(edit, TagsEdit):
        return {"sample_id": edit.sample_id, "added": list(edit.added), "removed": list(edit.removed)}
    names = ("sample_id", "field", "before", "after", "noted")
    return {name: getattr(edit, name) for name in names}


def _edit_from(row: Document) -> Edit:
    if "added" in row:
        return TagsEdit(row["sample_id"], tuple(row["added"]), tuple(row["removed"]))
    return LabelEdit(**row)


def _reverse(edit: Edit) -> Edit:
    if isinstance(edit, TagsEdit):
        return TagsEdit(edit.sample_id, edit.removed, edit.added)
    return LabelEdit(edit.sample_id, edit.field, edit.after, edit.before, edit.noted)


def _still_applies(dataset: Any, edit: Edit) -> bool:
    """Say whether a label is as a reversed change expects it."""
    if isinstance(edit, TagsEdit):
        return True
    found = dataset._sample_collection.find_one({"_id": edit.sample_id}, {edit.field: 1})
    if found is None:
        return False
    if edit.before is None:
        return True
    name, key = list_key(edit.field).split(".")
    labels = (found.get(name) or {}).get(key) or ()
    now = next((label for label in labels if label["_id"] == edit.before["_id"]), None)
    return now is not None and signature(now) == signature(edit.before)


def _write(dataset: Any, edits: Sequence[Edit]) -> None:
    from pymongo import UpdateMany

    new = {(edit.field, edit.sample_id) for edit in edits if isinstance(edit, LabelEdit) and edit.before is None}
    for field in {field for field, _ in new}:
        ids = [sample_id for name, sample_id in new if name == field]
        kind = "Polylines" if field == POLYGONS else "Detections"
        empty = {"_cls": kind, list_key(field).split(".")[1]: []}
        dataset._bulk_write([UpdateMany({"_id": {"$in": ids}, field: None}, {"$set": {field: empty}})])
    for start in range(0, len(edits), _CHUNK):
        part = edits[start : start + _CHUNK]
        operations = [operation for edit in part for operation in _operations(edit)]
        dataset._bulk_write(operations, ids=sorted({str(edit.sample_id) for edit in part}), ordered=True)


def _operations(edit: Edit) -> list[Any]:
    from pymongo import UpdateOne

    this: Document = {"_id": edit.sample_id}
    now: Document = {"last_modified_at": datetime.now(UTC)}
    if isinstance(edit, TagsEdit):
        changes: list[Document] = [
            {"$pullAll": {"tags": list(edit.removed)}},
            {"$addToSet": {"tags": {"$each": list(edit.added)}}},
        ]
        return [UpdateOne(this, {**change, "$set": now}) for change in changes]
    path, note = list_key(edit.field), f"written.{edit.field}"
    pulls: Document = {}
    pushes: Document = {}
    operations = []
    if edit.after is None and edit.before is not None:
        pulls[path] = {"_id": edit.before["_id"]}
    elif edit.before is None and edit.after is not None:
        pushes[path] = edit.after
    elif edit.after is not None:
        change = {"$set": {f"{path}.$[label]": edit.after, **now}}
        operations.append(UpdateOne(this, change, array_filters=[{"label._id": edit.after["_id"]}]))
    if edit.noted:
        pulls |= {note: note_line(edit.before)} if edit.before is not None else {}
        pushes |= {note: note_line(edit.after)} if edit.after is not None else {}
    operations += [UpdateOne(this, {"$pull": pulls, "$set": now})] if pulls else []
    operations += [UpdateOne(this, {"$push": pushes, "$set": now})] if pushes else []
    return operations


def _mirror(view: Any, edits: Sequence[Edit]) -> None:
    """Change the copies of labels that a patches view holds."""
    if view is None or not view._is_patches:
        return
    from pymongo import UpdateMany

    operations = [
        UpdateMany({f"{edit.field}._id": edit.after["_id"]}, {"$set": {edit.field: edit.after}})
        for edit in edits
        if isinstance(edit, LabelEdit) and edit.after is not None and edit.field in view._label_fields
    ]
    if operations:
        view._dataset._bulk_write(operations)
