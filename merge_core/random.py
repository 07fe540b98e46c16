"""Counter-based random bits: facts of (seed, tensor, expert, element), the same everywhere.

`mix` orders tied magnitudes; `drop_bits` makes the masks of DARE. Nothing here has state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

UInt32 = npt.NDArray[np.uint32]
UInt16 = npt.NDArray[np.uint16]

_LOW32 = 0xFFFFFFFF
_ROUNDS = 7  # Philox4x32-7 passes BigCrush (Salmon et al., SC'11, table 2)


def tensor_ids(names: Iterable[str]) -> dict[str, int]:
    """A distinct 32-bit id per tensor name: blake2s, little-endian.

    Names that collide are hashed again, in name order, with as many zero bytes after them as it
    takes; so an id depends on the set of names only.
    """
    ids: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(names):
        text = name.encode()
        while (
            number := int.from_bytes(hashlib.blake2s(text, digest_size=4).digest(), "little")
        ) in taken:
            text += b"\0"
        ids[name] = number
        taken.add(number)
    return ids


def mix(x: UInt32) -> UInt32:
    """lowbias32, a bijection of 32-bit integers (constants by Chris Wellons)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def tie_ranks(start: int, stop: int, tensor_id: int) -> UInt32:
    """r(j) = mix(low32(j) xor id) for flat indices j in [start, stop): the order among ties.

    As a bijection of 32-bit integers it has no ties of its own within 2^32 elements.
    """
    indices = np.arange(start, stop, dtype=np.uint64).astype(np.uint32)
    return mix(indices ^ np.uint32(tensor_id))


def drop_threshold(density: float) -> int:
    """T = floor(d 65536 + .5): an element is kept when its 16 bits are below T."""
    return int(np.floor(density * 65536.0 + 0.5))


def drop_bits(start: int, stop: int, *, seed: int, tensor_id: int, expert: int) -> UInt16:
    """The 16 random bits of each flat index in [start, stop).

    They are the eight halves, low half first, of Philox4x32-7 with counter
    (low32(j >> 3), j >> 35, expert, tensor id) and the seed's low and high word as key.
    """
    first = start // 8
    blocks = np.arange(first, -(-stop // 8), dtype=np.uint64)
    words = philox(
        (blocks & np.uint64(_LOW32)).astype(np.uint32),
        (blocks >> np.uint64(32)).astype(np.uint32),
        np.full(blocks.size, expert, np.uint32),
        np.full(blocks.size, tensor_id, np.uint32),
        seed,
    )
    halves = np.empty((blocks.size, 8), np.uint16)
    for index, word in enumerate(words):
        halves[:, 2 * index] = (word & np.uint32(0xFFFF)).astype(np.uint16)
        halves[:, 2 * index + 1] = (word >> np.uint32(16)).astype(np.uint16)
    return halves.reshape(-1)[start - 8 * first : stop - 8 * first]


def philox(
    c0: UInt32, c1: UInt32, c2: UInt32, c3: UInt32, seed: int, rounds: int = _ROUNDS
) -> tuple[UInt32, UInt32, UInt32, UInt32]:
    """Philox4x32 (Salmon et al., SC'11) of counters [n] under the 64-bit key `seed`."""
    key0, key1 = seed & _LOW32, seed >> 32
    for _ in range(rounds):
        product0 = c0.astype(np.uint64) * np.uint64(0xD2511F53)
        product1 = c2.astype(np.uint64) * np.uint64(0xCD9E8D57)
        high0 = (product0 >> np.uint64(32)).astype(np.uint32)
        high1 = (product1 >> np.uint64(32)).astype(np.uint32)
        c0, c1, c2, c3 = (
            high1 ^ c1 ^ np.uint32(key0),
            product1.astype(np.uint32),
            high0 ^ c3 ^ np.uint32(key1),
            product0.astype(np.uint32),
        )
        key0 = (key0 + 0x9E3779B9) & _LOW32
        key1 = (key1 + 0xBB67AE85) & _LOW32
    return c0, c1, c2, c3
