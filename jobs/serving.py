"""What the commands that serve the App have in common: how they end, and what they print of its address."""

import signal
from types import FrameType
from typing import NoReturn


def end_on_signals() -> None:
    """Have Ctrl-C, `kill` and a closed terminal end the command, also where a script started it in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks for that
        signal.signal(signal.SIGHUP, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave through all `with` blocks, which stop what they started."""
    raise SystemExit(128 + number)


def print_address(url: str, port: int) -> None:
    """Print where the App is, here and for a person at another machine."""
    print(f"FiftyOne App: {url}  (Ctrl-C ends it)")
    print(f"from another machine: ssh -N -L {port}:127.0.0.1:{port} USER@THIS-MACHINE", flush=True)
