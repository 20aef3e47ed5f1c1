"""Choose layers of a network that are not named: its stages, one of them, or its embedding."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from sklearn_kd.layers._hints import listed, table_hint, unsure_message
from sklearn_kd.layers._trace import Call, FoundLayer, Trace, named_with_order

Auto = Literal["stages", "middle stage", "last stage", "embedding"]
AUTO: tuple[str, ...] = get_args(Auto)


def choose_layers(
    trace: Trace, auto: str, samples: Tensor, name: str, *, of_maps: bool
) -> dict[str, FoundLayer]:
    """Return the layers that "auto" stands for, as :func:`sklearn_kd.layers._find.find_layers` documents."""
    if auto == "embedding":
        return _embedding(trace, name)
    stages = _stages(trace, samples, name, of_maps=of_maps, at_least=2 if auto == "stages" else 1)
    if auto == "stages":
        return stages
    chosen = list(stages)[len(stages) // 2 if auto == "middle stage" else -1]
    return {chosen: stages[chosen]}


def _stages(
    trace: Trace, samples: Tensor, name: str, *, of_maps: bool, at_least: int
) -> dict[str, FoundLayer]:
    stages = trace.stages(of_maps=of_maps)
    found = {trace.name(call): FoundLayer(call, call.output) for call in stages if call.output is not None}
    if trace.unsure():
        call = trace.unsure()[0]
        raise ValueError(f"{name}='auto': {unsure_message(trace.name(call), call.output, trace, name)}")
    if len(found) < at_least:
        candidates = [trace.name(call) for call in trace.with_maps()]
        raise ValueError(
            f"{name}='auto' finds {len(found)} stage(s) of different spatial size in "
            f"{type(trace.named).__name__} for samples of shape {tuple(samples.shape[1:])}; it needs at "
            f"least {('one', 'two')[at_least - 1]}. Layers that give maps of shape (n, channels, height, "
            f"width): {listed(candidates)}. Name some of them, {name}=[...]; {table_hint(name)}"
        )
    return found


# --------------------------------------------------------------------------------------
# The embedding


def _embedding(trace: Trace, name: str) -> dict[str, FoundLayer]:
    """Return the input of the last linear layer, if it is rows and no other weights follow."""
    last = next((call for call in reversed(trace.calls) if _has_matrix(call)), None)
    if last is not None and isinstance(last.module, nn.Linear) and last.input_rows is not None:
        layer = named_with_order(f"{trace.name_of_call(last)}:input", last.input_rows)
        return {layer: FoundLayer(last, last.input_rows)}
    ends = "has no weights" if last is None else f"ends with {trace.name_of_call(last)!r}, {_described(last)}"
    candidates = [trace.name_of_call(call) for call in trace.calls if call.output_rows is not None]
    raise ValueError(
        f"{name}='auto' takes the rows (n, D) that the last linear layer is given, but "
        f"{type(trace.named).__name__} {ends}. Layers that give rows: {listed(candidates)}. Name one of "
        f"them, or the input of one as 'layer:input', {name}=[...]."
    )


def _has_matrix(call: Call) -> bool:
    """Return True if a call itself mixes its input by weights, and no call inside it does.

    A network inside may have weights of its own, such as positions, which it uses before its last layer.
    """
    if isinstance(call.module, nn.Linear):
        return True
    own = any(weight.ndim > 1 for weight in call.module.parameters(recurse=False))
    return own and not any(_has_matrix(child) for child in call.children)


def _described(call: Call) -> str:
    kind = type(call.module).__name__
    return f"a {kind} that is given no rows" if isinstance(call.module, nn.Linear) else f"a {kind}"
