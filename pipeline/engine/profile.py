"""Where the time of the workers went, and what bounds a run.

A worker labels as fast as the one thread that runs its models. So its time is shared out among what that thread did:
detect, segment, wait for images to be decoded, stand without a batch; the rest is grouping, hand-over and waiting for
the other batch to be written. Decoding, encoding and writing go on in other threads; their times are shown beside it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ALIVE, IDLE, WAIT, WRITE = "alive", "idle", "wait", "write"
"""Seconds of a worker since it was ready, of those without a batch, of the models' waiting for images, of writing."""
_BESIDE = ("decode", "encode", WRITE)
_BOUND = 0.6
"""Share of the time from which on something bounds the run alone."""


class WorkerClock:
    """Measures how long a worker lived and stood without a batch; several threads may work at once.

    Args:
        clock: Seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._active = 0
        self._told = self._resting_since = clock()
        self._idle = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of a batch as time with work."""
        with self._lock:
            if not self._active:
                self._idle += self._clock() - self._resting_since
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                self._resting_since = self._clock()

    def take(self) -> dict[str, float]:
        """Return the seconds alive and idle since the last call."""
        with self._lock:
            now = self._clock()
            taken = {ALIVE: round(now - self._told, 4), IDLE: round(self._idle, 4)}
            self._told, self._idle = now, 0.0
            return taken


@dataclass(frozen=True)
class Profile:
    """Where the time of the workers of one call went.

    Attributes:
        seconds: Of all workers together since they were ready.
        shares: Of that time, by what the models' threads did: detect, segment, waiting for images, without a batch,
            rest; they make 1.
        beside: What went on in other threads meanwhile, over the same time: decode, encode, write.
        images: Labelled in that time.
    """

    seconds: float
    shares: Mapping[str, float]
    beside: Mapping[str, float]
    images: int

    @classmethod
    def from_seconds(cls, seconds: Mapping[str, float], images: int) -> "Profile | None":
        """Make a profile from sums over shards; None where nothing was measured.

        Args:
            seconds: By stage, and by the names of this module.
            images: In those shards.
        """
        alive = seconds.get(ALIVE, 0.0)
        if alive <= 0 or not images:
            return None
        names = {"detect": "detect", "segment": "segment", WAIT: "waiting for images", IDLE: "without a batch"}
        shares = {shown: seconds.get(name, 0.0) / alive for name, shown in names.items()}
        total = max(sum(shares.values()), 1.0)
        shares = {name: share / total for name, share in shares.items()}
        shares["rest"] = 1.0 - sum(shares.values())
        return cls(alive, shares, {name: seconds.get(name, 0.0) / alive for name in _BESIDE}, images)

    @property
    def bound(self) -> str:
        """What bounds the run, in a sentence with what would help."""
        detect, segment = self.shares["detect"], self.shares["segment"]
        waiting, idle = self.shares["waiting for images"], self.shares["without a batch"]
        if detect + segment >= _BOUND:
            larger, share = ("detector", detect) if detect >= segment else ("segmenter", segment)
            return (
                f"The models bound the run: the {larger} alone takes {share:.0%} of the time. More or faster devices, "
                "a smaller model or fewer prompts would help; faster disks would not."
            )
        if waiting >= max(idle, self.shares["rest"]):
            return (
                f"Reading images bounds the run: the models waited for {waiting:.0%} of the time. Faster storage, "
                "smaller images or more processor cores a worker would help; a faster device would not."
            )
        if idle >= self.shares["rest"]:
            return (
                f"Handing out work bounds the run: workers stood without a batch for {idle:.0%} of the time. In a "
                "short run that is its beginning and end; in a long one, a slow listing or too many workers."
            )
        return (
            f"Nothing bounds the run alone: {detect + segment:.0%} of the time is the models', "
            f"{self.shares['rest']:.0%} went between the stages. More workers on the same device may help."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for summary.json."""
        return {
            "worker_seconds": round(self.seconds, 3),
            "images": self.images,
            "shares": {name: round(share, 4) for name, share in self.shares.items()},
            "beside": {name: round(share, 4) for name, share in self.beside.items()},
            "bound": self.bound,
        }


def describe_profile(profile: Mapping[str, Any]) -> list[str]:
    """Return the lines to show for what `Profile.to_dict` returned."""
    each = profile["worker_seconds"] / profile["images"]
    lines = [
        f"{profile['worker_seconds']:.1f} s of the workers for {profile['images']} images ({each:.3f} s an image):"
    ]
    lines += [f"  {share:6.1%}  {name}" for name, share in profile["shares"].items()]
    beside = ", ".join(f"{name} {share:.1%}" for name, share in profile["beside"].items())
    return [*lines, f"Beside that, in other threads: {beside}.", profile["bound"]]
