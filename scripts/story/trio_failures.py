"""Failures of three Nodes under load: each of them dies, stands still, is started anew; the bucket is away, or slow."""

import signal
import time

from load import all_alive, recovers, started_again
from telling import step


def told(took):
    return "writes again after " + ", ".join(f"{seconds:.1f}" for seconds in took) + " s"


def killed(w, node):
    """kill -9, writes again without it, and then it is back and votes."""
    took = recovers(w, node.kill)
    node.start()
    w.store.whole()
    return took


@step("trio", "kill -9 of each Node in turn")
def each(w):
    took = [killed(w, node) for node in w.store.nodes]
    all_alive(w)
    return told(took)


@step("trio", "kill -9 of the Primary, three times")
def primaries(w):
    took = [killed(w, w.store.primary()) for _ in range(3)]
    all_alive(w)
    return told(took)


@step("trio", "kill -9 of the Elector, three times")
def electors(w):
    took = [killed(w, w.store.elector()) for _ in range(3)]
    all_alive(w)
    return told(took)


@step("trio", "a rolling restart")
def rolling(w):
    def restart(node):
        node.stop()
        node.start()

    took = []
    for node in w.store.nodes:
        took.append(recovers(w, lambda: restart(node)))
        w.store.whole()
    all_alive(w)
    return told(took)


@step("trio", "a Primary that stands still for 15 s")
def paused(w):
    node = w.store.primary()

    def wakes():
        time.sleep(15)
        node.send(signal.SIGCONT)
        w.store.whole()

    took = recovers(w, lambda: node.send(signal.SIGSTOP))
    wakes()
    return told([took]) + f", the Primary still asleep; {started_again(w)}"


@step("trio", "a Node that lost its disk")
def disk_lost(w):
    node = w.store.primary()

    def lose():
        node.kill()
        node.lose_disk()

    took = recovers(w, lose)
    node.start()
    w.store.whole()
    all_alive(w)
    return told([took])


@step("trio", "the bucket is away for 60 s: a majority commits without it")
def bucket_away(w):
    before = w.load.writes - w.load.unanswered if w.load else 0
    took = recovers(w, lambda: w.store.relay.away(True))
    until = time.monotonic() + 60 - took
    while time.monotonic() < until:
        time.sleep(1)
    answered = w.load.writes - w.load.unanswered - before
    w.store.relay.away(False)
    w.store.whole()
    all_alive(w)
    return f"{told([took])}; {answered} requests answered meanwhile"


@step("trio", "a bucket that answers after a second, for 60 s")
def bucket_slow(w):
    def slow():
        w.store.relay.delay = 1.0

    took = recovers(w, slow)
    time.sleep(60)
    w.store.relay.delay = 0.0
    w.store.whole()
    all_alive(w)
    return told([took])


@step("trio", "every Node is killed at once, and started again")
def everybody(w):
    def kill():
        for node in w.store.nodes:
            node.kill()
        for node in w.store.nodes:
            node.start()

    took = recovers(w, kill, 90)
    w.store.whole()
    return f"{told([took])}; {started_again(w)}"
