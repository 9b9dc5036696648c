"""A self-contained page: hostile data stay data, and the browser may run only the page's own script."""

import base64
import hashlib
import json
import re

import pytest

from minibert.support.page import DATA, POLICY, content_policy, fill_page, is_filled

HEAD = f"<head>{POLICY}<title>ours</title><style>p {{ color: red }}</style></head>"
TEMPLATE = f"<html>{HEAD}{DATA}<script>\nrun();\n</script></html>"


@pytest.fixture
def template(tmp_path):
    (tmp_path / "page.html").write_text(TEMPLATE)
    return tmp_path / "page.html"


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "\u202e\x00'\"&amp;", DATA, POLICY, "\u2028"]
)
def test_data_come_back_and_never_end_their_element(template, text):
    page = fill_page(template, {"text": text})
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert json.loads(content) == {"text": text} and "<" not in content
    assert page.count("<script>") == 1


def test_the_policy_names_the_hash_of_script_and_style(template):
    policy = content_policy(TEMPLATE, "connect-src 'self'")
    for content in ("\nrun();\n", "p { color: red }"):
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert f'content="{content_policy(TEMPLATE)}"' in fill_page(template, {})


def test_numbers_that_json_lacks_are_refused(template):
    with pytest.raises(ValueError):
        fill_page(template, {"score": float("nan")})


def test_a_page_is_known_by_its_template(template, tmp_path):
    page = tmp_path / "mine.html"
    page.write_text(fill_page(template, [1]), "utf-8")
    assert is_filled(template, page)
    for other in (b"", b"mine", b"<!doctype html><title>mine</title>", b"\xff"):
        page.write_bytes(other)
        assert not is_filled(template, page)
