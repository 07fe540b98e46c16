"""Lazy tensors: whatever chain of views a loader makes, the part is that of the real tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.engines.boxes import box_of
from objectives.engines.lazy import LazyTensor, Making, Rehearsal

SHAPES = {"matrix": (6, 8), "cube": (4, 3, 6), "row": (12,), "one": (1,), "flat": (2, 1, 5)}


class Parts:
    """A source over real tensors, which notes what was asked of it."""

    def __init__(self, fail: str | None = None) -> None:
        self.real = {
            name: torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape) + 1
            for name, shape in SHAPES.items()
        }
        self.asked: list[tuple[str, int]] = []
        self.fail = fail

    def specs(self):
        return self.real

    def ahead(self):
        yield from self.real

    def part(self, name, spans, out=None):
        if name == self.fail:
            raise OSError("the disk is gone")
        box = self.real[name][tuple(slice(*span) for span in spans)]
        self.asked.append((name, box.numel()))
        made = box.contiguous()
        if out is not None:
            assert out.is_contiguous()
            assert out.shape == (box.numel(),)
            made = out.copy_(made.view(-1)).view(box.shape)
        return made


def step(data: st.DataObject, tensor: torch.Tensor):
    """A view that a loader might make of a tensor of this shape."""
    kinds = ["transpose", "unsqueeze", "chunk", "getitem", "view", "narrow", "narrow"]
    kind = data.draw(st.sampled_from(kinds))
    axis = data.draw(st.integers(0, max(0, tensor.ndim - 1)))
    if tensor.ndim == 0:
        return lambda t: t.unsqueeze(0)
    size = tensor.shape[axis]
    if kind == "narrow":
        start = data.draw(st.integers(0, size - 1))
        length = data.draw(st.integers(1, size - start))
        return lambda t: t.narrow(axis, start, length)
    if kind == "transpose":
        other = data.draw(st.integers(0, tensor.ndim - 1))
        return lambda t: t.transpose(axis, other)
    if kind == "unsqueeze":
        return lambda t: t.unsqueeze(axis)
    if kind == "chunk":
        pieces = data.draw(st.integers(1, 3))
        at = data.draw(st.integers(0, len(tensor.chunk(pieces, axis)) - 1))
        return lambda t: t.chunk(pieces, axis)[at]
    if kind == "getitem":
        stride = data.draw(st.sampled_from([1, 1, 2]))
        return lambda t: t[(slice(None),) * axis + (slice(None, None, stride),)]
    for shape in ((tensor.shape[0], -1), (-1,), (-1, 2, tensor.shape[-1])):
        try:
            tensor.view(shape)
        except RuntimeError:
            continue
        if data.draw(st.booleans()):
            return lambda t: t.view(shape)
    return lambda t: t


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_chain_of_views_is_the_same_part(data):
    source = Parts()
    making = Making(source)
    lazy = dict(making.tensors())
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    seen, real = lazy[name], source.real[name]
    for _ in range(data.draw(st.integers(0, 5))):
        view = step(data, real)
        seen, real = view(seen), view(real)
    assert type(seen) is LazyTensor
    assert seen.shape == real.shape
    target = torch.zeros(real.shape)
    target.copy_(seen)
    assert torch.equal(target, real)
    box = box_of(SHAPES[name], real.shape, real.stride(), real.storage_offset())
    whole = source.real[name].numel()
    assert source.asked == [(name, real.numel() if box is not None else whole)]
    assert making.made - making.whole == real.numel()


@pytest.mark.parametrize(
    ("cut", "boxed"),
    [
        (lambda t: t[2:5], True),
        (lambda t: t[:, 4:], True),
        (lambda t: t.t()[1:3], True),
        (lambda t: t.view(2, 3, 8)[1], True),
        (lambda t: t.view(-1)[8:24], True),
        (lambda t: t.view(-1)[4:20], False),  # half rows at both ends
        (lambda t: t[::2], False),
        (lambda t: t[:1].expand(3, 8), False),
        (lambda t: t.view(3, 2, 8)[:, 1], False),  # interleaved heads
    ],
)
def test_only_the_part_is_made_where_it_is_a_box(cut, boxed):
    source = Parts()
    lazy = dict(Making(source).tensors())
    expected = cut(source.real["matrix"])
    target = torch.zeros(expected.shape)
    target.copy_(cut(lazy["matrix"]))
    assert torch.equal(target, expected)
    assert (source.asked == [("matrix", expected.numel())]) == boxed


def test_parts_go_straight_into_the_parameter_where_they_can():
    source = Parts()
    lazy = dict(Making(source).tensors())
    fused = torch.zeros(9, 8)
    fused[3:].copy_(lazy["matrix"])
    fused.narrow(0, 0, 3).copy_(lazy["matrix"].narrow(0, 3, 3))
    assert torch.equal(fused, torch.cat([source.real["matrix"][3:], source.real["matrix"]]))
    half = torch.zeros(6, 8, dtype=torch.bfloat16)
    half.copy_(lazy["matrix"])
    assert torch.equal(half, source.real["matrix"].bfloat16())


def test_what_is_no_view_is_made_and_gone_on_with():
    source = Parts()
    lazy = dict(Making(source).tensors())["matrix"]
    real = source.real["matrix"]
    assert torch.equal(torch.cat([lazy, lazy]), torch.cat([real, real]))
    assert torch.equal(lazy.t().reshape(-1), real.t().reshape(-1))
    assert torch.equal(lazy.to(torch.bfloat16), real.bfloat16())
    assert lazy.narrow(0, 0, 1).narrow(1, 0, 1).item() == 1.0


def test_a_view_to_another_dtype_is_made_and_gone_on_with():
    source = Parts()
    lazy = dict(Making(source).tensors())["matrix"]
    real = source.real["matrix"]
    for dtype in (torch.int32, torch.int16, torch.uint8):  # as wide, and narrower
        seen = lazy[1:3].view(dtype)
        assert torch.equal(seen, real[1:3].view(dtype))
        target = torch.zeros(seen.shape, dtype=dtype)
        target.copy_(seen)
        assert torch.equal(target, real[1:3].view(dtype))
    assert source.asked == [("matrix", 16)] * 3


def test_a_loader_may_write_by_indexing():
    making = Making(Parts())
    lazy = dict(making.tensors())
    target = torch.zeros(6, 8)
    target[...] = lazy["matrix"]
    target[1:3, :4] = lazy["matrix"][:2, 4:]
    expected = Parts().real["matrix"]
    expected[1:3, :4] = Parts().real["matrix"][:2, 4:]
    assert torch.equal(target, expected)
    assert making.taken == {"matrix": 56}


def test_after_a_fault_the_loader_comes_to_its_end():
    making = Making(Parts(fail="matrix"))
    target = torch.ones(6, 8)
    for name, lazy in making.tensors():
        torch.empty(SHAPES[name]).copy_(lazy)
        if name == "matrix":
            target.copy_(lazy)
    assert isinstance(making.fault, OSError)
    assert not target.any()
    assert making.taken.keys() == set(SHAPES)
    assert making.name == "flat"


def test_a_rehearsal_writes_nothing_and_sees_what_does_not_fit():
    live = {"a": torch.ones(6, 8), "b": torch.ones(3, 3)}
    making = Making(Parts(), write=False)
    lazy = dict(making.tensors())
    with Rehearsal(live) as rehearsal:
        live["a"].data.narrow(0, 0, 3).copy_(lazy["matrix"][:3])
        live["b"][1:].data.fill_(0)
        live["b"][0] = lazy["row"][:3]
        live["b"][torch.tensor([2])] = lazy["row"][3:6]
        for wrong in (live["a"].copy_, lambda given: live["a"].__setitem__(..., given)):
            with pytest.raises(RuntimeError, match="expand"):
                wrong(lazy["cube"])
    assert rehearsal.written == {"a": 24, "b": 12}
    assert all(tensor.all() for tensor in live.values())
    assert making.taken == {"matrix": 24, "row": 6}
    assert making.types == dict.fromkeys(("matrix", "row"), torch.float32)
