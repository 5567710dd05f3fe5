"""Lists: many pages as of one moment, exact moments, moments that are gone or not yet there."""

from api import side_by_side
from processes import want, wait_for
from telling import configmap, step

MANY = 20_000
LISTED = "/api/v1/namespaces/lists/configmaps"


@step("lists", "20,000 objects are created")
def many(w):
    w.namespace("lists")
    number = w.number(MANY)
    made = side_by_side(lambda n: w.api.create(LISTED, configmap(f"item-{n:05}", n=str(n))), range(number))
    for item in made:
        w.ledger.created(LISTED, item)
    want(len({item["metadata"]["resourceVersion"] for item in made}) == number, "two creations have one resourceVersion")
    return f"{number}"


def names(items):
    return [item["metadata"]["name"] for item in items if item["metadata"]["name"].startswith("item-")]


@step("lists", "pages of 500 hold each object once, in order, and count down what remains")
def paged(w):
    number, seen, pages = w.number(MANY), [], 0
    for page in w.api.pages(LISTED):
        seen += page["items"]
        pages += 1
        remaining = page["metadata"].get("remainingItemCount", 0)
        # kube-root-ca.crt is in the namespace too.
        want(remaining == number + 1 - len(seen), f"page {pages}: {remaining} remain after {len(seen)}")
    want(names(seen) == [f"item-{n:05}" for n in range(number)], f"{len(names(seen))} names, or another order")
    return f"{pages} pages"


@step("lists", "an interrupted continue goes on as of the first page, whatever is written meanwhile")
def interrupted(w):
    number = w.number(MANY)
    first = w.api.get(f"{LISTED}?limit=500")
    victim, changed = f"item-{number - 1:05}", f"item-{number - 2:05}"
    w.api.delete(f"{LISTED}/{victim}")
    w.ledger.deleted(LISTED, victim)
    w.api.merge(f"{LISTED}/{changed}", {"data": {"n": "changed"}})
    w.ledger.created(LISTED, w.api.create(LISTED, configmap("item-99999")))
    items, page = first["items"], first
    while more := page["metadata"].get("continue"):
        page = w.api.get(f"{LISTED}?limit=500&continue={more}")
        want(page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], "a page of another moment")
        items += page["items"]
    found = {item["metadata"]["name"]: item for item in items}
    want(len(found) == number + 1 and victim in found and "item-99999" not in found, "pages mix two moments")
    want(found[changed]["data"]["n"] == str(number - 2), "a page shows what was written later")


@step("lists", "lists at an exact resourceVersion, at least one, and any")
def exact(w):
    base = w.api.get(f"{LISTED}?limit=1")["metadata"]["resourceVersion"]
    w.ledger.created(LISTED, w.api.create(LISTED, configmap("item-later")))
    at = f"resourceVersion={base}"
    page = w.api.get(f"{LISTED}?{at}&resourceVersionMatch=Exact&limit=500")
    want(page["metadata"]["resourceVersion"] == base, "an exact list of another moment")
    whole = w.api.get(f"{LISTED}?{at}&resourceVersionMatch=Exact")["items"]
    want("item-later" not in names(whole) and len(whole) == w.number(MANY) + 1, f"the exact list has {len(whole)}")
    fresh = w.api.get(f"{LISTED}?{at}&resourceVersionMatch=NotOlderThan")
    want(int(fresh["metadata"]["resourceVersion"]) >= int(base), "a list older than asked for")
    want(w.api.get(f"{LISTED}?resourceVersion=0")["items"], "an empty list at any resourceVersion")


@step("lists", "a list at a resourceVersion of the future is refused as too large")
def future(w):
    now = int(w.api.get(f"{LISTED}?limit=1")["metadata"]["resourceVersion"])
    answers = [
        w.api.ask("GET", f"{LISTED}?resourceVersion={now + 1_000_000}&resourceVersionMatch={match}")
        for match in ("Exact", "NotOlderThan")
    ]
    for answer in answers:
        want(answer.code in (500, 504) and "Too large resource version" in answer.body["message"], f"answered {answer}")


@step("lists", "selectors over many pages")
def selected(w):
    label = f"{LISTED}/item-00007"
    w.api.merge(label, {"metadata": {"labels": {"one": "of-many"}}})
    found = list(w.api.each(f"{LISTED}?labelSelector=one%3Dof-many"))
    want(names(found) == ["item-00007"], f"found {names(found)}")
    found = list(w.api.each(f"{LISTED}?fieldSelector=metadata.name%3Ditem-00008"))
    want(names(found) == ["item-00008"], f"found {names(found)}")


@step("lists", "a list is begun that nobody goes on with before its history is compacted")
def begun(w):
    w.begun = w.api.get(f"{LISTED}?limit=500")["metadata"]


@step("lists", "the cache and the store agree on their size")
def counted(w):
    metrics = lambda: w.api.metrics().total("apiserver_resource_objects", resource="configmaps")
    wait_for("the object count to be measured", lambda: metrics() >= w.number(MANY), 120, 2)
    return f"{metrics():.0f} configmaps"
