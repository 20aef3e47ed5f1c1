"""Count the floating-point operations of a pass without importing torch's compiler."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class FlopCounter(TorchDispatchMode):
    """Count like torch's ``FlopCounterMode``, whose first use imports the compiler in a second or more.

    Attributes
    ----------
    total : int
        The number of operations so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from wrapping ``__torch_dispatch__``, since the wrapper imports the compiler."""
        return False

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # slow to import

        self._counts = flop_registry
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = self._counts.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found
