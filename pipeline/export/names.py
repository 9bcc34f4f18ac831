"""Names for an export's files, such that no two images meet in one label file."""

from pathlib import PurePosixPath

from pipeline.errors import UserError


class FileNames:
    """Gives each image a path whose stem no other image has, for formats with a label file an image.

    Images keep their paths. Where `a.jpg` and `a.png` lie in one folder, both would be labelled by `a.txt`: the second
    one becomes `a-<its id>.png`. Sub-folders stay, so the same name in two folders is no problem.

    Paths must come in sorted order, as `Labels.records` yields them: then only those that can still meet the next one
    are remembered.
    """

    def __init__(self) -> None:
        self._stems: list[str] = []
        self._last = ""
        self.renamed: list[tuple[str, str]] = []
        """(path, its new path) of each image that was renamed."""

    def unique(self, path: str, image_id: str) -> str:
        """Return the path to use for an image.

        Raises:
            UserError: The path leads out of a folder.
            ValueError: The path comes before the last one.
        """
        check_inside(path)
        if path < self._last:
            raise ValueError(f"{path!r} comes after {self._last!r}: labels must be in the order of their paths")
        self._last = path
        self._stems = [stem for stem in self._stems if path.startswith(f"{stem}.")]
        pure = PurePosixPath(path)
        stem = str(pure.with_suffix(""))
        if stem in self._stems:
            renamed = str(pure.with_name(f"{pure.stem}-{image_id}{pure.suffix}"))
            self.renamed.append((path, renamed))
            return renamed
        self._stems.append(stem)
        return path


def check_inside(path: str) -> None:
    """Refuse a path that leads out of the folder it is put into.

    Raises:
        UserError: It is absolute or has "..".
    """
    pure = PurePosixPath(path)
    if ".." in pure.parts or pure.is_absolute():
        raise UserError(f"{path!r} leads out of the export's folder; export with --images none")
