"""The same step again and again; on CUDA as one graph, so that a step costs one launch instead of a hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

_WARM_UP = 3  # eager steps, in which libraries allocate and choose what must not happen during a capture
_LOOK_EVERY = 10  # steps between looks at the device, each of which waits for it


def repeated(step: Callable[[], None], count: int, device: torch.device) -> Iterator[int]:
    """Calls `step` up to `count` times and yields the number of calls whenever the caller may look at the outcome.

    On the CPU that is after every call. On CUDA the step must work in place on fixed tensors, without looking at their
    values: after a few calls it is captured as a graph and replayed, or called on where it cannot be captured.
    """
    if device.type != "cuda":
        for done in range(1, count + 1):
            step()
            yield done
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for done in range(1, count + 1):
                step()
                if done == _WARM_UP:
                    step = _captured(step)
                if done % _LOOK_EVERY == 0 or done == count:
                    yield done
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a graph; capturing does not execute it. The step itself where some part of it refuses capture."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            step()
    except RuntimeError:
        return step
    return graph.replay
