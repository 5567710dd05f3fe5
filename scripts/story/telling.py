"""How the story is told: steps in order, each passes, fails or is not run, and a table at the end."""

import time
import traceback

from ledger import Ledger
from processes import Failed, NotRun

CHAPTERS = {}


def step(chapter, title):
    """Makes a function a step of a chapter. What it returns is its note in the table."""

    def add(function):
        CHAPTERS.setdefault(chapter, []).append((title, function))
        return function

    return add


class World:
    """What the steps share."""

    def __init__(self, plane, many):
        self.plane, self.api, self.store = plane, plane.api, plane.store
        self.ledger = Ledger()
        # How many objects lists, controllers and namespaces are tried with, as a part of the full number.
        self.many = many
        self.load = None
        # What a list said of itself that was begun early and left alone.
        self.begun = None
        # Objects that are in the copy of the bucket.
        self.copied = {}

    def number(self, full):
        return max(10, int(full * self.many))

    def namespace(self, name):
        """Makes a namespace and gives its path."""
        made = self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        self.ledger.created("/api/v1/namespaces", made)
        return f"/api/v1/namespaces/{name}"


def configmap(name, **data):
    return {"metadata": {"name": name}, "data": data}


class Table:
    """The steps told so far."""

    def __init__(self):
        self.rows = []

    def tell(self, chapter, title, function, world):
        print(f"  ... {chapter}: {title}", flush=True)
        start = time.monotonic()
        result, note = outcome(function, world)
        self.rows.append((chapter, title, result, time.monotonic() - start, note))
        print(self.line(self.rows[-1]), flush=True)

    @staticmethod
    def line(row):
        chapter, title, result, seconds, note = row
        return f"{result:8} {seconds:6.1f} s  {chapter}: {title}" + (f" ({note})" if note else "")

    def show(self):
        print("\n| step | result | seconds | |\n|---|---|---|---|")
        for chapter, title, result, seconds, note in self.rows:
            note = str(note or "").replace("|", "\\|").replace("\n", " ")[:300]
            print(f"| {chapter}: {title} | {result} | {seconds:.1f} | {note} |")
        results = [row[2] for row in self.rows]
        print("\n" + ", ".join(f"{results.count(name)} {name}" for name in ("passed", "FAILED", "not run")))

    def good(self):
        return all(row[2] != "FAILED" for row in self.rows)


def outcome(function, world):
    try:
        return "passed", function(world)
    except NotRun as reason:
        return "not run", reason
    except Failed as reason:
        return "FAILED", reason
    except Exception as error:
        traceback.print_exc()
        return "FAILED", repr(error)
