"""Repeated work on a GPU, launched as one CUDA graph instead of kernel by kernel."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Ordinary calls before the capture. They create what a capture must not: the optimiser's state,
# cuDNN's plans and cuBLAS's workspaces.
_WARM_UP_CALLS = 3
# Part of torch's warning, which `set_sync_debug_mode` documents but does not quote.
_WAITED = "called a synchronizing CUDA operation"
# Most signatures that are captured: full and last batches, in micro-batches of two sizes each.
_MAX_GRAPHS = 4


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class GraphedFunction:
    """A function of tensors that is replayed as a CUDA graph once it has run a few times.

    A small network has hundreds of kernels a step, each of which a GPU finishes before the
    processor has launched the next. A graph launches them all at once
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Results are the same to the
    bit, since the kernels are the same.

    The function must not wait for the device, and reads and writes only its inputs and tensors
    that stay at their addresses. If it cannot be captured it goes on as an ordinary function.

    Args:
        function: maps whole numbers and tensors, in this order, to a tensor on `device`. Takes
            tensors of the CPU to the device itself.
        device: device of the function. On a CPU nothing is captured.
        enabled: False never captures.
    """

    def __init__(
        self, function: Callable[..., Tensor], device: torch.device, *, enabled: bool = True
    ) -> None:
        self.function = function
        self.device = device
        self.enabled = enabled and device.type == "cuda"
        self.calls: Counter[tuple[object, ...]] = Counter()
        self.captured: dict[tuple[object, ...], _Captured] = {}

    def __call__(self, *inputs: Tensor, constants: tuple[int, ...] = ()) -> Tensor:
        """Return `function(*constants, *inputs)`. The next call may overwrite the result."""
        if not self.enabled:
            return self.function(*constants, *inputs)
        signature = (*((x.shape, x.dtype) for x in inputs), *constants)
        if signature not in self.captured:
            self.calls[signature] += 1
            if self.calls[signature] == _WARM_UP_CALLS:
                return self._run_watched(inputs, constants)
            if self.calls[signature] < _WARM_UP_CALLS or len(self.captured) == _MAX_GRAPHS:
                return self.function(*constants, *inputs)
            captured = self._capture(inputs, constants)
            if captured is None:
                self.enabled = False
                return self.function(*constants, *inputs)
            self.captured[signature] = captured
        captured = self.captured[signature]
        for static, x in zip(captured.inputs, inputs, strict=True):
            static.copy_(x, non_blocking=True)
        captured.graph.replay()
        return captured.output

    def reset(self) -> None:
        """Forget the captures, because the function does something else from now on."""
        self.calls.clear()
        self.captured.clear()

    def _run_watched(self, inputs: tuple[Tensor, ...], constants: tuple[int, ...]) -> Tensor:
        """Run the function, and never capture it if it waits for the device.

        A capture would fail, and leave torch's random generator of the device unusable.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                output = self.function(*constants, *inputs)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        self.enabled = not any(_WAITED in str(warning.message) for warning in caught)
        return output

    def _capture(self, inputs: tuple[Tensor, ...], constants: tuple[int, ...]) -> _Captured | None:
        """Capture the function, which does not run it. Return None if that is impossible."""
        # A graph keeps the memory of all its tensors for itself, and ordinary calls need as much.
        peak = torch.cuda.max_memory_allocated(self.device)
        if 2 * peak > torch.cuda.mem_get_info(self.device)[1]:
            return None
        static = tuple(x.to(self.device, copy=True) for x in inputs)
        graph = torch.cuda.CUDAGraph()
        # Graphs that do not run at the same time can share memory.
        earlier = next(iter(self.captured.values()), None)
        try:
            # By default, calls of other threads end a capture: that of the one that reads images.
            with torch.cuda.graph(
                graph,
                pool=None if earlier is None else earlier.graph.pool(),
                capture_error_mode="thread_local",
            ):
                output = self.function(*constants, *static)
        except RuntimeError:  # the function waits for the device, or the memory is too small
            return None
        return _Captured(graph, static, output)
