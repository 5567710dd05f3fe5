"""Boot: the apiserver finds a store that it takes for etcd."""

import json
import re

from processes import want, wait_for
from telling import step

# Lines of the apiserver's log that speak of trouble with the store.
TROUBLE = re.compile(r"^[EF]\d{4} .*(etcd|storage|cacher|watch chan|compact|revision|grpc|rpc error)", re.IGNORECASE)
# The one that docs/COMPATIBILITY.md announces.
ANNOUNCED = "compact failed: rpc error: code = Unimplemented"
# What the story provokes: objects that are too large.
PROVOKED = re.compile(r"request is too large|trying to send message larger than max")


@step("boot", "ready, and every post-start hook is healthy")
def ready(w):
    answer = w.api.ask("GET", "/readyz?verbose")
    checks = re.findall(r"^\[(.)\](\S+)", answer.raw.decode(), re.MULTILINE)
    bad = [name for sign, name in checks if sign != "+"]
    hooks = [name for _, name in checks if name.startswith("poststarthook/")]
    want(answer.ok() and not bad and hooks, f"not healthy: {bad}")
    return f"{len(hooks)} hooks, {w.api.get('/version')['gitVersion']}"


@step("boot", "kubeadm's preflight takes the version")
def preflight(w):
    version = json.loads(w.store.get("/version"))
    number = tuple(int(part) for part in version["etcdserver"].split("."))
    want(number >= (3, 5, 24) and version["etcdcluster"], f"GET /version answered {version}")
    said = w.plane.kubeadm_preflight()
    want("ExternalEtcdVersion" not in said, f"kubeadm said {said}")
    return version["etcdserver"]


@step("boot", "consistent lists come from the cache")
def consistent_lists(w):
    before = w.api.metrics()
    for _ in range(20):
        w.api.get("/api/v1/namespaces")
    after = w.api.metrics()
    name = "apiserver_watch_cache_consistent_read_total"
    want(after.total(name, resource="namespaces", success="true") >= before.total(name, resource="namespaces") + 20,
         f"the apiserver reads lists from its store: {after.where(name, resource='namespaces')}")
    fallen = [labels for labels, value in after.where(name) if value and "true" not in labels["success"]]
    want(not fallen, f"some waited in vain for the cache to be fresh: {fallen}")
    return f"{after.total(name):.0f} so far, none fell back"


@step("boot", "the default namespaces and the kubernetes Service exist")
def defaults(w):
    wait_for("kube-node-lease", lambda: w.api.ask("GET", "/api/v1/namespaces/kube-node-lease").ok(), 30)
    addresses = w.api.get("/api/v1/namespaces/default/endpoints/kubernetes")["subsets"][0]["addresses"]
    want(len(addresses) == 1, f"the kubernetes Service has {addresses}")


def trouble(w):
    """Lines about the store that nobody announced."""
    return [line for line in w.plane.apiserver.lines() if TROUBLE.match(line) and ANNOUNCED not in line and not PROVOKED.search(line)]


def announced(w):
    return sum(ANNOUNCED in line for line in w.plane.apiserver.lines())
