"""Repeats a step; on CUDA as one graph, so that a step costs one launch instead of about a hundred."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

_WARM_UP = 3  # eager steps, in which libraries allocate memory and choose kernels, as a capture forbids
_CHECK_EVERY = 10  # steps between two checks by the caller, each of which waits for the device


def repeat_step(step: Callable[[], None], count: int, device: torch.device) -> Iterator[int]:
    """Calls `step` up to `count` times, and yields the number of calls whenever the caller may check the outcome.

    On the CPU that is after every call. On CUDA the step must work in place on fixed tensors, and must change them only
    after everything that can fail. After a few calls the step is captured as a graph, which is then replayed. A step
    that waits for the device, or cannot be captured, is called as before.
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
                    step = _capture(step)  # `_never_waits` has just made this call
                else:
                    step()
                if done % _CHECK_EVERY == 0 or done == count:
                    yield done
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream for captures, which are not possible on the default stream."""
    return torch.cuda.Stream(device)


def _never_waits(step: Callable[[], None]) -> bool:
    """Calls the step. False if it waits for the device: then the call stops there, and the step must not be captured.

    A capture that fails for that reason leaves torch's generator unusable.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return True


def _capture(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a graph, without executing it; the step itself if a part of it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            step()
    except RuntimeError:
        return step
    return graph.replay
