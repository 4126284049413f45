"""Sets of tensors that belong together."""

from collections import defaultdict

Key = tuple[int, int]  # (subgraph, tensor), indices in the file


class Joined:
    """Disjoint sets (union-find), which grow by joining two tensors."""

    def __init__(self) -> None:
        self._parent: dict[Key, Key] = {}

    def find(self, key: Key) -> Key:
        """What stands for the set of a tensor."""
        while self._parent.setdefault(key, key) != key:
            key = self._parent[key]
        return key

    def join(self, a: Key, b: Key) -> None:
        """Let the sets of two tensors be one."""
        self._parent[self.find(a)] = self.find(b)

    def sets(self) -> dict[Key, set[Key]]:
        """All sets, by what stands for each."""
        found: dict[Key, set[Key]] = defaultdict(set)
        for key in list(self._parent):
            found[self.find(key)].add(key)
        return dict(found)
