"""The status of a call as Prometheus metrics, on this machine only."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import UserError
from pipeline.store.status import RunStatus

HOST = "127.0.0.1"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METRICS: tuple[tuple[str, str, str, Callable[[RunStatus], float]], ...] = (
    ("images_done_total", "counter", "Images with a row from this call, failed ones included.", lambda run: run.done),
    ("images_failed_total", "counter", "Images of this call that failed.", lambda run: run.failed),
    ("images_todo", "gauge", "Images to label in this call, as far as listed.", lambda run: run.todo),
    ("images_listed", "gauge", "Images found so far.", lambda run: run.listed),
    ("images_per_second", "gauge", "Images a second over the last minute.", lambda run: run.rate),
    ("workers", "gauge", "Worker processes, those that load among them.", lambda run: len(run.workers)),
    ("workers_ready", "gauge", "Worker processes that have loaded the models.", lambda run: _ready(run)),
    ("images_in_hand", "gauge", "Images at the workers.", lambda run: sum(one.images for one in run.workers)),
    ("worker_deaths_total", "counter", "Workers that died in this call.", lambda run: run.deaths),
    (
        "last_error_timestamp_seconds",
        "gauge",
        "When an image failed or a worker died last.",
        lambda run: run.error_time,
    ),
    ("updated_timestamp_seconds", "gauge", "When these numbers were taken.", lambda run: run.updated),
)
"""Name without its prefix, kind, what it is, and its value."""


def _ready(run: RunStatus) -> int:
    return sum(worker.pid != 0 for worker in run.workers)


def render(status: RunStatus) -> str:
    """Return a status in Prometheus' text format."""
    lines = []
    for name, kind, text, read in _METRICS:
        lines += [f"# HELP groundlabel_{name} {text}", f"# TYPE groundlabel_{name} {kind}"]
        lines.append(f"groundlabel_{name} {read(status):.15g}")
    return "\n".join(lines) + "\n"


@contextmanager
def serve_metrics(port: int | None, read: Callable[[], RunStatus]) -> Iterator[None]:
    """Serve metrics at http://127.0.0.1:port/metrics while the context lasts.

    Args:
        port: None serves nothing.
        read: Returns the status as it is.

    Raises:
        UserError: The port cannot be had.
    """
    if port is None:
        yield
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "metrics are at /metrics")
                return
            body = render(read()).encode()
            self.send_response(200)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Leave the terminal to the progress."""

    try:
        server = http.server.ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"--metrics-port {port}: cannot be used ({error.strerror}); give another one") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
