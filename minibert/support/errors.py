"""The error that a user can correct. In: file, place, fault. Out: one line, which a command ends with (exit code 2)."""

import os


class BadInput(Exception):
    """Input that cannot be used: the file (or flag), the place in it, and what is wrong and what to do."""

    def __init__(self, file: str | os.PathLike, where: str, what: str):
        self.file, self.where, self.what = str(file), str(where), str(what)
        super().__init__(self.file, self.where, self.what)  # all three, so that the error can be pickled

    def __str__(self) -> str:
        return ": ".join(part for part in self.args if part)
