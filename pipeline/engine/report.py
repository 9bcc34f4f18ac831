"""What a call tells others: `status.json` while it works, the log at its beginning and end."""

import os
import socket
import time
from contextlib import suppress

from pipeline.engine.progress import Progress
from pipeline.errors import UserError
from pipeline.listing import Listing
from pipeline.store.status import AT_WORK, LISTING, RunStatus
from pipeline.store.writer import RunWriter


class Reporter:
    """Writes the status of a call.

    Args:
        writer: Holds the run.
        listing: What there is to do.
        shown: Show progress on stderr too.

    Attributes:
        progress: To be told of what happens; reports by itself.
        status: As it was last written.
    """

    def __init__(self, writer: RunWriter, listing: Listing, shown: bool) -> None:
        self._writer = writer
        self._listing = listing
        self._started = time.time()
        self.progress = Progress(0, shown=shown, report=self.report)
        self.report(self.progress, LISTING)

    def report(self, progress: Progress, state: str = "", error: str = "") -> None:
        """Write the status as it is now.

        Args:
            progress: Of this call.
            state: What the driver does, where the progress does not know.
            error: What ended the call.

        Raises:
            UserError: The run cannot be written.
        """
        listing, at_work = self._listing, (state or progress.state) in AT_WORK
        progress.total = listing.todo
        known = listing.done and progress.rate > 0
        self.status = RunStatus(
            state=state or progress.state,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            updated=time.time(),
            listed=listing.listed,
            listing_done=listing.done,
            present=listing.unchanged,
            todo=listing.todo,
            done=progress.done,
            failed=progress.failed,
            given=progress.given,
            reasons=dict(progress.reasons.most_common(_REASONS)),
            rate=round(progress.rate, 3) if at_work else 0.0,
            rate_overall=round(progress.rate_overall, 3),
            seconds_left=round((listing.todo - progress.done) / progress.rate, 1) if known and at_work else None,
            deaths=progress.deaths,
            last_error=error or progress.last_error,
            error_time=time.time() if error else progress.error_time,
            workers=progress.workers if at_work else (),
        )
        self._writer.report(self.status)

    def end(self, state: str, error: str = "") -> None:
        """Say in the status and the log how the call ended; where the disk is full, nobody can be told."""
        listing, progress = self._listing, self.progress
        with suppress(UserError):
            self.report(progress, state, error)
            counts = {"listed": listing.listed, "unchanged": listing.unchanged, "changed": listing.changed}
            counts |= {"vanished": listing.vanished, "done": progress.done, "failed": progress.failed}
            counts |= {"given": progress.given, "deaths": progress.deaths}
            self._writer.record(state, error=error, **counts)


_REASONS = 50
