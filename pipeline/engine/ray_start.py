"""Ray for a run: one of our own on this machine, or a cluster that is joined."""

import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.exceptions import AuthenticationError

from pipeline.engine.cluster import describe_openness
from pipeline.errors import UserError

START_ATTEMPTS = 3
_NODE_SECONDS = 120.0
_NODE_POLL_SECONDS = 0.1
_get_node: Any = ray._private.services.get_node
_OBJECT_STORE_BYTES = 100 * 1024**2
_TOKEN_SETTINGS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def start_ray(cpus: int) -> None:
    """Start a Ray of our own on this machine, without dashboard and logs; it ends with `ray.shutdown()`.

    Args:
        cpus: Workers that may run at once; Ray starts as many processes ahead.

    Raises:
        UserError: The machine is too busy for Ray to start in time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    make_token()
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with lean_nodes():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            break
        except Exception as error:
            # A bare Exception, when Ray's own processes got too little CPU time to come up: its limits are fixed.
            if "timed out during startup" not in str(error):
                raise
            kill_half_started(error)
            if attempt == START_ATTEMPTS:
                raise UserError(
                    f"Ray did not start in {START_ATTEMPTS} attempts; this machine is too busy with other programs. "
                    "Everything written so far is kept: run the same command again later"
                ) from error
    _quiet_ray()
    _warn_if_open()


class _LeanNode(ray._private.node.Node):
    """A node without API server, autoscaler and log reader: nobody would ask them, and Ray waits for the first.

    Each is a Python process that takes about a second of the processor to start.
    """

    def start_api_server(self, **_: Any) -> None:
        """Start nothing."""

    def start_monitor(self) -> None:
        """Start nothing."""

    def start_log_monitor(self) -> None:
        """Start nothing."""


def _await_node(gcs_address: str, node_id: str) -> dict[str, Any]:
    """Return what Ray says of a node once it is there; by itself Ray gives up sooner than a busy machine is ready."""
    deadline = time.monotonic() + _NODE_SECONDS
    while True:
        try:
            node: dict[str, Any] = _get_node(gcs_address, node_id)
            return node
        except RuntimeError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_NODE_POLL_SECONDS)


@contextmanager
def lean_nodes() -> Iterator[None]:
    """Let Ray start nodes patiently and without the dashboard's helpers, as one installed without its packages does."""
    replaced: tuple[tuple[Any, str, Any], ...] = (
        (ray._private.node, "Node", _LeanNode),
        (ray._private.utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted")),
        (ray._private.services, "get_node", _await_node),
    )
    kept = [getattr(module, name) for module, name, _ in replaced]
    try:
        for module, name, value in replaced:
            setattr(module, name, value)
        yield
    finally:
        for (module, name, _), value in zip(replaced, kept, strict=True):
            setattr(module, name, value)


def make_token() -> None:
    """Make a token of this process for a Ray that it starts, unless the environment names one.

    Ray's ports are open to the network, and its own token is in a file that other users may be able to read.
    """
    if not any(name in os.environ for name in _TOKEN_SETTINGS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def join_ray(address: str) -> None:
    """Join a cluster as its driver; `ray.shutdown()` leaves it.

    Args:
        address: "auto", "host:port" or "ray://host:port".

    Raises:
        UserError: It cannot be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {address}: the cluster cannot be joined ({str(error).strip().splitlines()[0]}). It must run "
            f"Ray {ray.__version__} on Python {sys.version_info.major}.{sys.version_info.minor}, and where it asks for "
            "a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH must name the same one here"
        ) from error
    _quiet_ray()
    _warn_if_open()


def _quiet_ray() -> None:
    """Keep Ray from printing a paragraph on stdout for each worker that dies; the engine deals with those."""
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def _warn_if_open() -> None:
    addresses = [node["NodeManagerAddress"] for node in living_nodes()]
    warn(describe_openness(addresses, is_token_auth_enabled()))


def kill_half_started(error: Exception) -> None:
    """End the processes of a Ray node that did not come up; only the failed constructor's frame still knows them."""
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, ray._private.node.Node):
            owner.kill_all_processes(check_alive=False, allow_graceful=False)
        trace = trace.tb_next


def living_nodes() -> list[dict[str, Any]]:
    """Return what Ray says of the nodes that it has now."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def warn(text: str) -> None:
    """Print a warning; nothing for an empty one."""
    if text:
        print(f"groundlabel: warning: {text}", file=sys.stderr, flush=True)
