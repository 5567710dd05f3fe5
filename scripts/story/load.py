"""Clients that write through everything that is broken on purpose, and what they were told."""

import random
import threading
import time

from api import Lost
from processes import want, wait_for
from telling import configmap
from watching import Watcher

PATH = "/api/v1/namespaces/load/configmaps"
WRITERS = 12


class Load:
    """Writers that create, change and delete, and count together on one object, while a watcher looks on."""

    def __init__(self, w):
        self.w, self.api, self.ledger = w, w.api, w.ledger
        w.namespace("load")
        self.ledger.created(PATH, self.api.create(PATH, configmap("counter", n="0")))
        self.lock = threading.Lock()
        self.counted = self.unsure = self.writes = self.unanswered = 0
        self.ended = threading.Event()
        self.watcher = Watcher(self.api, PATH, self.api.get(PATH)["metadata"]["resourceVersion"])
        self.threads = [threading.Thread(target=self.write, args=(n,), daemon=True) for n in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def write(self, writer):
        turn = random.Random(writer)
        mine, number = [], 0
        while not self.ended.is_set():
            number += 1
            if number % 10 == 0:
                self.count()
            elif number % 3 == 0 and mine:
                self.delete(mine.pop(turn.randrange(len(mine))))
            else:
                self.create(f"load-{writer}-{number}", mine)

    def told(self, verb, path, body=None):
        """The answer if it says what happened; None if that is unknown."""
        try:
            answer = self.api.ask(verb, path, body)
        except Lost:
            answer = None
        with self.lock:
            self.writes += 1
        if answer and (answer.ok() or answer.refused()):
            return answer
        with self.lock:
            self.unanswered += 1
        self.ended.wait(0.1)
        return None

    def create(self, name, mine):
        answer = self.told("POST", PATH, configmap(name))
        if answer is None:
            self.ledger.unsure(PATH, name)
        elif answer.ok():
            self.ledger.created(PATH, answer.body)
            mine.append(name)

    def delete(self, name):
        answer = self.told("DELETE", f"{PATH}/{name}")
        if answer is None:
            self.ledger.unsure(PATH, name)
        else:
            want(answer.ok(), f"DELETE {name}, which was there, answered {answer}")
            self.ledger.deleted(PATH, name)

    def count(self):
        """Adds one to the counter, if nobody else did meanwhile."""
        found = self.told("GET", f"{PATH}/counter")
        if found is None or not found.ok():
            return
        item = found.body
        item["data"]["n"] = str(int(item["data"]["n"]) + 1)
        answer = self.told("PUT", f"{PATH}/counter", item)
        with self.lock:
            self.counted += bool(answer and answer.ok())
            self.unsure += answer is None

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(120)

    def check_counter(self):
        value = int(self.api.get(f"{PATH}/counter")["data"]["n"])
        span = (self.counted, self.counted + self.unsure)
        want(span[0] <= value <= span[1], f"the counter says {value}, clients were told {span}")
        return value

    def check_watcher(self):
        """The watcher saw everything that was acknowledged, each once and in order."""
        told = {name for collection, name in self.ledger.copy()[0] if collection == PATH and name != "counter"}
        wait_for("the watcher to see what was created", lambda: told <= set(self.watcher.seen("ADDED")), 60, 1)
        self.watcher.close()
        versions, added = self.watcher.versions(), self.watcher.seen("ADDED")
        want(self.watcher.error is None, f"the watch ended: {self.watcher.error}")
        want(all(a < b for a, b in zip(versions, versions[1:])), "events twice or out of order")
        want(len(added) == len(set(added)), "an object was added twice")
        gone = {name for collection, name in self.ledger.gone if collection == PATH}
        want(gone <= set(self.watcher.seen("DELETED")), "a deletion was not told")
        return len(self.watcher.events)


def recovers(w, breaks, seconds=60):
    """Breaks something under load, and waits until the control plane works again by itself. How long it took."""
    w.load = w.load or Load(w)
    starts = w.plane.apiserver.starts
    time.sleep(3)
    start = time.monotonic()
    breaks()
    name = f"probe-{time.monotonic_ns()}"
    wait_for("a write to be taken", lambda: probe(w, name), seconds)
    took = time.monotonic() - start
    wait_for("the apiserver to be ready", w.plane.ready, seconds)
    time.sleep(3)
    want(w.plane.apiserver.alive() and w.plane.apiserver.starts == starts, "the apiserver has ended")
    return took


def probe(w, name):
    answer = w.api.ask("POST", PATH, configmap(name))
    if answer.ok():
        w.ledger.created(PATH, answer.body)
    elif answer.code == 409:
        w.ledger.created(PATH, w.api.get(f"{PATH}/{name}"))
    return answer.ok() or answer.code == 409


def all_alive(w):
    ended = [process.name for process in w.plane.all() if process.starts and not process.alive()]
    want(not ended, f"{ended} have ended")


def started_again(w):
    """Starts those again that ended because they could not renew their own lease for ten seconds, as whoever runs
    them would. Who it was."""
    ended = [process for process in (w.plane.controllers, w.plane.scheduler) if process.starts and not process.alive()]
    for process in ended:
        process.start()
    all_alive(w)
    names = " and ".join(process.name for process in ended) or "nobody"
    return f"{names} lost its lease and was started again"
