"""Failures under load: the store dies, loses its disk, stands still. The control plane goes on by itself, and
clients were told the truth."""

import signal
import time

from load import all_alive, recovers, started_again
from processes import NotRun
from telling import step


def killed(w):
    w.store.process.kill()
    w.store.start()


@step("failures", "kill -9 of the store under load, five times")
def kills(w):
    took = [recovers(w, lambda: killed(w)) for _ in range(5)]
    all_alive(w)
    return "writes again after " + ", ".join(f"{seconds:.1f}" for seconds in took) + " s"


@step("failures", "a clean restart of the store under load")
def restarts(w):
    def restart():
        w.store.process.stop()
        w.store.start()

    took = recovers(w, restart)
    all_alive(w)
    return f"writes again after {took:.1f} s"


@step("failures", "kill -9, and the Node's disk is lost: everything comes back from the bucket")
def disk_lost(w):
    if not hasattr(w.store, "lose_disk"):
        raise NotRun(f"{w.store.process.name} has nothing but its disk")

    def lose():
        w.store.process.kill()
        w.store.lose_disk()
        w.store.start()

    return f"writes again after {recovers(w, lose, 120):.1f} s; {started_again(w)}"


@step("failures", "the store stands still for 15 s")
def paused(w):
    def pause():
        w.store.process.send(signal.SIGSTOP)
        time.sleep(15)
        w.store.process.send(signal.SIGCONT)

    return f"writes again after {recovers(w, pause, 90):.1f} s, the pause among them; {started_again(w)}"
