"""The fixtures of `forks.py`, for every file of this folder. Windows cannot fork and goes without them."""

import contextlib

with contextlib.suppress(ImportError):
    from tests.training.forks import job, start, train, whole  # noqa: F401
