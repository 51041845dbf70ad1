"""How far a long computation is, on standard error: a share and the time left, after the first seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

__all__ = ["Progress"]


class Progress:
    """Counts what is done of ``total``, and says so: to a terminal in one line that is written over, else every ten seconds.

    Nothing is said within two seconds, nor where it is not ``shown``.
    """

    def __init__(self, total: float, *, shown: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.clock, self.shown = total, 0.0, clock, shown
        self.start = self.said = clock()
        self.terminal = shown and sys.stderr.isatty()
        self.open = False  # a line is

    def advance(self, amount: float) -> None:
        """So much more is done."""
        self.done += amount
        now = self.clock()
        spent, pause = now - self.start, (0.5 if self.terminal else 10)
        if not self.shown or spent < 2 or now - self.said < pause:
            return
        self.said = now
        left = spent * (self.total - self.done) / max(self.done, 1e-9)
        text = f"bootstrap: {100 * min(1, self.done / self.total):.0f}%, about {max(0, left):.0f} s left"
        print(f"\r{text}  " if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True)
        self.open = self.terminal

    def close(self) -> None:
        """Take the line away."""
        if self.open:
            print("\r" + " " * 50 + "\r", end="", file=sys.stderr, flush=True)
            self.open = False
