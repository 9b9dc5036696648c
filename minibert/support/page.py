"""Self-contained web pages: a template, its data, and a policy that lets the browser run nothing else.

In: an HTML file with one empty `<script type="application/json" id="data">`, and values for JSON. Out: the page,
readable from disk without a network. The data are never markup: the page's script puts them in with `textContent`.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

DATA = '<script type="application/json" id="data"></script>'
POLICY = '<meta http-equiv="Content-Security-Policy" content="">'


def fill_page(template: Path, data: Any) -> str:
    """The template with the data and its policy in their places."""
    # In a script element only "<" can end the element or begin a comment; JSON allows it as an escape in any string.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = template.read_text("utf-8")
    page = page.replace(POLICY, POLICY.replace('""', f'"{content_policy(page)}"'), 1)
    return page.replace(DATA, DATA.replace("></", f">{text}</"), 1)


def is_filled(template: Path, file: Path) -> bool:
    """Whether a file is a page made of this template: it begins as the template does, its title included."""
    start, title = template.read_text("utf-8").partition("</title>")[0].split(POLICY)
    with open(file, encoding="utf-8", errors="replace") as opened:
        head = opened.read(5000).partition("</title>")[0]
    return head.startswith(start) and head.endswith(title)


def content_policy(page: str, *rules: str) -> str:
    """A Content-Security-Policy that allows the page's own inline script and style, by their hashes, and `rules`."""
    allowed = ["default-src 'none'", "base-uri 'none'", *rules]
    for tag in ("script", "style"):
        for content in re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            allowed.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(allowed)
