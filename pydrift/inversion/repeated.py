"""The same step again and again; on CUDA as one graph, so that a step costs one launch instead of a hundred."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

_WARM_UP = 3  # eager steps, in which libraries allocate and choose what must not happen during a capture
_LOOK_EVERY = 10  # steps between looks at the device, each of which waits for it


def repeated(step: Callable[[], None], count: int, device: torch.device) -> Iterator[int]:
    """Calls `step` up to `count` times and yields the number of calls whenever the caller may look at the outcome.

    On the CPU that is after every call. On CUDA the step must work in place on fixed tensors, and change them only
    after all that may fail: after a few calls it is captured as a graph and replayed, or called on where some part of
    it waits for the device or cannot be captured.
    """
    if device.type != "cuda":
        for done in range(1, count + 1):
            step()
            yield done
        return
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for done in range(1, count + 1):
                if done == _WARM_UP and count > _WARM_UP and _never_waits(step):
                    step = _captured(step)  # the call that has just been made is this one
                else:
                    step()
                if done % _LOOK_EVERY == 0 or done == count:
                    yield done
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Captures are not possible on the default stream."""
    return torch.cuda.Stream(device)


def _never_waits(step: Callable[[], None]) -> bool:
    """Calls the step. False, and not called to its end, if it looks at a value: a capture that fails over that leaves
    torch's generator unusable, so it must not be tried."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return True


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a graph; capturing does not execute it. The step itself where some part of it refuses capture."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            step()
    except RuntimeError:
        return step
    return graph.replay
