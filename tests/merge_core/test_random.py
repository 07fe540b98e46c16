from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import random
from merge_core.random import drop_bits, drop_threshold, mix, philox, tensor_ids, tie_ranks


def words(counter: tuple[int, int, int, int], seed: int, rounds: int) -> list[int]:
    arrays = [np.array([c], np.uint32) for c in counter]
    return [int(word[0]) for word in philox(*arrays, seed, rounds)]


ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("rounds", "counter", "seed", "expected"),
    [  # known-answer vectors of Random123 (kat_vectors, philox4x32)
        (7, (0, 0, 0, 0), 0, "5f6fb709 0d893f64 4f121f81 4f730a48"),
        (10, (0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (10, (ONES,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            10,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(rounds, counter, seed, expected) -> None:
    assert words(counter, seed, rounds) == [int(word, 16) for word in expected.split()]


def test_drop_bits_read_the_counter_as_documented() -> None:
    """One element by hand: block j >> 3, word (j >> 1) & 3, low half first."""
    seed, tensor_id, expert = 0x1234_5678_9ABC_DEF0, 77, 5
    bits = drop_bits(0, 64, seed=seed, tensor_id=tensor_id, expert=expert)
    for j in (0, 1, 7, 8, 21, 63):
        word = words((j >> 3, 0, expert, tensor_id), seed, 7)[(j & 7) >> 1]
        assert int(bits[j]) == (word >> 16 * (j & 1)) & 0xFFFF


def test_drop_bits_use_the_high_word_beyond_2_to_35() -> None:
    start = (3 << 35) + 8
    bits = drop_bits(start, start + 1, seed=1, tensor_id=2, expert=0)
    assert int(bits[0]) == words((1, 3, 0, 2), 1, 7)[0] & 0xFFFF


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 500), st.integers(0, 200), st.sampled_from([0, 2**35 - 100, 2**38 - 9]))
def test_drop_bits_slices_equal_the_whole(skip: int, length: int, origin: int) -> None:
    def bits(start: int, stop: int) -> np.ndarray:
        return drop_bits(start, stop, seed=9, tensor_id=3, expert=1)

    whole = bits(origin, origin + 700)
    part = bits(origin + skip, origin + skip + length)
    assert part.size == length
    np.testing.assert_array_equal(part, whole[skip : skip + length])


def test_masks_differ_by_seed_tensor_and_expert() -> None:
    facts = {"seed": 1, "tensor_id": 2, "expert": 3}
    made = [drop_bits(0, 64, **facts)]
    made += [drop_bits(0, 64, **{**facts, key: facts[key] + 1}) for key in facts]
    made.append(drop_bits(0, 64, **{**facts, "seed": 1 + 2**32}))
    assert len({bits.tobytes() for bits in made}) == len(made)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_kept_share_is_near_the_density(density: float) -> None:
    bits = drop_bits(0, 200_000, seed=0, tensor_id=123, expert=0)
    share = float((bits < np.uint32(drop_threshold(density))).mean())
    assert abs(share - density) <= 4 * np.sqrt(density * (1 - density) / bits.size)


def unshift(x: int, by: int) -> int:
    result = x
    for _ in range(32 // by + 1):
        result = x ^ (result >> by)
    return result


def unmix(x: int) -> int:
    x = unshift(x, 16) * pow(0x846CA68B, -1, 2**32) % 2**32
    x = unshift(x, 15) * pow(0x7FEB352D, -1, 2**32) % 2**32
    return unshift(x, 16)


def test_mix_is_a_bijection() -> None:
    sample = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint64).astype(np.uint32)
    sample = np.concatenate([sample, np.array([0, 1, ONES], np.uint32)])
    assert [unmix(int(y)) for y in mix(sample)] == sample.tolist()


def test_tie_ranks_are_distinct_and_slices_equal_the_whole() -> None:
    whole = tie_ranks(0, 5000, 42)
    assert np.unique(whole).size == 5000
    np.testing.assert_array_equal(tie_ranks(1234, 2345, 42), whole[1234:2345])
    low = 2**32 + 17  # the low word of the index counts
    np.testing.assert_array_equal(tie_ranks(low, low + 9, 42), whole[17:26])


def test_ids_are_blake2s_of_the_name() -> None:
    name = "model.embed_tokens.weight"
    expected = int.from_bytes(hashlib.blake2s(name.encode(), digest_size=4).digest(), "little")
    assert tensor_ids([name]) == {name: expected}


def test_ids_that_collide_are_made_distinct_whatever_the_order(monkeypatch) -> None:
    blake2s = hashlib.blake2s

    class Short:
        """blake2s cut to four values, so that names collide."""

        def __init__(self, text: bytes, digest_size: int) -> None:
            self._value = blake2s(text, digest_size=digest_size).digest()[0] % 4

        def digest(self) -> bytes:
            return bytes([self._value, 0, 0, 0])

    monkeypatch.setattr(random.hashlib, "blake2s", Short)
    ids = tensor_ids(["a", "b", "c", "d"])
    assert sorted(ids.values()) == [0, 1, 2, 3]
    assert tensor_ids(["d", "b", "a", "c"]) == ids
    assert tensor_ids(["a"])["a"] == ids["a"]  # the first in name order keeps its own
