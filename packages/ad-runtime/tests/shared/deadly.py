"""A model that kills its process at certain pictures."""

import os
import signal
import time

from ad.runtime import load as load_export


class Deadly:
    """A runtime that ends its process at pictures whose names say so.

    ``deadly``: always. ``once``: if the file ``NAME.was`` is not there, which it writes first.
    ``odd``: an error that nobody foresaw. ``slow``: takes its time.
    """

    def __init__(self, *given, **settings):
        self.whole = load_export(*given, **settings)
        self.config, self.localises = self.whole.config, self.whole.localises

    def calibration(self, *given):
        return self.whole.calibration(*given)

    def least_area(self, *given):
        return self.whole.least_area(*given)

    def stream(self, inputs, **settings):
        for path in inputs:
            was = path.with_name(f"{path.name}.was")
            if "slow" in path.name:
                time.sleep(0.05)
            if "odd" in path.name:
                raise TypeError(path.name)
            if "deadly" in path.name or ("once" in path.name and not was.exists()):
                if "once" in path.name:
                    was.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield from self.whole.stream(path, **settings)


def load(*given, **settings):
    return Deadly(*given, **settings)


def load_dead(*given, **settings):
    os.kill(os.getpid(), signal.SIGKILL)
