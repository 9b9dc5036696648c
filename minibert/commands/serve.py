"""Try a model in a browser on this machine: paste a text, ask, and see the answer in its place.

    minibert serve --ckpt runs/first

Not for the internet: there is no login, no encryption, and one question at a time is answered. So it listens on the
loopback address alone, and refuses requests that a page of another site sends (their Host or Origin differs).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.answers.spans import MAX_ANSWER_LENGTH
from minibert.commands import flags
from minibert.support.errors import BadInput
from minibert.support.signals import tell
from minibert.training.settings import CheckpointSettings, MachineSettings, option

PAGE = Path(__file__).with_name("serve.html")
MOST_BYTES = 8 * 2**20  # of a request: a text of 1 MB with room for JSON's escapes
WAIT_SECONDS = 30  # for a client that sends its request slowly


@dataclass(frozen=True, kw_only=True)
class ServeOptions(CheckpointSettings, MachineSettings):
    """Try a trained model in a browser on this machine."""

    port: int = option(8000, "the port to listen on; 0 takes a free one", least=0, most=65535)
    top_k: int = option(3, "show the N best answers", least=1)
    max_answer_length: int = option(MAX_ANSWER_LENGTH, "longest answer, in tokens", least=1)


def main(words: Sequence[str] | None = None) -> None:
    options = flags.make(ServeOptions, flags.parse(ServeOptions, "serve", words))
    if options.ckpt is None:
        raise BadInput("--ckpt", "", "name the model to ask")
    reader = pipeline(model=options.ckpt, revision=options.revision, device=options.device, dtype=options.dtype)
    with Server(reader, options) as server:
        print(f"http://127.0.0.1:{server.server_port}  (Ctrl-C ends)", flush=True)
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """A server on the loopback address. Each client has a thread; the model answers one request at a time."""

    daemon_threads = True

    def __init__(self, reader: QuestionAnswering, options: ServeOptions):
        self.reader, self.options, self.turn = reader, options, threading.Lock()
        self.page = PAGE.read_bytes()
        super().__init__(("127.0.0.1", options.port), Handler)

    def answer(self, question: str, context: str) -> list[dict[str, Any]]:
        """The best answers, as `pipeline` gives them. Raises BadInput for text that cannot be used."""
        with self.turn:
            answers = self.reader(
                question=question,
                context=context,
                top_k=self.options.top_k,
                max_answer_len=self.options.max_answer_length,
                handle_impossible_answer=True,
            )
        return answers if isinstance(answers, list) else [answers]


class Handler(BaseHTTPRequestHandler):
    """GET / is the page; POST /ask takes {"question", "context"} and returns {"answers"} or {"error"}."""

    server: Server
    timeout = WAIT_SECONDS
    server_version, sys_version = "minibert", ""

    def do_GET(self) -> None:
        if not self.is_from_here():
            self.reply(403, {"error": "only for pages of this server"})
        elif self.path == "/":
            self.send(200, self.server.page, "text/html; charset=utf-8")
        else:
            self.reply(404, {"error": "no such page"})

    def do_POST(self) -> None:
        if not self.is_from_here():
            self.reply(403, {"error": "only for pages of this server"})
        elif self.path != "/ask":
            self.reply(404, {"error": "no such page"})
        else:
            self.reply(*self.ask())

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The status and content of an answer to POST /ask."""
        size = self.headers.get("Content-Length", "")
        if not size.isascii() or not size.isdecimal():
            return 411, {"error": "the request must state its length"}
        if int(size) > MOST_BYTES:
            self.close_connection = True  # what the client sends is not read
            return 413, {"error": f"the request is longer than {MOST_BYTES // 2**20} MB"}
        try:
            request = json.loads(self.rfile.read(int(size)))
            values: list[Any] = (
                [request.get(name) for name in ("question", "context")] if isinstance(request, dict) else []
            )
            if not values or not all(isinstance(value, str) for value in values):
                return 400, {"error": 'expected {"question": TEXT, "context": TEXT}'}
            return 200, {"answers": self.server.answer(*values)}
        except BadInput as error:
            return 400, {"error": f"{error.where.split()[0]} {error.what}"}
        except (ValueError, RecursionError) as error:  # not JSON
            return 400, {"error": f"not JSON: {error}"}

    def is_from_here(self) -> bool:
        """Whether the request names this server as its target and, if it comes from a page, as that page's origin.

        A page of another site can make a browser send requests to 127.0.0.1, and a host name that somebody points at
        127.0.0.1 would make that page look local. Both give themselves away in these headers.
        """
        names = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in names and origin in (None, *(f"http://{name}" for name in names))

    def reply(self, status: int, content: dict[str, Any]) -> None:
        self.send(status, json.dumps(content).encode(), "application/json")

    def send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", content_policy(self.server.page))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, *_: object) -> None:
        """Say nothing of a request: questions and texts are private."""

    def log_message(self, text: str, *values: object) -> None:
        tell(f"serve: {text % values!r}")


def content_policy(page: bytes) -> str:
    """A policy that lets the browser run this page's own script and style, and ask this server, and nothing else."""
    rules = ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    for tag in (b"script", b"style"):
        for part in re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, flags=re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
            rules.append(f"{tag.decode()}-src 'sha256-{digest}'")
    return "; ".join(rules)
