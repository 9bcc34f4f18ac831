"""Ray for a run: one of our own on this machine, or a cluster that is joined."""

import logging
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.exceptions import AuthenticationError

from pipeline.engine.cluster import CLIENT_SCHEME, describe_openness
from pipeline.errors import UserError

START_ATTEMPTS = 3
_NODE_SECONDS = 120.0
_NODE_POLL_SECONDS = 0.1
_get_node: Any = ray._private.services.get_node
_OBJECT_STORE_BYTES = 100 * 1024**2
_SERVER_FAILED = "Initialization failure from server"
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


@contextmanager
def own_ray(cpus: int) -> Iterator[None]:
    """Have a Ray of our own, for engines that work beside each other; one that is there already is used and stays.

    Args:
        cpus: Workers of all of them.

    Raises:
        UserError: As `start_ray`.
    """
    if ray.is_initialized():
        yield
        return
    start_ray(cpus)
    try:
        yield
    finally:
        ray.shutdown()


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
    if address.startswith(CLIENT_SCHEME) and find_spec("grpc") is None:
        raise UserError(f"--address {address}: needs the package grpcio: pip install 'ray[client]', on the head too")
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with warnings.catch_warnings(action="ignore"):  # what they say is in the error too
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
            # A busy head gives the process that serves a client a fixed time to come up, and may see it die.
            if _SERVER_FAILED not in str(error) or attempt == START_ATTEMPTS:
                raise _cannot_join(address, error) from error
    _quiet_ray()
    _warn_if_open()


def _cannot_join(address: str, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    cause = lines[-1] if lines[0].endswith(":") else lines[0]
    port = " The port is that of its client server, 10001 if nobody chose another."
    return UserError(
        f"--address {address}: the cluster cannot be joined ({cause})."
        f"{port if address.startswith(CLIENT_SCHEME) else ''} It must run Ray {ray.__version__} on Python "
        f"{sys.version_info.major}.{sys.version_info.minor}, and where it asks for a token, RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH must name the same one here"
    )


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
