"""`minibert serve`: answers on the loopback address alone, to its own page, and to nothing that would harm it."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlencode

import pytest

from minibert.answers.confidence import Answering
from minibert.answers.pipeline import pipeline
from minibert.commands.serve import MOST_BYTES, PAGE, ServeOptions, Server

CONTEXT = "the clock was made in basel in 1871 ."


@pytest.fixture(scope="module")
def server(tiny_folder):
    reader = pipeline(model=tiny_folder)
    with Server(reader, ServeOptions(ckpt=str(tiny_folder), port=0)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def request(server, method="POST", path="/ask", body=b"", **headers):
    """Status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def ask(server, question, context=CONTEXT, **headers):
    status, _, body = request(server, body=json.dumps({"question": question, "context": context}).encode(), **headers)
    return status, json.loads(body)


def test_it_answers_as_the_pipeline_does_and_logs_no_question(server, capfd):
    status, content = ask(server, "when was it made ?")
    assert "made" not in "".join(capfd.readouterr())
    expected = server.reader("when was it made ?", CONTEXT, top_k=3, max_answer_len=30, handle_impossible_answer=True)
    assert (status, content) == (200, {"answers": expected})
    assert all(CONTEXT[a["start"] : a["end"]] == a["answer"] for a in content["answers"])
    assert server.server_address[0] == "127.0.0.1"  # it listens on the loopback address alone


def test_a_language_that_the_vocabulary_lacks_is_said_once(server, monkeypatch, capfd):
    monkeypatch.setattr(server.reader, "told", set())
    for _ in range(2):
        assert ask(server, "\u0e01 \u0e02 ?", "\u0e01 \u0e02")[0] == 200
    assert capfd.readouterr().err.count("of the tokens are [UNK]") == 1


def test_a_calibrated_model_answers_with_confidence_and_by_its_threshold(server, monkeypatch):
    fitted = Answering(-1000.0, confidence={"bias": 0.4, "log_score": 0.0, "score": 0.0, "log_length": 0.0})
    monkeypatch.setattr(server.reader, "answering", fitted)
    assert [answer["answer"] for answer in ask(server, "when was it made ?")[1]["answers"]] == [""]
    monkeypatch.setattr(server.reader, "answering", replace(fitted, null_score_diff_threshold=1000.0))
    answers = ask(server, "when was it made ?")[1]["answers"]
    assert [answer["confidence"] for answer in answers] == [pytest.approx(0.5987, abs=1e-4)] * 3


def test_two_clients_get_their_own_answers(server):
    texts = [f"{word} made it ." for word in ("anna", "john", "maria", "weiss")]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: ask(server, "who made it ?", text)[1], texts))
    assert answers == [ask(server, "who made it ?", text)[1] for text in texts]


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
@pytest.mark.parametrize(("method", "path"), [("POST", "/ask"), ("POST", "/explain"), ("GET", "/")])
def test_pages_of_other_sites_are_refused(server, method, path, headers):
    assert request(server, method, path, **headers)[0] == 403


def test_a_browser_leaves_out_the_usual_port(server, monkeypatch):
    connections = [http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60) for _ in range(2)]
    monkeypatch.setattr(server, "server_port", 80)
    for connection, host, status in zip(connections, ("127.0.0.1", "evil.example"), (200, 403)):
        connection.request("GET", "/", headers={"Host": host, "Origin": "http://127.0.0.1"})
        assert connection.getresponse().status == status


def test_its_own_page_may_run_only_its_own_script(server):
    status, headers, body = request(server, "GET", "/")
    assert status == 200 and body == PAGE.read_bytes() and headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and policy.count("'sha256-") == 2
    assert b"innerHTML" not in body and b"http:" not in body and b"https:" not in body


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/ask", b"", "not JSON"),
        ("/ask", b"\xff", "not JSON"),
        ("/ask", b"[" * 100_000, "not JSON"),
        ("/ask", b"[]", "expected"),
        ("/ask", b'{"question": 3, "context": "a"}', "expected"),
        ("/ask", b'{"question": "who ?", "context": ["a"]}', "expected"),
        ("/ask", b'{"question": " ", "context": "a"}', "visible character"),
        ("/ask", b'{"question": "\\ud800", "context": "a"}', "surrogate"),
        ("/explain", b"question=a", "expected"),
        ("/explain", b"question=a&context=%ff", "invalid"),
        ("/explain", b"question=a&context=%ed%a0%80", "invalid"),
    ],
)
def test_a_bad_request_gets_one_line(server, path, body, says):
    status, _, answer = request(server, "POST", path, body)
    assert status == 400 and says in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("length", "status"),
    [(str(MOST_BYTES + 1), 413), ("9" * 5000, 413), ("-1", 411), ("x", 411), ("\u00b2", 411), ("", 411)],
)
def test_a_request_without_a_fair_length_is_not_read(server, length, status):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("POST", "/ask")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    assert connection.getresponse().status == status


def test_the_explanation_is_a_page_of_its_own(server):
    form = urlencode({"question": "who made it ?", "context": CONTEXT}).encode()
    status, headers, body = request(server, "POST", "/explain", form)
    assert status == 200 and headers["Content-Type"].startswith("text/html") and b"default-src 'none'" in body


def test_other_paths_and_methods_are_refused(server):
    assert request(server, "GET", "/../../etc/passwd")[0] == request(server, "POST", "/other")[0] == 404
    assert request(server, "DELETE", "/")[0] == 501


def test_it_needs_a_model_and_a_port(command, tiny_folder, server):
    command("serve").assert_refused("--ckpt")
    command("serve", "--ckpt", tiny_folder, "--port", 99999).assert_refused("--port")
    command("serve", "--ckpt", tiny_folder, "--port", server.server_port).assert_refused("in use", code=1)


def test_weights_that_overflow_and_a_client_that_is_gone_end_one_request_only(server, monkeypatch, capfd):
    def overflow(*_):
        raise FloatingPointError("the weights overflow")

    monkeypatch.setattr(server, "ask", overflow)
    assert ask(server, "who ?") == (500, {"error": "the weights overflow"})
    try:
        raise BrokenPipeError("gone\x1b")
    except BrokenPipeError:
        server.handle_error(None, None)
    assert capfd.readouterr().err == "serve: BrokenPipeError('gone\\x1b')\n"
