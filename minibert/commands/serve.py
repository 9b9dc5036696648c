"""Try a model in a browser on this machine: paste a text, ask, and see the answer in its place.

    minibert serve --ckpt runs/first

Not for the internet: it has no login and no encryption, and answers one question at a time. It listens only on the
loopback address. It refuses requests from pages of other sites, whose Host or Origin header differs.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from minibert.answers.confidence import NOT_FITTED
from minibert.answers.explain import explain
from minibert.answers.pipeline import QuestionAnswering, pipeline
from minibert.answers.spans import MAX_ANSWER_LENGTH
from minibert.commands import flags
from minibert.commands.notes import WINDOWS, settings_of_run
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.page import content_policy
from minibert.support.streams import tell
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
    options = flags.read(ServeOptions, "serve", words)
    if options.ckpt is None:
        raise BadInput("--ckpt", "", "name the model to ask")
    folder = find_folder(options.ckpt, options.revision)
    sizes = settings_of_run(folder, {}, WINDOWS)
    reader = pipeline(
        model=folder,
        device=options.device,
        dtype=options.dtype,
        doc_stride=sizes.get("doc_stride"),
        max_seq_len=sizes.get("max_seq_length"),
        max_question_len=sizes.get("max_query_length"),
    )
    with Server(reader, options) as server:
        print(f"http://127.0.0.1:{server.server_port}  (Ctrl-C ends)", flush=True)
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """A server on the loopback address. Each client has a thread; the model answers one request at a time."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # where it would let a second server take the same port

    def __init__(self, reader: QuestionAnswering, options: ServeOptions):
        self.reader, self.turn = reader, threading.Lock()
        self.top_k, self.longest = options.top_k, options.max_answer_length
        self.page = PAGE.read_text("utf-8")
        self.policy = content_policy(self.page, "connect-src 'self'", "form-action 'self'")
        super().__init__(("127.0.0.1", options.port), Handler)

    def handle_error(self, *_: object) -> None:
        """Say in one line what ended a request: most often a client that is gone."""
        tell(f"serve: {sys.exc_info()[1]!r}")

    def ask(self, question: str, context: str) -> list[dict[str, Any]]:
        """The best answers: of a calibrated model as `ask` gives them, with confidence and by its threshold, else as
        `pipeline` gives them, "no answer" among them. Raises BadInput for text that cannot be used."""
        with self.turn:
            if self.reader.answering != NOT_FITTED:
                return self.reader.rank(question, context, top_k=self.top_k, max_answer_len=self.longest)
            answers = self.reader(
                question, context, top_k=self.top_k, max_answer_len=self.longest, handle_impossible_answer=True
            )
        return answers if isinstance(answers, list) else [answers]

    def explain(self, question: str, context: str) -> str:
        """The page of what the model computed; errors as for `ask`."""
        with self.turn:
            return explain(self.reader, question, context, self.longest)


class Handler(BaseHTTPRequestHandler):
    """GET / is the page. POST /ask takes {"question", "context"} as JSON and returns {"answers"} or {"error"};
    POST /explain takes the same from a form and returns a page."""

    server: Server
    timeout = WAIT_SECONDS
    server_version, sys_version = "minibert", ""

    def parse_request(self) -> bool:
        """Read the head of a request. One that comes from another site is answered here and goes no further."""
        is_read = super().parse_request()
        if is_read and not self.is_from_here():
            self.send(403, {"error": "only for pages of this server"})
            return False
        return is_read

    def do_GET(self) -> None:
        if self.path == "/":
            self.send(200, self.server.page, self.server.policy)
        else:
            self.send(404, {"error": "no such page"})

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isascii() or not size.isdecimal():
            self.send(411, {"error": "the request must state its length"})
        elif len(size) > 20 or int(size) > MOST_BYTES:
            self.close_connection = True  # what the client sends is not read
            self.send(413, {"error": f"the request is longer than {MOST_BYTES // 2**20} MB"})
        elif self.path in ("/ask", "/explain"):
            self.answer(self.rfile.read(int(size)))
        else:
            self.send(404, {"error": "no such page"})

    def answer(self, body: bytes) -> None:
        """Answer a question or explain an answer; a request that cannot be used gets one line and status 400."""
        is_form = self.path == "/explain"
        try:
            request = dict(parse_qsl(body.decode(), True, errors="strict")) if is_form else json.loads(body)
            values = [request.get(name) for name in ("question", "context")] if isinstance(request, dict) else [None]
            if not all(isinstance(value, str) for value in values):
                self.send(400, {"error": 'expected {"question": TEXT, "context": TEXT}'})
            elif is_form:
                self.send(200, self.server.explain(*values))
            else:
                self.send(200, {"answers": self.server.ask(*values)})
        except BadInput as error:
            self.send(400, {"error": f"{(error.where or error.file).split()[0]} {error.what}"})
        except FloatingPointError as error:
            self.send(500, {"error": str(error)})
        except (ValueError, RecursionError) as error:
            self.send(400, {"error": f"not JSON: {error}"})

    def is_from_here(self) -> bool:
        """Whether the request names this server as its target and, if it comes from a page, as that page's origin.

        Protects against cross-site requests (Origin names another site) and DNS rebinding (Host is a foreign name that
        resolves to 127.0.0.1).
        """
        port = self.server.server_port
        ports = [f":{port}", ""] if port == 80 else [f":{port}"]  # browsers leave out the usual one
        names = {name + port for name in ("127.0.0.1", "localhost") for port in ports}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in names and origin in (None, *(f"http://{name}" for name in names))

    def send(self, status: int, content: str | dict[str, Any], policy: str | None = None) -> None:
        """Answer with a page, or with a dict as JSON."""
        is_page = isinstance(content, str)
        body = str(content if is_page else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8" if is_page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if policy:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_: object) -> None:
        """Say nothing of a request: questions and texts are private."""

    def log_message(self, text: str, *values: object) -> None:
        tell(f"serve: {text % values!r}")
