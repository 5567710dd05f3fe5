"""What clients were told: which objects exist, which are gone, and which may be either because no answer came."""

import threading

from processes import want

# What Kubernetes makes by itself.
UNASKED = {"kube-root-ca.crt", "default", "kube-system", "kube-public", "kube-node-lease"}


class Ledger:
    """Objects by collection and name. Safe to write from many threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.present, self.gone, self.unknown = {}, set(), set()

    def created(self, collection, item):
        key = (collection, item["metadata"]["name"])
        with self.lock:
            self.present[key] = item["metadata"]["uid"]
            self.unknown.discard(key)

    def deleted(self, collection, name):
        with self.lock:
            self.present.pop((collection, name), None)
            self.gone.add((collection, name))

    def unsure(self, collection, name):
        with self.lock:
            self.present.pop((collection, name), None)
            self.unknown.add((collection, name))

    def copy(self):
        """What was told up to now."""
        with self.lock:
            return dict(self.present), set(self.gone)

    def collections(self):
        return sorted({collection for collection, _ in [*self.present, *self.gone, *self.unknown]})

    def compare(self, api):
        """Fails unless the apiserver shows what clients were told, in every collection. Returns how much it was."""
        for collection in self.collections():
            found = {(collection, item["metadata"]["name"]): item["metadata"]["uid"] for item in api.each(collection)}
            told = {key: uid for key, uid in self.present.items() if key[0] == collection}
            missing = [key for key, uid in told.items() if found.get(key) != uid]
            risen = [key for key in found if key in self.gone]
            strangers = [key for key in found if key not in told and key not in self.unknown and key[1] not in UNASKED]
            want(not missing, f"{len(missing)} objects of {collection} are missing or others, as {missing[:3]}")
            want(not risen, f"{len(risen)} deleted objects of {collection} are there, as {risen[:3]}")
            want(not strangers, f"{len(strangers)} objects of {collection} are there unasked, as {strangers[:3]}")
        return f"{len(self.present)} there, {len(self.gone)} gone, {len(self.unknown)} unknown"
