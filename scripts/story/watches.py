"""Watches: from a list on, with initial events, from too long ago, and through a restart of the store."""

from objects import WIDGETS, widget
from processes import want, wait_for
from telling import configmap, step
from watching import Watcher

PATH = "/api/v1/namespaces/watches/configmaps"


def now(w):
    return w.api.get(PATH)["metadata"]["resourceVersion"]


@step("watches", "a watch tells of each change once, in order")
def plain(w):
    w.namespace("watches")
    watcher = Watcher(w.api, PATH, now(w))
    for n in range(50):
        w.api.create(PATH, configmap(f"w-{n}"))
        w.api.merge(f"{PATH}/w-{n}", {"data": {"n": "1"}})
        w.api.delete(f"{PATH}/w-{n}")
    watcher.wait("DELETED", "w-49")
    watcher.close()
    told = [f"w-{n}" for n in range(50)]
    for kind in ("ADDED", "MODIFIED", "DELETED"):
        mine = [name for name in watcher.seen(kind) if name.startswith("w-")]
        want(mine == told, f"{kind}: {mine}")
    want(watcher.versions() == sorted(set(watcher.versions())), "out of order, or twice")
    want(watcher.connections == 1, f"it took {watcher.connections} connections")


@step("watches", "a watch from the past replays what happened since")
def replayed(w):
    start = now(w)
    for n in range(20):
        w.ledger.created(PATH, w.api.create(PATH, configmap(f"past-{n}")))
    watcher = Watcher(w.api, PATH, start)
    watcher.wait("ADDED", "past-19")
    watcher.close()
    want(watcher.seen("ADDED") == [f"past-{n}" for n in range(20)], f"replayed {watcher.seen('ADDED')}")


@step("watches", "WatchList: initial events, the bookmark that ends them, then what is new")
def watch_list(w):
    present = set(item["metadata"]["name"] for item in w.api.get(PATH)["items"])
    parameters = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    watcher = Watcher(w.api, PATH, None, **parameters)
    wait_for("the end of the initial events", lambda: initial_end(watcher), 20)
    end = watcher.events.index(initial_end(watcher))
    initial = [item["metadata"]["name"] for _, item in watcher.events[:end]]
    want(len(initial) == len(present) and set(initial) == present, f"{len(initial)} initial of {len(present)}")
    w.ledger.created(PATH, w.api.create(PATH, configmap("after-the-initial")))
    watcher.wait("ADDED", "after-the-initial")
    watcher.close()
    return f"{len(initial)} initial events"


def initial_end(watcher):
    for event in list(watcher.events):
        if event[0] == "BOOKMARK" and event[1]["metadata"].get("annotations", {}).get("k8s.io/initial-events-end"):
            return event
    return None


@step("watches", "a watch that nothing changes for moves on by bookmarks")
def bookmarks(w):
    quiet = "/api/v1/namespaces/watches/secrets"
    start = w.api.get(quiet)["metadata"]["resourceVersion"]
    watcher = Watcher(w.api, quiet, start)
    for n in range(10):
        w.ledger.created(PATH, w.api.create(PATH, configmap(f"elsewhere-{n}")))
    moved = lambda: watcher.seen("BOOKMARK") and int(watcher.version) > int(start)
    wait_for("a bookmark beyond the start", moved, 150, 1)
    watcher.close()


@step("watches", "a watch from before the cache's window is told 410, and a new list recovers")
def too_old(w):
    # The cache of a kind that was made later holds nothing from the beginning.
    watcher = Watcher(w.api, WIDGETS, "2", again=False)
    wait_for("an answer", lambda: watcher.error, 20)
    want(watcher.error["code"] == 410, f"it was told {watcher.error}")
    again = Watcher(w.api, WIDGETS, w.api.get(WIDGETS)["metadata"]["resourceVersion"])
    w.ledger.created(WIDGETS, w.api.create(WIDGETS, widget("after-410")))
    again.wait("ADDED", "after-410")
    again.close()


@step("restart", "watches go on through a restart of the store, and miss nothing")
def through_restart(w):
    watcher = Watcher(w.api, PATH, now(w))
    starts = w.plane.apiserver.starts
    w.ledger.created(PATH, w.api.create(PATH, configmap("before-restart")))
    w.store.stop()
    w.store.start()
    wait_for("a write to be taken", lambda: w.ledger.created(PATH, w.api.create(PATH, configmap("after-restart"))) or True, 60)
    watcher.wait("ADDED", "after-restart", 60)
    watcher.close()
    mine = [name for name in watcher.seen("ADDED") if name.endswith("-restart")]
    want(mine == ["before-restart", "after-restart"], f"seen: {mine}")
    want(w.plane.apiserver.starts == starts and w.plane.apiserver.alive(), "the apiserver had to be started again")
    return f"{watcher.connections} connection"
