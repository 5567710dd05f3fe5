"""The end: what clients were told is so, and nobody has complained."""

from boot import announced, trouble
from lists import LISTED
from processes import NotRun, want, wait_for
from telling import configmap, step


@step("ending", "every object clients were told exists is there, and none that was deleted")
def told(w):
    return w.ledger.compare(w.api)


@step("ending", "controllers, scheduler and nodes still work")
def working(w, name="last"):
    w.plane.needs(w.plane.controllers, w.plane.scheduler, w.plane.nodes)
    path = "/apis/apps/v1/namespaces/objects/deployments"
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "one", "image": "none"}]}}
    spec = {"replicas": 5, "selector": {"matchLabels": {"app": name}}, "template": template}
    w.api.create(path, {"metadata": {"name": name}, "spec": spec})
    available = lambda: w.api.get(f"{path}/{name}")["status"].get("availableReplicas") == 5
    wait_for("five pods to be available", available, 180, 1)


@step("ending", "the apiserver's cache and its store were compared, and never differed")
def detectors(w):
    name = "apiserver_storage_consistency_checks_total"
    wait_for("a comparison", lambda: w.api.metrics().total(name, status="success") >= 20, 600, 5)
    metrics = w.api.metrics()
    want(metrics.total(name, status="failure") == 0, f"they differ: {metrics.where(name, status='failure')}")
    want(metrics.total("apiserver_storage_decode_errors_total") == 0, "something could not be decoded")
    checks = {status: metrics.total(name, status=status) for status in ("success", "error")}
    return f"{checks['success']:.0f} agreed, {checks['error']:.0f} could not be made"


@step("ending", "consistent lists come from the cache again")
def cached(w):
    name = "apiserver_watch_cache_consistent_read_total"
    before = w.api.metrics()
    for _ in range(50):
        w.api.get(f"{LISTED}?limit=1")
        w.api.get("/api/v1/namespaces")
    after = w.api.metrics()
    fresh = after.total(name, success="true") - before.total(name, success="true")
    stale = after.total(name, success="false") - before.total(name, success="false")
    want(fresh >= 100 and stale == 0, f"{fresh:.0f} from the cache, {stale:.0f} not")
    waits = after.total("apiserver_watch_cache_read_wait_seconds_sum"), after.total("apiserver_watch_cache_read_wait_seconds_count")
    return f"they waited {1000 * waits[0] / max(waits[1], 1):.1f} ms on average since the start"


@step("ending", "what was compacted answers 410, and a new list, or the rest of an old one, recovers")
def expired(w):
    if not w.begun:
        raise NotRun("no list was begun")
    exact = f"{LISTED}?limit=500&resourceVersionMatch=Exact&resourceVersion={w.begun['resourceVersion']}"
    # Ten minutes, and ten thousand Revisions, are kept.
    wait_for("the old resourceVersion to expire", lambda: w.api.ask("GET", exact).code == 410, 900, 5)
    answer = w.api.ask("GET", f"{LISTED}?limit=500&continue={w.begun['continue']}")
    want(answer.code == 410 and answer.body["reason"] == "Expired", f"the old continue answered {answer}")
    # The answer carries another continue, for the rest of the list as it is now.
    rest = w.api.get(f"{LISTED}?limit=500&continue={answer.body['metadata']['continue']}")
    want(rest["items"] and int(rest["metadata"]["resourceVersion"]) > int(w.begun["resourceVersion"]), "no rest of the list")
    want(w.api.get(f"{LISTED}?limit=1")["items"], "no new list")


@step("ending", "a new apiserver finds everything")
def new_apiserver(w):
    w.plane.apiserver.stop()
    w.plane.start_apiserver()
    w.api.forget()
    w.ledger.created("/api/v1/namespaces/objects/configmaps",
                     w.api.create("/api/v1/namespaces/objects/configmaps", configmap("last")))
    return w.ledger.compare(w.api)


@step("restore", "from the copy of the bucket a new control plane finds what was there then")
def restored(w):
    if not w.copied:
        raise NotRun("there is no copy")
    w.plane.stop()
    w.store.restore(w.plane.home / "copy")
    w.plane.start()
    found = {(c, item["metadata"]["name"]): item["metadata"]["uid"]
             for c in {collection for collection, _ in w.copied} for item in w.api.each(c)}
    missing = [key for key, uid in w.copied.items() if found.get(key) != uid]
    want(not missing, f"{len(missing)} of {len(w.copied)} objects are missing, as {missing[:3]}")
    working(w, "restored")
    return f"{len(w.copied)} objects"


@step("ending", "the store has no complaints of its own")
def store(w):
    said = [line for process in w.store.processes for line in process.lines()]
    bad = [line for line in said if "panicked" in line or "ERROR" in line]
    want(all(process.alive() for process in w.store.processes) and not bad, f"it said: {bad[:3]}")
    bucket, disk = w.store.size()
    return f"bucket {bucket / 2**20:.0f} MiB, disk {disk / 2**20:.0f} MiB, Compact refused {announced(w)} times"


@step("quiet", "no line of the apiserver's log speaks of trouble with the store")
def quiet(w):
    lines = trouble(w)
    want(not lines, f"{len(lines)} lines, as: {lines[0] if lines else ''}")
    return f"Compact, which is announced, {announced(w)} times"
