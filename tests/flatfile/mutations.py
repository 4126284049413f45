"""Damaged copies of a file, the same ones every time, for what must not trip over them."""

import struct

import numpy as np

FOREIGN = (b"", b"TFL3", b"\0" * 64, b"PK\3\4" + b"x" * 99, b"\x1c\0\0\0TFL3" * 9)


def _bytes(rng, content):
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] = rng.integers(0, 256)


def _words(rng, content):
    """Offsets and counts that point far away."""
    for place in rng.integers(0, len(content) // 4, rng.integers(1, 9)) * 4:
        value = int(rng.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1]))
        content[place : place + 4] = struct.pack("<I", value)


def _block(rng, content):
    size = int(rng.integers(1, min(256, len(content) // 2)))
    return size, int(rng.integers(0, len(content) - size))


def _copy(rng, content):
    size, source = _block(rng, content)
    target = int(rng.integers(0, len(content) - size))
    content[target : target + size] = content[source : source + size]


def _zero(rng, content):
    size, place = _block(rng, content)
    content[place : place + size] = bytes(size)


def _cut(rng, content):
    del content[rng.integers(8, len(content)) :]


KINDS = (_bytes, _words, _copy, _bytes, _words, _zero, _bytes, _words, _copy, _cut)


def mutations(content, count, seed=0):
    """Yields `count` damaged copies: bytes, words and blocks changed, the end cut off."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        changed = bytearray(content)
        KINDS[number % len(KINDS)](rng, changed)
        yield bytes(changed)
