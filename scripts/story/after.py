"""The load ends: what twelve writers and one watcher were told while everything broke."""

import time

from processes import NotRun
from telling import step


@step("after", "the bucket is copied while it is written")
def backed_up(w):
    if not hasattr(w.store, "back_up"):
        raise NotRun("it has no bucket")
    before, _ = w.ledger.copy()
    w.store.back_up(w.plane.home / "copy")
    time.sleep(3)
    _, gone = w.ledger.copy()
    w.copied = {key: uid for key, uid in before.items() if key not in gone and key in w.ledger.present}
    return f"{len(w.copied)} objects"


@step("after", "counted together: no update was lost, none was made up")
def counter(w):
    w.load.stop()
    return f"{w.load.check_counter()} updates; of {w.load.writes} requests {w.load.unanswered} had no answer"


@step("after", "one watch through all of it saw every change once, in order")
def watched(w):
    return f"{w.load.check_watcher()} events on {w.load.watcher.connections} connections"
