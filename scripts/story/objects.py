"""Objects: every verb, as people and controllers use them."""

import json

from api import APPLY
from processes import want, wait_for
from telling import configmap, step

GROUP = "story.example"
WIDGETS = f"/apis/{GROUP}/v1/namespaces/objects/widgets"


@step("objects", "every verb with kubectl on namespaces, configmaps and secrets")
def verbs(w):
    k = w.plane.kubectl
    w.ledger.created("/api/v1/namespaces", json.loads(k("create", "namespace", "objects", "-o", "json")))
    for kind, words in {"configmap": ("configmap",), "secret": ("secret", "generic")}.items():
        made = json.loads(k("create", *words, "one", "-n", "objects", "--from-literal=a=1", "-o", "json"))
        w.ledger.created(f"/api/v1/namespaces/objects/{kind}s", made)
        k("label", kind, "one", "-n", "objects", "colour=blue")
        k("annotate", kind, "one", "-n", "objects", "note=x")
        k("patch", kind, "one", "-n", "objects", "--type=json", "-p", '[{"op":"add","path":"/data/b","value":"Mg=="}]')
        k("create", *words, "two", "-n", "objects", "--from-literal=a=1")
        found = json.loads(k("get", kind, "-n", "objects", "-l", "colour=blue", "-o", "json"))["items"]
        want([item["metadata"]["name"] for item in found] == ["one"] and "b" in found[0]["data"], f"found {found}")
        k("delete", kind, "two", "-n", "objects")
        w.ledger.deleted(f"/api/v1/namespaces/objects/{kind}s", "two")
        want("NotFound" in k("get", kind, "two", "-n", "objects", fails=True), "it is deleted and found")
        want("already exists" in k("create", *words, "one", "-n", "objects", fails=True), "made twice")


@step("objects", "updates with an old resourceVersion or uid are refused")
def conflicts(w):
    path = "/api/v1/namespaces/objects/configmaps"
    old = w.api.create(path, configmap("cas", n="0"))
    new = w.api.replace(f"{path}/cas", {**old, "data": {"n": "1"}})
    want(w.api.ask("PUT", f"{path}/cas", old).code == 409, "an old resourceVersion was accepted")
    stale = {"preconditions": {"uid": "another"}}
    want(w.api.ask("DELETE", f"{path}/cas", stale).code == 409, "another uid's object was deleted")
    same = w.api.replace(f"{path}/cas", new)
    want(same["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"], "an update of nothing was written")
    w.api.delete(f"{path}/cas", preconditions={"resourceVersion": new["metadata"]["resourceVersion"]})
    w.ledger.deleted(path, "cas")


def definition():
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [
        {"name": name, "served": True, "storage": name == "v1", "schema": schema, "subresources": {"status": {}}}
        for name in ("v1beta1", "v1")
    ]
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": versions},
    }


def widget(name, version="v1", **spec):
    return {"apiVersion": f"{GROUP}/{version}", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


@step("objects", "custom resources in two versions, and another storage version")
def custom_resources(w):
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    w.api.create(path, definition())
    beta = WIDGETS.replace("/v1/", "/v1beta1/")
    wait_for("widgets to be served", lambda: w.api.ask("GET", beta).ok() and w.api.ask("GET", WIDGETS).ok(), 30)
    w.ledger.created(WIDGETS, w.api.create(beta, widget("one", "v1beta1", size=1)))
    want(w.api.get(f"{WIDGETS}/one")["spec"] == {"size": 1}, "v1 does not show what v1beta1 wrote")
    w.api.merge(f"{WIDGETS}/one/status", {"status": {"ok": True}})
    change = definition()
    change["spec"]["versions"][0]["storage"], change["spec"]["versions"][1]["storage"] = True, False
    w.api.apply(f"{path}/widgets.{GROUP}", change, "story", force=True)
    stored = wait_for("both versions to be stored", lambda: storage_versions(w, path), 30)
    w.api.merge(f"{WIDGETS}/one", {"spec": {"size": 2}})
    want(w.api.get(f"{beta}/one")["spec"] == {"size": 2}, "v1beta1 does not show what v1 wrote")
    w.ledger.created(WIDGETS, w.api.create(WIDGETS, widget("two")))
    return f"stored as {', '.join(stored)}"


def storage_versions(w, path):
    stored = w.api.get(f"{path}/widgets.{GROUP}")["status"]["storedVersions"]
    return stored if len(stored) == 2 else None


@step("objects", "server-side apply: two managers, a conflict, force, and giving up a field")
def server_side_apply(w):
    path = "/api/v1/namespaces/objects/configmaps/applied"
    content = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}}
    first = w.api.apply(path, {**content, "data": {"a": "1", "b": "1"}}, "first")
    want(first.code == 201, f"the first apply answered {first}")
    w.ledger.created("/api/v1/namespaces/objects/configmaps", first.body)
    want(w.api.apply(path, {**content, "data": {"a": "2"}}, "second").code == 409, "no conflict was seen")
    want(w.api.apply(path, {**content, "data": {"a": "2"}}, "second", force=True).ok(), "force was refused")
    want(w.api.apply(path, {**content, "data": {}}, "first").ok(), "giving up a field was refused")
    data = w.api.get(path)["data"]
    want(data == {"a": "2"}, f"what is left is {data}")


@step("objects", "finalizers hold an object until they are taken away")
def finalizers(w):
    path = "/api/v1/namespaces/objects/configmaps"
    held = configmap("held")
    held["metadata"]["finalizers"] = ["story.example/hold"]
    w.api.create(path, held)
    w.api.delete(f"{path}/held")
    want("deletionTimestamp" in w.api.get(f"{path}/held")["metadata"], "it is not marked as deleted")
    w.api.merge(f"{path}/held", {"metadata": {"finalizers": None}})
    want(w.api.gone(f"{path}/held"), "it is still there")
    w.ledger.deleted(path, "held")


def owned(name, owner):
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    return {"metadata": {"name": name, "ownerReferences": [{**reference, "blockOwnerDeletion": True}]}}


@step("objects", "garbage collection: background, foreground and orphans")
def garbage(w):
    w.plane.needs(w.plane.controllers)
    path = "/api/v1/namespaces/objects/configmaps"
    for policy in ("Background", "Foreground", "Orphan"):
        name = policy.lower()
        owner = w.api.create(path, configmap(f"{name}-owner"))
        children = [f"{name}-child-{n}" for n in range(20)]
        made = [w.api.create(path, owned(child, owner)) for child in children]
        w.api.delete(f"{path}/{name}-owner", propagationPolicy=policy)
        wait_for(f"the owner ({policy}) to go", lambda: w.api.gone(f"{path}/{name}-owner"), 60)
        w.ledger.deleted(path, f"{name}-owner")
        if policy == "Orphan":
            kept = [w.api.get(f"{path}/{child}") for child in children]
            want(not any("ownerReferences" in item["metadata"] for item in kept), "orphans still name their owner")
            for item in made:
                w.ledger.created(path, item)
            continue
        wait_for(f"children ({policy}) to go", lambda: all(w.api.gone(f"{path}/{child}") for child in children), 60)
        for child in children:
            w.ledger.deleted(path, child)


@step("objects", "delete-collection takes what its selector names and no more")
def delete_collection(w):
    path = "/api/v1/namespaces/objects/configmaps"
    for n in range(200):
        item = configmap(f"sorted-{n}")
        item["metadata"]["labels"] = {"sort": "even" if n % 2 == 0 else "odd"}
        w.ledger.created(path, w.api.create(path, item))
    w.api.delete(f"{path}?labelSelector=sort%3Deven")
    for n in range(0, 200, 2):
        w.ledger.deleted(path, f"sorted-{n}")
    left = w.api.get(f"{path}?labelSelector=sort")["items"]
    want(len(left) == 100 and all(item["metadata"]["labels"]["sort"] == "odd" for item in left), f"{len(left)} are left")


@step("objects", "what is too large is refused, and the largest that fits is kept")
def too_large(w):
    body = json.dumps(widget("large", text="x" * 1_700_000)).encode()
    answers = [w.api.ask("POST", WIDGETS, body), w.api.ask("PATCH", f"{WIDGETS}/large?fieldManager=s&force=true", body, APPLY)]
    answers.append(w.api.ask("POST", WIDGETS, json.dumps(widget("large", text="x" * 2_500_000)).encode()))
    codes = [answer.code for answer in answers]
    want(not any(answer.ok() for answer in answers), f"it was taken: {codes}")
    want(w.api.gone(f"{WIDGETS}/large"), "it was refused and is there")
    fits = widget("fits", text="y" * 1_500_000)
    w.ledger.created(WIDGETS, w.api.create(WIDGETS, fits))
    want(w.api.get(f"{WIDGETS}/fits")["spec"] == fits["spec"], "it is not what was written")
    return "; ".join(f"{answer.code} {answer.body['message'][:70]}" for answer in answers)
