"""Choose a network's layers automatically: its stages, one of them, or its embedding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sklearn_kd.layers._hints import listed, table_hint, unsure_message
from sklearn_kd.layers._trace import Call, FoundLayer, Size, Trace, named_with_order

# Number of outputs to take from a network whose blocks all have one size.
DEFAULT_STAGES = 4


def choose_layers(
    trace: Trace, auto: str, samples: Tensor, name: str, *, of_maps: bool, n_stages: int = DEFAULT_STAGES
) -> dict[str, FoundLayer]:
    """Return the layers for "auto", as documented in :func:`sklearn_kd.layers._find.find_layers`."""
    if auto == "embedding":
        return _embedding(trace, name)
    calls = stage_calls(trace, of_maps=of_maps, n_stages=n_stages)
    _check_stages(calls, trace, samples, name, at_least=2 if auto == "stages" else 1)
    if auto != "stages":
        calls = [calls[len(calls) // 2 if auto == "middle stage" else -1]]
    return {trace.name(call): FoundLayer(call, call.output) for call in calls if call.output is not None}


def stage_calls(trace: Trace, *, of_maps: bool, n_stages: int = DEFAULT_STAGES) -> list[Call]:
    """Return the last call of each size, or evenly spaced blocks if all maps have one size."""
    stages = trace.stages(of_maps=of_maps)
    if len(stages) != 1:
        return stages
    blocks = _blocks_of_one_size(trace, stages[0].size)
    n = min(n_stages, len(blocks))
    return [blocks[(place + 1) * len(blocks) // n - 1] for place in range(n)] if n > 1 else stages


def _blocks_of_one_size(trace: Trace, size: Size | None) -> list[Call]:
    """Return the outermost consecutive calls of one class, such as the blocks of a transformer."""
    level = [trace.root]
    while level:
        groups: dict[tuple[int, type], list[Call]] = {}
        for call in level:
            for child in call.children:
                if child.size == size and _is_block(child):
                    groups.setdefault((id(call), type(child.module)), []).append(child)
        most = max(groups.values(), key=len, default=[])
        if len(most) > 1:
            return most
        level = [child for call in level for child in call.children]
    return []


def _is_block(call: Call) -> bool:
    """Return True for a module around layers with weights, except a Sequential, which can hold any layers."""
    return bool(call.children) and not isinstance(call.module, nn.Sequential) and call.has_weights()


def _check_stages(calls: Sequence[Call], trace: Trace, samples: Tensor, name: str, *, at_least: int) -> None:
    if trace.unsure():
        call = trace.unsure()[0]
        raise ValueError(f"{name}='auto': {unsure_message(trace.name(call), call.output, trace, name)}")
    if len(calls) < at_least:
        candidates = [trace.name(call) for call in trace.with_maps()]
        tokens = [f"{trace.name_of_call(call)}:tokens" for call in trace.with_unsure_tokens()]
        if not candidates and tokens:
            candidates = tokens
        raise ValueError(
            f"{name}='auto' finds {len(calls)} stage(s) of different spatial size in "
            f"{type(trace.named).__name__} for samples of shape {tuple(samples.shape[1:])}; it needs at "
            f"least {('one', 'two')[at_least - 1]}. Layers that give maps of shape (n, channels, height, "
            f"width){', if their tokens are a grid' if candidates is tokens else ''}: {listed(candidates)}. "
            f"Name some of them, {name}=[...]; {table_hint(name)}"
        )


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
        f"{name}='auto' takes the input rows (n, D) of the last linear layer, but "
        f"{type(trace.named).__name__} {ends}. Layers that give rows: {listed(candidates)}. Name one of "
        f"them, or the input of one as 'layer:input', {name}=[...]."
    )


def _has_matrix(call: Call) -> bool:
    """Return True if a call itself mixes its input by weights, and no call inside it does.

    A network inside may have its own weights, such as position embeddings, used before its last layer.
    """
    if isinstance(call.module, nn.Linear):
        return True
    own = any(weight.ndim > 1 for weight in call.module.parameters(recurse=False))
    return own and not any(_has_matrix(child) for child in call.children)


def _described(call: Call) -> str:
    kind = type(call.module).__name__
    return f"a {kind} whose input is not rows" if isinstance(call.module, nn.Linear) else f"a {kind}"
