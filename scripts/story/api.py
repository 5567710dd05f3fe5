"""A small client of the Kubernetes API: one connection per thread, nothing sent twice, so that the story knows
what it was told. A request without an answer is `Lost`: it may have happened."""

import http.client
import json
import re
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from processes import Failed

# An idle connection older than this is replaced, so that the server never closes one under a request.
STALE = 30

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Lost(Exception):
    """No answer. Whether the request was carried out is unknown."""


class Answer:
    """The status and the body of one answer."""

    def __init__(self, code, raw):
        self.code, self.raw = code, raw

    @property
    def body(self):
        return json.loads(self.raw)

    def ok(self):
        return 200 <= self.code < 300

    def refused(self):
        """Whether it surely did not happen."""
        return 400 <= self.code < 500

    def __str__(self):
        return f"{self.code} {self.raw[:400].decode(errors='replace')}"


class Api:
    """One apiserver, as one user."""

    def __init__(self, port, token, authority):
        self.port, self.token = port, token
        self.tls = ssl.create_default_context(cafile=str(authority))
        self.threads = threading.local()

    def connect(self, timeout=90):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=timeout)

    def headers(self, kind="application/json"):
        return {"Authorization": f"Bearer {self.token}", "Content-Type": kind, "Accept": "application/json"}

    def connection(self):
        """This thread's connection."""
        held = self.threads.__dict__
        if time.monotonic() - held.get("used", 0) > STALE:
            held["connection"] = self.connect()
        held["used"] = time.monotonic()
        return held["connection"]

    def forget(self):
        """Drops this thread's connection, as the apiserver has ended."""
        self.threads.__dict__.clear()

    def ask(self, verb, path, body=None, kind="application/json"):
        """Sends one request once. Raises Lost if no answer comes."""
        payload = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        try:
            connection = self.connection()
            connection.request(verb, path, payload, self.headers(kind))
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.threads.__dict__.pop("used", None)
            raise Lost(f"{verb} {path}: {error!r}") from error

    def must(self, verb, path, body=None, kind="application/json"):
        """The body of the answer, which has to be a good one."""
        answer = self.ask(verb, path, body, kind)
        if not answer.ok():
            raise Failed(f"{verb} {path} answered {answer}")
        return answer.body

    def get(self, path):
        return self.must("GET", path)

    def create(self, path, body):
        return self.must("POST", path, body)

    def replace(self, path, body):
        return self.must("PUT", path, body)

    def merge(self, path, body):
        return self.must("PATCH", path, body, MERGE)

    def apply(self, path, body, manager, force=False):
        """Server-side apply; the answer as it comes, as conflicts are wanted."""
        query = f"?fieldManager={manager}" + ("&force=true" if force else "")
        return self.ask("PATCH", path + query, body, APPLY)

    def delete(self, path, **options):
        return self.must("DELETE", path, options or None)

    def gone(self, path):
        return self.ask("GET", path).code == 404

    def pages(self, path, limit=500):
        """Every page of a list, as of one resourceVersion."""
        joint = "&" if "?" in path else "?"
        page = self.get(f"{path}{joint}limit={limit}")
        yield page
        while more := page["metadata"].get("continue"):
            page = self.get(f"{path}{joint}limit={limit}&continue={more}")
            yield page

    def each(self, path):
        """Every object of a list, read in pages."""
        return (item for page in self.pages(path) for item in page["items"])

    def metrics(self):
        return Metrics(self.ask("GET", "/metrics").raw.decode())


class Metrics:
    """Samples of one scrape."""

    LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        lines = (self.LINE.match(line) for line in text.splitlines() if not line.startswith("#"))
        self.samples = [(m[1], dict(self.LABEL.findall(m[2] or "")), float(m[3])) for m in lines if m]

    def total(self, name, **labels):
        """The sum of the samples of this name with these labels."""
        return sum(value for _, value in self.where(name, **labels))

    def where(self, name, **labels):
        """The labels and values of the samples of this name with these labels."""
        found = ((have, value) for have_name, have, value in self.samples if have_name == name)
        return [(have, value) for have, value in found if labels.items() <= have.items()]


def side_by_side(work, items, threads=24):
    """Does `work(item)` for every item, many at a time; the answers in order."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
