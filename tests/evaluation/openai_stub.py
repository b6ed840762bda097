"""A server that speaks OpenAI's chat completions over real HTTP, and fails as servers do."""

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


KEY = "sk-stub-Zq93hT7wLm"
HTML = "<!DOCTYPE html><html><body><h1>Welcome to nginx</h1></body></html>"


def prefer(word: str = "good") -> Callable[[dict], str]:
    """A judge that holds the answer with a word for the better one; a tie where both have it, or none."""

    def reply(body: dict) -> str:
        text = body["messages"][-1]["content"]
        framed = re.findall(r"\[\w+ begin: answer ?([AB]?)[^\]]*\]\n(.*?)\n\[\w+ end:", text, re.DOTALL)
        has = {letter: word in answer for letter, answer in framed}  # of several turns, the last
        if "rating" in text.rpartition("JSON object")[2]:
            return json.dumps({"explanation": "Seen.", "rating": 9 if has[""] else 3})
        better = "tie" if has["A"] == has["B"] else "A" if has["A"] else "B"
        return json.dumps({"explanation": "Seen.", "verdict": better})

    return reply


def status(code: int, message: str = "no", error_code: str | None = None, **headers: str):
    """A fault: an error of the API."""

    def answer(handler: "_Handler") -> None:
        handler.reply({"error": {"message": message, "type": "error", "code": error_code}}, code, **headers)

    return answer


def http_date(seconds: float) -> str:
    """So many seconds from now, as Retry-After may have it."""
    return formatdate(time.time() + seconds, usegmt=True)


def page(code: int = 200):
    """A fault: a web page."""
    return lambda handler: handler.reply(HTML.encode(), code, Content_Type="text/html")


def garbage(handler: "_Handler") -> None:
    """A fault: JSON that breaks off."""
    handler.reply(b'{"choices": [{"mess', 200)


def empty(handler: "_Handler") -> None:
    """A fault: JSON of another shape."""
    handler.reply({"ok": True})


def drop(handler: "_Handler") -> None:
    """A fault: the connection ends without an answer."""
    handler.close_connection = True


def cut(handler: "_Handler") -> None:
    """A fault: the connection ends within the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices":')
    handler.close_connection = True


def slow(seconds: float):
    """A fault: the answer is right, and late."""

    def answer(handler: "_Handler") -> None:
        time.sleep(seconds)
        handler.complete()

    return answer


class OpenAIStub(ThreadingHTTPServer):
    """The server. `with OpenAIStub() as stub:` serves at `stub.url` until the block ends.

    Attributes:
        faults (`deque`): What the next requests for a verdict get, one each; after them all get an answer.
        checks (`deque`): The same for the request that is made before the first verdict.
        answered (`Counter`): How often each text was judged and the verdict sent.
        bodies (`list[dict]`): All requests for verdicts.
        seen (`list[str]`): Paths of all requests.
        reply (`Callable[[dict], str]`): What the judge says to a request.
        message (`Callable[[dict], dict]`): What else a message of its has.
        hold (`int`, *optional*): Requests from this one on wait until they are let go.
    """

    daemon_threads = True

    def __init__(self, reply: Callable[[dict], str] | None = None, key: str = KEY):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key, self.models = key, ["judge-1"]
        self.reply = reply or prefer()
        self.message: Callable[[dict], dict] = lambda body: {}
        self.finish = "stop"
        self.faults: deque = deque()
        self.checks: deque = deque()
        self.answered: Counter = Counter()
        self.bodies: list[dict] = []
        self.seen: list[str] = []
        self.times: list[float] = []
        self.most_at_once = self.at_once = 0
        self.hold: int | None = None
        self.held, self.go = threading.Event(), threading.Event()
        self.lock = threading.RLock()

    def __enter__(self) -> "OpenAIStub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.go.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass  # a killed client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OpenAIStub

    def log_message(self, *_):
        pass

    def reply(self, content, status: int = 200, **headers: str):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.server.seen.append(self.path)
        if self.path == "/v1/models":
            return self.reply({"object": "list", "data": [{"id": name} for name in self.server.models]})
        self.reply({"error": {"message": "no such page"}}, 404)

    def do_POST(self):
        server = self.server
        self.body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        is_check = self.body["messages"][-1]["content"] == "Say yes."
        with server.lock:
            server.seen.append(self.path)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            if not is_check:
                server.bodies.append(self.body)
                server.times.append(time.monotonic())
            waits = not is_check and server.hold is not None and sum(server.answered.values()) >= server.hold
            faults = server.checks if is_check else server.faults
            fault = faults.popleft() if faults else None
        try:
            if waits:
                server.held.set()
                server.go.wait(60)
                return
            self.complete() if fault is None else fault(self)
        finally:
            with server.lock:
                server.at_once -= 1

    def complete(self):
        server = self.server
        if self.path != "/v1/chat/completions":
            return page(404)(self)
        if self.headers.get("Authorization") != f"Bearer {server.key}":
            sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
            return status(401, f"Incorrect API key provided: {sent}.")(self)
        if self.body["model"] not in server.models:
            return status(404, f"The model `{self.body['model']}` does not exist", "model_not_found")(self)
        is_check = self.body["messages"][-1]["content"] == "Say yes."
        said = "Yes." if is_check else server.reply(self.body)
        message = {"role": "assistant", "content": said, **({} if is_check else server.message(self.body))}
        choice = {"index": 0, "message": message, "finish_reason": "stop" if is_check else server.finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        if not is_check:
            with server.lock:
                server.answered[json.dumps(self.body["messages"])] += 1
        self.reply({"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})
