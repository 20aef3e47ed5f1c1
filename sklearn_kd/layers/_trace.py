"""Trace a forward pass: the calls of all modules, their feature maps, and the stages for "auto"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sklearn_kd.layers._names import named_network
from sklearn_kd.layers._outputs import shape_or_type, tensors_in
from sklearn_kd.layers._tokens import Grid, possible_grids, square_grid, with_halves
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._module_attributes import preserved_attributes

ForwardFn = Callable[[Tensor], Any]
Size = tuple[int, ...]

# torch's modules that take and return only (n, channels, height, width).
_CHANNELS_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.GroupNorm,
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.Dropout2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
_WEIGHTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def first_tensor(value: Any, ndim: int) -> tuple[str, Tensor] | None:
    """Return the first floating-point tensor of ``ndim`` dimensions with its place, or None."""
    return next(_tensors_of(value, ndim), None)


def _tensors_of(value: Any, ndim: int) -> Iterator[tuple[str, Tensor]]:
    return ((where, t) for where, t in tensors_in(value) if t.ndim == ndim and t.is_floating_point())


@dataclass(eq=False)
class FeatureMap:
    """Shape of a call's input or output: a map of four dimensions, tokens of three, or rows of two.

    Attributes
    ----------
    shape : tuple of int
        Shape, including the batch dimension.
    where : str
        Place in a tuple, list or dict, such as ``"[0]"``; empty for a single tensor.
    order : {"nchw", "nhwc", "tokens", "rows", "none", "unsure"}
        Order of the axes. "tokens": (n, N, C). "rows": (n, D). "none": apparently no image, such as
        attention weights.
    grid : tuple of (int, int), default=(0, 0)
        Height and width of tokens, in patches.
    """

    shape: Size
    where: str = ""
    order: str = ""
    grid: Grid = (0, 0)

    @property
    def sample_shape(self) -> Size:
        """(channels, height, width), or (D,) for rows; the axes as they are if the order is unknown."""
        if self.order == "tokens":
            return (self.shape[2], *self.grid)
        return (self.shape[3], *self.shape[1:3]) if self.order == "nhwc" else self.shape[1:]


@dataclass(eq=False)
class Call:
    """One call of a module, with its ``number`` among the module's calls, and the calls inside it.

    ``input`` and ``output`` are maps, or tokens if these are certainly a grid.
    """

    path: str
    module: nn.Module
    number: int
    input: FeatureMap | None = None
    output: FeatureMap | None = None
    input_rows: FeatureMap | None = None
    output_rows: FeatureMap | None = None
    input_tokens: FeatureMap | None = None
    output_tokens: FeatureMap | None = None
    output_type: str = ""  # for messages
    returns_stages: bool = False
    children: list[Call] = field(default_factory=list)

    @property
    def size(self) -> Size | None:
        """(height, width) of the output; None if it is not a map, is 1×1, or has maps of several stages."""
        return None if self.returns_stages else _size(self.output)

    def features(self, *, of_input: bool, order: str | None) -> FeatureMap | None:
        """Return the call's input or output: rows, tokens, or, for any other ``order``, a map."""
        if order == "rows":
            return self.input_rows if of_input else self.output_rows
        if order == "tokens":
            return self.input_tokens if of_input else self.output_tokens
        return self.input if of_input else self.output

    def inner(self) -> Iterator[Call]:
        """Yield this call and all calls inside it."""
        yield self
        for child in self.children:
            yield from child.inner()

    def has_weights(self) -> bool:
        """Return True if the call is, or runs inside it, a convolution or linear layer."""
        return any(isinstance(call.module, _WEIGHTS) for call in self.inner())


class FoundLayer(NamedTuple):
    """A layer of a traced network: its call, and the call's input or output, a map or rows."""

    call: Call
    map: FeatureMap


def _size(found: FeatureMap | None) -> Size | None:
    if found is None or found.order not in ("nchw", "nhwc", "tokens"):
        return None
    size = found.sample_shape[1:]
    return size if max(size) > 1 else None


class Trace:
    """Record of the calls in one forward pass.

    Parameters
    ----------
    network : nn.Module

    Attributes
    ----------
    named : nn.Module
        The module whose paths name the layers.
    root : Call
        The call of the network itself.
    calls : list of Call
        All other calls, in the order in which they ended.
    returns_maps : bool
        Whether the network returned only maps of one size.
    """

    def __init__(self, network: nn.Module):
        self.network, self.named = network, named_network(network)
        self.root, self.calls, self.returns_maps = Call("", network, 1), list[Call](), False

    @classmethod
    def of_trial(cls, network: nn.Module, samples: Tensor, run: ForwardFn | None = None) -> Trace:
        """Trace a forward pass in evaluation mode, and determine the order of every map's axes.

        Parameters
        ----------
        network : nn.Module
        samples : Tensor of shape (n, ...)
        run : callable or None, default=None
            Runs the network. None: the network itself.
        """
        trace = cls(network)
        with isolated_eval_mode(network, samples.device):
            trace.record(samples, run or network)
            _find_orders(trace, samples, run or network)
        _find_tokens(trace, of_images=samples.ndim == 4)
        return trace

    def record(self, samples: Tensor, run: ForwardFn) -> None:
        """Run the network and record its calls; if it fails, the calls that had ended."""
        handles, stack, runs = list[RemovableHandle](), [self.root], dict[str, int]()
        n = len(samples)

        def begins(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                runs[path] = runs.get(path, 0) + 1
                call = Call(path, module, runs[path], _map_in(args) or _map_in(kwargs))
                call.input_rows = _rows_in(args, n) or _rows_in(kwargs, n)
                call.input_tokens = _tokens_in(args, n) or _tokens_in(kwargs, n)
                stack.append(call)
                stack[-2].children.append(call)

            return hook

        def ends(module: nn.Module, args: Any, output: Any) -> None:
            while stack[-1].module is not module:  # drop calls whose error the caller caught
                stack.pop()
            call = stack.pop()
            call.output, call.output_type = _map_in(output), shape_or_type(output)
            call.output_rows, call.output_tokens = _rows_in(output, n), _tokens_in(output, n)
            call.returns_stages = not isinstance(output, Tensor) and _returns_stages(output, call)
            self.calls.append(call)

        def returns(module: nn.Module, args: Any, output: Any) -> None:
            self.returns_maps = _are_maps_alone(output)

        try:
            if not isinstance(self.named, torch.jit.ScriptModule):
                handles.append(self.named.register_forward_hook(returns))
            for path, module in self.named.named_modules():
                if path and not isinstance(module, torch.jit.ScriptModule):
                    handles.append(module.register_forward_pre_hook(begins(path), with_kwargs=True))
                    handles.append(module.register_forward_hook(ends))
            run(samples)
        finally:
            for handle in handles:
                handle.remove()

    def of(self, path: str) -> list[Call]:
        """Return the calls of one module."""
        return [call for call in self.calls if call.path == path]

    def name(self, call: Call) -> str:
        """Return the layer name of a returned map: ``"layer1"``, ``"relu#2"``, ``"norm:nhwc"``."""
        return named_with_order(self.name_of_call(call), call.output)

    def name_of_call(self, call: Call) -> str:
        """Return the name of a call without the order of its axes: ``"layer1"``, ``"relu#2"``."""
        name = call.path if len(self.of(call.path)) == 1 else f"{call.path}#{call.number}"
        if name != call.path and name in dict(self.named.named_modules()):
            name = f"{call.path}#0{call.number}"  # "relu#2" is a module's own name here
        return name

    def with_maps(self) -> list[Call]:
        """Return the calls whose output is a map, including grids of tokens, but not 1×1 maps."""
        return [call for call in self.calls if call.output is not None and not _is_one_pixel(call.output)]

    def with_unsure_tokens(self) -> list[Call]:
        """Return the calls whose output is tokens that might be a grid."""
        return [c for c in self.calls if c.output_tokens is not None and c.output_tokens.order == "unsure"]

    def stages(self, *, of_maps: bool = False) -> list[Call]:
        """Return, for each spatial size, the last call that ended before the next size began.

        A block that changes the size counts as a whole: its work at the old size belongs to the next stage.
        The stages are in the order in which the sizes first occur.

        Parameters
        ----------
        of_maps : bool, default=False
            Whether a map returned by the network is its prediction. Then the last call with weights, which
            gives it, is no stage, nor is anything after the network returns to an earlier size.
        """
        ended = _stage_candidates(self.root, set())
        if of_maps and self.returns_maps:
            ended = _down_sampling(_without_head(ended))
        sizes = list(dict.fromkeys(call.size for call in ended))
        first = [next(place for place, call in enumerate(ended) if call.size == size) for size in sizes]
        return [
            next(call for call in reversed(ended[:end]) if call.size == size)
            for size, end in zip(sizes, [*first, len(ended)][1:], strict=True)
        ]

    def unsure(self) -> list[Call]:
        """Return the outermost calls whose order of axes is unknown."""
        return list(_unsure(self.root))


def named_with_order(name: str, found: FeatureMap | None) -> str:
    """Return a layer's name, with the order of its axes if feature_hooks needs it."""
    if found is None or found.order not in ("nhwc", "rows", "tokens"):
        return name
    if found.order == "tokens" and found.grid != square_grid(found.shape[1]):
        return f"{name}:tokens={found.grid[0]}x{found.grid[1]}"
    return f"{name}:{found.order}"


def _is_one_pixel(found: FeatureMap) -> bool:
    if found.order == "tokens":
        return found.grid == (1, 1)
    return found.shape[2:] == (1, 1) or (found.order != "nchw" and found.shape[1:3] == (1, 1))


def _unsure(call: Call) -> Iterator[Call]:
    for child in call.children:
        found = child.output
        known = found is None or found.order != "unsure" or _is_one_pixel(found)
        if not (known or child.returns_stages):
            yield child
        elif child.size is None:
            yield from _unsure(child)


def _map_in(value: Any) -> FeatureMap | None:
    found = first_tensor(value, 4)
    return None if found is None else FeatureMap(tuple(found[1].shape), found[0])


def _rows_in(value: Any, n: int) -> FeatureMap | None:
    """Return the first tensor of two dimensions, if it has one row for each of ``n`` samples."""
    return _of_samples(value, 2, n, "rows")


def _tokens_in(value: Any, n: int) -> FeatureMap | None:
    """Return the first tensor of three dimensions, if it has one sequence for each of ``n`` samples."""
    return _of_samples(value, 3, n, "none")


def _of_samples(value: Any, ndim: int, n: int, order: str) -> FeatureMap | None:
    found = first_tensor(value, ndim)
    if found is None or len(found[1]) != n:
        return None
    return FeatureMap(tuple(found[1].shape), found[0], order)


def _are_maps_alone(value: Any) -> bool:
    """Return True if an output consists only of maps of one size."""
    sizes = {tuple(tensor.shape[2:]) if tensor.ndim == 4 else None for _, tensor in tensors_in(value)}
    return len(sizes) == 1 and None not in sizes


def _returns_stages(value: Any, call: Call) -> bool:
    """Return True if a call returned maps of several of the stages inside it."""
    sizes = {tuple(tensor.shape[2:]) for _, tensor in _tensors_of(value, 4)}
    inner = {c.output.shape[2:] for child in call.children for c in child.inner() if c.output is not None}
    return len(sizes & inner) > 1


# --------------------------------------------------------------------------------------
# Stages


def _stage_candidates(call: Call, seen: set[Size]) -> list[Call]:
    """Return the calls, among this one and those inside it, whose maps may be a stage's output."""
    inner: list[Call] = []
    for child in call.children:
        inner += _stage_candidates(child, seen | {c.size for c in inner if c.size is not None})
    if call.size is None:
        return [] if _changes_to_one_pixel(call, inner, seen) else inner
    sizes = {c.size for c in inner} | {call.size}
    if len(sizes) == 1:  # the call as a whole
        return [call]
    if call.size in seen and _size(call.input) == call.size:  # a detour, as in attention
        return [call]
    old = sizes - {call.size}
    if len(old) == 1 and old <= seen and _is_unit(call, inner):
        return [call]
    return [*inner, call]


def _without_head(ended: Sequence[Call]) -> list[Call]:
    """Leave out the last call with weights and those after it, such as an upsampling."""
    heads = [place for place, call in enumerate(ended) if call.has_weights()]
    return list(ended[: heads[-1]] if heads else ended)


def _down_sampling(ended: Sequence[Call]) -> list[Call]:
    """Return the calls up to and at the last new size, before an earlier size returns, as in a decoder."""
    sizes = [call.size for call in ended]
    if not sizes:
        return []
    first = sizes.index(list(dict.fromkeys(sizes))[-1])
    end = next((place for place, size in enumerate(sizes) if place > first and size != sizes[first]), None)
    return list(ended[:end])


def _changes_to_one_pixel(call: Call, inner: Sequence[Call], seen: set[Size]) -> bool:
    """Return True if a call is a block that only reduces the size to 1×1, which is no stage."""
    one_pixel = call.output is not None and _is_one_pixel(call.output)
    sizes = {c.size for c in inner}
    return one_pixel and len(sizes) == 1 and sizes <= seen and _is_unit(call, inner)


def _is_unit(call: Call, inner: Sequence[Call]) -> bool:
    """Return True if a call's work before it changes the size belongs to the stage of its output.

    True for inverted residuals, bottlenecks and the transitions of a DenseNet, whose work at the old size is
    pointwise, and for blocks that continue after the change. False for a chain that works at the old size,
    and for a block that ends with its pooling.
    """
    places = [place for place, c in enumerate(inner) if c.size != call.size]
    if not any(_works_on_neighbours(inner[place]) for place in places):
        return True
    if isinstance(call.module, nn.Sequential):
        return False
    change = places[-1] + 1
    return any(c.has_weights() for place, c in enumerate(inner) if place not in (*places, change))


def _works_on_neighbours(call: Call) -> bool:
    """Return True if a call mixes pixels, by a convolution wider than 1×1 or as a block with weights."""
    calls = list(call.inner())
    if any(isinstance(c.module, nn.Conv2d) and max(_pair(c.module.kernel_size)) > 1 for c in calls):
        return True
    own = bool(call.children) and not isinstance(call.module, nn.Sequential)
    return own and sum(isinstance(c.module, _WEIGHTS) for c in calls) > 1


def _pair(kernel_size: int | tuple[int, ...]) -> tuple[int, ...]:
    return kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)


# --------------------------------------------------------------------------------------
# The order of channels

_Key = tuple[str, int, str]


def _maps(trace: Trace) -> Iterator[tuple[_Key, Call, FeatureMap]]:
    for call in trace.root.inner():
        for side, found in (("input", call.input), ("output", call.output)):
            if found is not None:
                yield (call.path, call.number, side), call, found


def _find_orders(trace: Trace, samples: Tensor, run: ForwardFn) -> None:
    """Set the order of every map's axes.

    Maps of torch's convolutions and poolings are "nchw" and show the sizes of the images. If the shape of
    another map allows both orders, the network is run on images of half the height: the axis that changes is
    the height.
    """
    sizes = {tuple(samples.shape[2:])} if samples.ndim == 4 else set()
    sizes |= {m.shape[2:] for _, call, m in _maps(trace) if isinstance(call.module, _CHANNELS_FIRST)}
    others, doubtful = {}, False
    for key, call, found in _maps(trace):
        if isinstance(call.module, _CHANNELS_FIRST) or found.shape[2:] == (1, 1):
            found.order = "nchw"
        else:
            others[key] = found
            doubtful |= found.shape[2:] not in sizes or found.shape[1:3] in sizes
    axes, usual = _axes_of_height(trace, samples, run) if doubtful else ({}, set())
    channels_last = any(_takes_channels_last(call) for call in trace.calls)
    normed = _shapes_at_norm(trace, len(samples))
    merged = with_halves((size[0], size[1]) for size in sizes)
    for key, found in others.items():
        by_shape = _order_by_shape(found.shape, sizes, channels_last)
        if found.shape in normed and found.shape[1:3] in merged and found.shape[2:] not in merged:
            by_shape = "nhwc"
        found.order = _order_by(axes.get(key, frozenset()), usual) or by_shape


def _shapes_at_norm(trace: Trace, n: int) -> set[Size]:
    """Return the shapes of maps of ``n`` samples of which a LayerNorm normalises only the last axis."""
    norms = (
        c for c in trace.calls if isinstance(c.module, nn.LayerNorm) and len(c.module.normalized_shape) == 1
    )
    return {c.input.shape for c in norms if c.input is not None and c.input.shape[0] == n}


def _order_by_shape(shape: Size, sizes: set[Size], channels_last: bool) -> str:
    """Return the order of a map, given the ``sizes`` of images and of convolutions' maps."""
    first, last = shape[1:3] in sizes, shape[2:] in sizes
    if last and not first:
        return "nchw"
    if channels_last or (first and not last):
        return "unsure"
    return "nchw" if last else "none"


def _order_by(changed: frozenset[int], usual: set[frozenset[int]]) -> str | None:
    """Return the order of a map, given the axes that changed with the height here and in convolutions."""
    if not changed:
        return None
    if changed in usual:
        return "nchw"
    if frozenset(axis + 1 for axis in changed) in usual:
        return "nhwc"
    return "unsure" if changed & {0, 1} else "none"


def _axes_of_height(
    trace: Trace, samples: Tensor, run: ForwardFn
) -> tuple[dict[_Key, frozenset[int]], set[frozenset[int]]]:
    """Return the axes that change with the height: by map, if the network ran so far, and in convolutions."""
    other = Trace(trace.network)
    if samples.ndim == 4 and samples.shape[2] > 1:
        # A network may fail for another size; the calls before the failure are still recorded.
        with suppress(Exception), preserved_attributes(trace.network):
            other.record(samples[:, :, : samples.shape[2] // 2].contiguous(), run)
    shapes = {key: found.shape for key, _, found in _maps(other)}
    axes, usual = {}, {frozenset({2})}
    for key, call, found in _maps(trace):
        if key in shapes:
            axes[key] = frozenset(a for a in range(4) if shapes[key][a] != found.shape[a])
            if axes[key] and isinstance(call.module, _CHANNELS_FIRST):
                usual.add(axes[key])
    return axes, usual


def _takes_channels_last(call: Call) -> bool:
    one_axis = type(call.module) is nn.Linear or (
        type(call.module) is nn.LayerNorm and len(call.module.normalized_shape) == 1
    )
    return one_axis and call.input is not None


# --------------------------------------------------------------------------------------
# Tokens


def _find_tokens(trace: Trace, *, of_images: bool) -> None:
    """Set the order of all tensors of three dimensions, and treat those that are a grid as maps.

    They are a grid of patches if a layer that works on the last axis takes or gives this shape, and the
    sizes of convolutions' maps allow exactly one grid.
    """
    calls = list(trace.root.inner())
    sizes = {(m.shape[2], m.shape[3]) for _, c, m in _maps(trace) if isinstance(c.module, _CHANNELS_FIRST)}
    by_linear = _shapes_at(calls, nn.Linear) if of_images else set()
    by_norm = _shapes_at(calls, nn.LayerNorm) if of_images else set()

    def find(tokens: FeatureMap | None, found: FeatureMap | None) -> FeatureMap | None:
        if tokens is None:
            return found
        grids = possible_grids(tokens.shape[1], sizes)
        # The number of channels may look like one of patches; LayerNorm is not used on transposed tokens.
        transposed = bool(possible_grids(tokens.shape[2], sizes))
        known = tokens.shape in by_norm or (tokens.shape in by_linear and not transposed)
        if len(grids) == 1 and known:
            tokens.order, tokens.grid = "tokens", next(iter(grids))
            return tokens if found is None or found.order == "none" else found
        tokens.order = "unsure" if of_images else "none"
        return found

    for call in calls:
        call.input = find(call.input_tokens, call.input)
        call.output = find(call.output_tokens, call.output)


def _shapes_at(calls: Sequence[Call], kind: type[nn.Module]) -> set[Size]:
    """Return the shapes of the tokens that modules of a kind took or returned."""
    sides = (side for c in calls if isinstance(c.module, kind) for side in (c.input_tokens, c.output_tokens))
    return {side.shape for side in sides if side is not None}
