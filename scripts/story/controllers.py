"""Controllers at work: nodes that renew leases, deployments that grow and shrink, a namespace that goes."""

import time

from api import side_by_side
from processes import want, wait_for
from telling import configmap, step

NODES = 200
PODS = 2_000
DOOMED = 5_000
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
BUSY = "/api/v1/namespaces/busy"
DEPLOYMENTS = "/apis/apps/v1/namespaces/busy/deployments"


def node(name):
    room = {"cpu": "1000", "memory": "1Ti", "pods": "1000"}
    return {"metadata": {"name": name, "labels": {"type": "kwok"}}, "status": {"allocatable": room, "capacity": room}}


def is_ready(item):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))


@step("controllers", "200 fake nodes become ready and renew their leases")
def nodes(w):
    w.plane.needs(w.plane.controllers, w.plane.nodes)
    number = w.number(NODES)
    side_by_side(lambda n: w.api.create("/api/v1/nodes", node(f"node-{n}")), range(number))
    count = lambda: sum(map(is_ready, w.api.get("/api/v1/nodes")["items"]))
    wait_for(f"{number} ready nodes", lambda: count() == number, 180, 1)
    before = renewals(w)
    wait_for("every lease to be renewed", lambda: len(before) == number and renewed(w, before) == number, 120, 2)
    return f"{number} nodes"


def renewals(w):
    return {item["metadata"]["name"]: item["spec"]["renewTime"] for item in w.api.get(LEASES)["items"]}


def renewed(w, before):
    return sum(time != before[name] for name, time in renewals(w).items())


def deployment(name, replicas):
    labels = {"app": name}
    container = {"name": "one", "image": "story.example/none"}
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def scale(w, replicas, seconds):
    """Scales every deployment, and waits until exactly that many pods run."""
    items = w.api.get(DEPLOYMENTS)["items"]
    for item in items:
        w.api.merge(f"{DEPLOYMENTS}/{item['metadata']['name']}/scale", {"spec": {"replicas": replicas}})
    wanted, start = replicas * len(items), time.monotonic()
    wait_for(f"{wanted} running pods", lambda: running(w) == (wanted, wanted), seconds, 2)
    return time.monotonic() - start


def running(w):
    """Pods that run, and pods in all."""
    pods = w.api.get(f"{BUSY}/pods")["items"]
    return sum(pod["status"].get("phase") == "Running" for pod in pods), len(pods)


@step("controllers", "deployments are scaled to 2,000 pods and back")
def pods(w):
    w.plane.needs(w.plane.controllers, w.plane.scheduler, w.plane.nodes)
    w.namespace("busy")
    account = "/serviceaccounts/default"
    wait_for("the namespace's account", lambda: w.api.ask("GET", BUSY + account).ok(), 60)
    for n in range(10):
        w.api.create(DEPLOYMENTS, deployment(f"web-{n}", 1))
    each = w.number(PODS) // 10
    up = scale(w, each, 900)
    down = scale(w, 1, 600)
    return f"{each * 10} pods in {up:.0f} s, back to 10 in {down:.0f} s"


@step("controllers", "events are there, written with a lease")
def events(w):
    w.plane.needs(w.plane.controllers, w.plane.scheduler, w.plane.nodes)
    found = w.api.get(f"{BUSY}/events?limit=500")
    want(found["items"], "no events")
    remaining = found["metadata"].get("remainingItemCount", 0)
    return f"{len(found['items']) + remaining} events"


@step("controllers", "a rollout ends, and its old ReplicaSet is empty")
def rollout(w):
    w.plane.needs(w.plane.controllers, w.plane.scheduler, w.plane.nodes)
    w.api.merge(f"{DEPLOYMENTS}/web-0", {"spec": {"template": {"metadata": {"annotations": {"again": "yes"}}}}})
    w.plane.kubectl("rollout", "status", "deployment/web-0", "-n", "busy", "--timeout=120s")


@step("controllers", "a namespace with 5,000 objects is deleted")
def namespace(w):
    w.plane.needs(w.plane.controllers)
    path, number = w.namespace("doomed"), w.number(DOOMED)
    side_by_side(lambda n: w.api.create(f"{path}/configmaps", configmap(f"gone-{n}")), range(number))
    start = time.monotonic()
    w.api.delete(path)
    wait_for("the namespace to go", lambda: w.api.gone(path), 900, 1)
    w.ledger.deleted("/api/v1/namespaces", "doomed")
    left = w.api.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddoomed")["items"]
    want(not left, f"{len(left)} objects outlived their namespace")
    return f"{number} objects in {time.monotonic() - start:.0f} s"
