"""Files are read strictly: what cannot be used is refused with its place and what it seems to be."""

import bz2
import gzip
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minibert.support.errors import BadInput
from minibert.support.files import read_json, read_text

GOOD = '{"version": "1.1", "data": [{"title": "caf\u00e9"}]}'


@pytest.mark.parametrize("raw", [GOOD.encode(), b"\xef\xbb\xbf" + GOOD.encode(), b"\n " + GOOD.encode() + b"\n"])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path, raw):
    (tmp_path / "a.json").write_bytes(raw)
    assert read_json(tmp_path / "a.json") == read_json(str(tmp_path / "a.json")) == json.loads(GOOD)


BAD_JSON = [
    ("empty", b"", "", "the file is empty"),
    ("whitespace", b" \n\t\n", "", "the file is empty"),
    ("only a byte order mark", b"\xef\xbb\xbf", "", "the file is empty"),
    ("git-LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "", "git-LFS .*`git lfs pull`"),
    ("HTML", b"\n<!DOCTYPE html><html>", "", "looks like HTML"),
    ("XML", b"<a/>", "", "XML"),
    ("gzip", gzip.compress(GOOD.encode()), "", "compressed with gzip; gunzip"),
    ("bzip2", bz2.compress(GOOD.encode()), "", "with bzip2; decompress .*`bunzip2`"),
    ("bzip2, level 1", bz2.compress(GOOD.encode(), 1), "", "with bzip2; decompress .*`bunzip2`"),
    ("xz", b"\xfd7zXZ\0\0\x04", "", "with xz; decompress .*`unxz`"),
    ("zstd", b"\x28\xb5\x2f\xfd\x04\x58", "", "with zstd; decompress .*`unzstd`"),
    ("zip", b"PK\x03\x04\x14\x00", "", "zip archive"),
    ("UTF-16", GOOD.encode("utf-16"), "byte 0", "not UTF-8"),
    ("UTF-16 without a mark", '{"data": 1}'.encode("utf-16-le"), "line 1", "."),
    ("latin-1", b'{"data": "caf\xe9"}', "byte 13", "not UTF-8"),
    ("truncated", GOOD[:-5].encode(), "line 1 column", "."),
    ("truncated in a string", GOOD[:10].encode(), "line 1 column", "."),
    ("trailing comma", b'{\n"data": [],\n}', "line ", "."),  # Python 3.13 names the comma itself
    ("trailing data", f"{GOOD}\nend".encode(), "line 2 column 1", "Extra data"),
    ("JSON lines", f"{GOOD}\n{GOOD}".encode(), "line 2 column 1", "JSON lines"),
    ("deep lists", b'{"data": ' + b"[" * 100_000, "", "nested too deeply"),
    ("deep objects", b'{"data":' * 100_000, "", "nested too deeply"),
    ("an integer of 5,000 digits", b'{"data": ' + b"1" * 5000 + b"}", "", "digits"),
    ("NaN", b'{"data": NaN}', "", "NaN"),
    ("Infinity", b'{"data": Infinity}', "", "Infinity"),
    ("-Infinity", b'{"data": -Infinity}', "", "-Infinity"),
    ("a number that becomes infinite", b'{"data": 1e999}', "", "1e999"),
    ("a string without an end, and a million quotes", b'[NaN, "' + b'\\"' * 1_000_000, "line 1", "NaN"),
    ("a key twice", b'{"data": {"id": "q0", "x": 1, "id": "q1"}}', "", "'id' .*twice .*{'id': 'q1'}"),
    ("a key twice, beside an id", b'{"a": {"x": 1, "x": [[1]], "id": "q7"}}', "", "'x' .*twice .*{'id': 'q7'}"),
    ("a key twice, without an id", b'{"a": [{"y": {"z": [1]}, "x": 1, "x": 2}]}', "", "'x' .*twice .*{'x': 1, 'y': "),
]


@pytest.mark.parametrize(("raw", "where", "what"), [row[1:] for row in BAD_JSON], ids=[row[0] for row in BAD_JSON])
def test_json_that_cannot_be_used_is_refused_with_its_place_and_kind(tmp_path, raw, where, what):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(BadInput, match=what) as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.file == str(tmp_path / "a.json") and caught.value.where.startswith(where)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b'{"a": "\\ud800"}')
@given(st.binary(max_size=60) | st.text('[]{}",:0e9.-NaInfity \\u\ud7ff', max_size=60).map(str.encode))
def test_any_bytes_are_parsed_or_refused(tmp_path, raw):
    (tmp_path / "a.json").write_bytes(raw)
    try:
        json.dumps(read_json(tmp_path / "a.json"), allow_nan=False)
    except BadInput as error:
        assert str(error).startswith(str(tmp_path / "a.json"))


@pytest.mark.parametrize("read", [read_json, read_text])
@pytest.mark.parametrize("name", ["none.json", "folder", "null\0byte", "x" * 5000])
def test_a_file_that_cannot_be_read_is_bad_input(tmp_path, read, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=r"cannot be read: ."):
        read(tmp_path / name)


def test_text_is_utf8_and_loses_its_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf<b> caf\xc3\xa9\r\n")
    assert read_text(tmp_path / "a.txt") == "<b> caf\u00e9\r\n"
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=r"byte 3: is not UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"%PDF-1.7\n", "a PDF; .*text"),
        (b"PK\x03\x04\x14", "office document"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-LFS pointer, .*`git lfs pull`"),
    ],
)
def test_a_document_that_is_not_text_is_named(tmp_path, raw, says):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(BadInput, match=says):
        read_text(tmp_path / "a.txt")
