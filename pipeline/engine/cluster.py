"""Where workers run: a Ray of our own on this machine, or a cluster whose nodes share the run's folder.

Knows no Ray: `actors` asks it what to look at on each node, and what to say of what was seen there.
"""

import ipaddress
import math
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.durable import TEMPORARY
from pipeline.store.writer import package_version

CLIENT_SCHEME = "ray://"
_OWN = ("", "local")
_SEEN_SECONDS = 10.0
"""A network file system may show a new file to other hosts this much later."""
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Place:
    """Where workers run and what each of them takes.

    Attributes:
        address: Of the cluster to join: "auto", "host:port" or "ray://host:port"; empty for a Ray of our own here.
        gpus_per_worker: GPUs, also a part of one; None means one, or an even share where there are more workers.
        resources: What else a worker takes, by Ray's names.
    """

    address: str = ""
    gpus_per_worker: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def joined(self) -> bool:
        """Workers run on somebody's cluster."""
        return self.address not in _OWN

    @property
    def through_client(self) -> bool:
        """The driver may be no part of the cluster's network."""
        return self.address.startswith(CLIENT_SCHEME)

    def needs(self, gpus_each: float) -> dict[str, float]:
        """Return what a node must have for one worker."""
        return {"CPU": 1.0, **({"GPU": gpus_each} if gpus_each else {}), **self.resources}

    def gpu_share(self, workers: int, gpus: float) -> float:
        """Return the GPUs of each of some workers; with fewer GPUs than workers a part that divides each GPU evenly.

        Args:
            workers: At least 1.
            gpus: That there are, may be 0.
        """
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return 1.0 / math.ceil(workers / gpus) if gpus > 0 else 0.0

    def count_workers(self, nodes: Iterable[Mapping[str, float]], use_gpu: bool) -> int:
        """Return how many workers to start where nobody says: one a GPU or its part, else one, or one a fitting node.

        Args:
            nodes: What each node has.
            use_gpu: GPUs may be used.
        """
        found = list(nodes)
        share = (self.gpus_per_worker or 1.0) if use_gpu else 0.0
        with_gpu = [node for node in found if share and fits(node, self.needs(share))]
        if with_gpu:
            return sum(self._room(node, self.needs(share)) for node in with_gpu)
        return max(sum(fits(node, self.needs(0)) for node in found), 1) if self.joined else 1

    @staticmethod
    def _room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
        return int(min((node.get(name, 0) + 1e-6) // amount for name, amount in needs.items()))


def fits(node: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    """Tell whether a node has what a worker needs."""
    return all(node.get(name, 0) >= amount for name, amount in needs.items())


def parse_resources(text: str) -> dict[str, float]:
    """Read "name=amount,name=amount".

    Raises:
        UserError: It is something else, or names what other options set.
    """
    found: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, amount = (word.strip() for word in part.partition("="))
        try:
            value = float(amount)
        except ValueError:
            value = 0.0
        if not name or not 0 < value < float("inf"):
            raise UserError(f"--resources {text}: must be NAME=AMOUNT,… with amounts above 0, such as labeller=1")
        if name in ("CPU", "GPU", "memory"):
            raise UserError(f"--resources {text}: {name} is set by --gpus-per-worker and --workers")
        if value > 1 and value != int(value):
            raise UserError(f"--resources {text}: Ray takes amounts above 1 in whole numbers only")
        found[name] = value
    return found


@dataclass(frozen=True)
class Probe:
    """What every node must see.

    Attributes:
        folder: The run folder, as the driver sees it.
        name: Of the file in it.
        text: What the file holds.
        images_root: Folder of the images; empty where they are not files.
        entry: Something in that folder; empty where it holds nothing.
        version: Of groundlabel.
    """

    folder: str
    name: str
    text: str
    images_root: str
    entry: str
    version: str


@contextmanager
def leave_probe(run_folder: Path, images_root: str) -> Iterator[Probe]:
    """Write a file for the nodes to read into the run folder, and remove it at the end.

    Raises:
        OSError: The folder cannot be written.
    """
    text = secrets.token_hex(16)
    name = f"{TEMPORARY}probe-{os.uname().nodename}-{os.getpid()}"
    entry = ""
    if images_root:
        with os.scandir(images_root) as listing:
            entry = next((found.name for found in listing), "")
    (run_folder / name).write_text(text, encoding="ascii")
    try:
        yield Probe(str(run_folder), name, text, images_root, entry, package_version())
    finally:
        (run_folder / name).unlink(missing_ok=True)


def look(probe: Probe, patience: float = _SEEN_SECONDS) -> str:
    """Say what is wrong on this host, empty for nothing; runs on each node.

    Args:
        probe: What should be seen.
        patience: Seconds for which a file system may lag behind.
    """
    if package_version() != probe.version:
        return f"has groundlabel {package_version()}, not {probe.version}; install the same version on every node"
    deadline = time.monotonic() + patience
    while _read(Path(probe.folder) / probe.name) != probe.text:
        if time.monotonic() >= deadline:
            return (
                f"does not see the run folder {probe.folder} (a file that was just written there is not to be read); "
                "give an --output on storage that every node has under the same path"
            )
        time.sleep(min(0.5, patience))
    if not os.access(probe.folder, os.W_OK):
        return f"may not write to the run folder {probe.folder}; check its permissions for the cluster's user"
    if probe.images_root and not os.path.lexists(os.path.join(probe.images_root, probe.entry)):
        return (
            f"does not see the images in {probe.images_root}; "
            "put them on storage that every node has under the same path"
        )
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def check_sights(sights: Mapping[str, str]) -> None:
    """Refuse a cluster with a node that does not see what it must.

    Args:
        sights: What `look` said, by the node's name.

    Raises:
        UserError: Something is wrong on a node; names it.
    """
    wrong = [f"node {node} {sight}" for node, sight in sights.items() if sight]
    if wrong:
        rest = f" (and {len(wrong) - 1} more of {len(sights)} nodes)" if len(wrong) > 1 else ""
        raise UserError(f"the cluster cannot be used: {wrong[0]}{rest}")


def answers(host: str, port: int) -> bool:
    """Tell whether something listens there; a node that was lost a moment ago may still be listed as alive."""
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def describe_openness(addresses: Iterable[str], with_token: bool) -> str:
    """Return a warning where others can reach a Ray that asks for no token; empty where there is no need.

    Args:
        addresses: Of its nodes.
        with_token: It asks for a token.
    """
    outside = sorted({address for address in addresses if not _is_loopback(address)})
    if with_token or not outside:
        return ""
    return (
        f"Ray listens beyond this machine ({', '.join(outside[:3])}) and asks for no token: whoever reaches its ports "
        "can run programs as you. Set RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN_PATH on every node"
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def describe_waiting(nodes: Iterable[Mapping[str, Any]], needs: Mapping[str, float]) -> str:
    """Return a warning where no node fits a worker; empty where one does."""
    if any(fits(node, needs) for node in nodes):
        return ""
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in needs.items())
    return f"no node of the cluster has {wanted} for a worker; waiting until one is added"
