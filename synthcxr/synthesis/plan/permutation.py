"""A shuffle that is computed for one place at a time: nothing to hold in memory, and nothing comes twice."""

from hashlib import blake2b

ROUNDS = 4
SEED_BITS = 62  # below the 2**63 that a seed may be
GROUP_BITS = 48


class Permutation:
    """A one-to-one map of range(size) onto itself that looks random and depends on `key` alone.

    A balanced Feistel network (Luby and Rackoff 1988) is one-to-one whatever its rounds compute; a result beyond `size`
    goes through it again until it falls inside (cycle walking, Black and Rogaway 2002), which keeps it one-to-one.
    """

    def __init__(self, size: int, key: str) -> None:
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._key = blake2b(key.encode(), digest_size=32).digest()

    def __call__(self, place: int) -> int:
        """Where `place`, in [0, size), goes.

        Raises:
            ValueError: there's no such place.
        """
        if not 0 <= place < self.size:
            raise ValueError(f"place = {place} must be in [0, {self.size})")
        value = self._mixed(place)
        while value >= self.size:
            value = self._mixed(value)
        return value

    def _mixed(self, value: int) -> int:
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for number in range(ROUNDS):
            digest = blake2b(right.to_bytes(8, "big") + bytes([number]), key=self._key, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "big") & mask)
        return left << self._half | right


class Seeds:
    """The seed of each try of each group of rows: no two are equal, within one run, by construction."""

    def __init__(self, seed: int) -> None:
        self._permutation = Permutation(1 << SEED_BITS, f"seeds/{seed}")

    def __call__(self, group: int, attempt: int = 0) -> int:
        """In [0, 2**62). Groups below 2**48, attempts below 2**14."""
        if not (0 <= group < 1 << GROUP_BITS and attempt >= 0):
            raise ValueError(f"group = {group}, attempt = {attempt}: there's no such try")
        return self._permutation(attempt << GROUP_BITS | group)
