"""Where FiftyOne's server finds our plugin beside the user's own: a folder of links, so that nobody's files change."""

import os
from pathlib import Path

from pipeline.errors import UserError
from pipeline.review.mongod import cache_folder

PLUGINS_VARIABLE = "FIFTYONE_PLUGINS_DIR"
_PLUGIN = Path(__file__).parent / "plugin"
_OURS = "groundlabel"
_USERS = "yours"


def link_plugins(users_folder: str | None) -> Path:
    """Make the folder that FiftyOne shall look for plugins in, with ours and the user's.

    FiftyOne looks in one folder only, and follows links in it. What the user installs or disables with FiftyOne's own
    commands stays in the folder that it is in.

    Args:
        users_folder: Where FiftyOne would look by itself; it need not exist.

    Returns:
        The folder, in groundlabel's cache.

    Raises:
        UserError: The cache cannot be written.
    """
    folder = cache_folder() / "plugins"
    links = {_OURS: _PLUGIN}
    if users_folder and not folder.resolve().is_relative_to(Path(users_folder).resolve()):  # else links make a circle
        links[_USERS] = Path(users_folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in links.items():
            _link(folder / name, target)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}; set XDG_CACHE_HOME to a folder of yours") from error
    return folder


def _link(link: Path, target: Path) -> None:
    """Have a link point somewhere, without a moment in which another process finds none."""
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    os.replace(partial, link)
