"""`BadInput` is one line of file, place and fault, with and without some of them."""

import pickle
from pathlib import Path

import pytest

from minibert.support.errors import BadInput


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (("a.json", "data[3]", "is empty"), "a.json: data[3]: is empty"),
        ((Path("a.json"), "", "is empty"), "a.json: is empty"),
        (("", "", "is empty"), "is empty"),
    ],
)
def test_the_line_joins_what_is_given_and_survives_pickling(parts, line):
    """Another process, as in multiprocessing, returns errors pickled."""
    for error in (BadInput(*parts), pickle.loads(pickle.dumps(BadInput(*parts)))):
        assert isinstance(error, BadInput) and str(error) == line
        assert (error.file, error.where, error.what) == (str(parts[0]), *parts[1:])
