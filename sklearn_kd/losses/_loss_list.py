"""Read a list of losses: at most one loss of the outputs, and feature terms, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sklearn.base import BaseEstimator, clone

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._feature_term import FeatureTerm

# Metaparameters whose initial values are parameters of the estimator.
_OF_THE_ESTIMATOR = ("lambda1", "temperature")

Makers = Mapping[str, type[BaseEstimator]]


class ListedLosses(NamedTuple):
    """A checked list of losses, as objects.

    Attributes
    ----------
    of_outputs : DistillationLoss
        Loss of the student's outputs.
    given : object
        This loss as given, such as its name.
    terms : dict of str to FeatureTerm
        Terms by name, in the order of the list.
    """

    of_outputs: DistillationLoss
    given: Any
    terms: dict[str, FeatureTerm]


def is_listed(loss: Any) -> bool:
    """Return True if a loss is given as a list."""
    return isinstance(loss, (list, tuple))


def entries_of(losses: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return (name, loss) for each entry of a list; the loss may itself be a name.

    Raises
    ------
    TypeError
        If an entry is neither a loss, nor a name, nor a pair of both.
    ValueError
        If two entries have the same name, or a name is not an identifier.
    """
    entries = [_entry(item) for item in losses]
    names = [name for name, _ in entries]
    for name in names:
        if not name.isidentifier() or "__" in name:
            raise ValueError(
                f"loss: {name!r} cannot be the name of a term. Give an identifier without two underscores."
            )
        if names.count(name) > 1:
            raise ValueError(
                f"loss={losses!r} has several entries of the name {name!r}. Give each its own name: "
                f"loss=[('{name}_1', ...), ('{name}_2', ...)]."
            )
    return entries


def _entry(item: Any) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return item
    if isinstance(item, FeatureTerm):
        return _own_name(item), item
    if isinstance(item, DistillationLoss):
        return _name_of_class(type(item).__name__), item
    raise TypeError(
        f"loss: {str(item)[:200]} is not an entry of a list of losses. Give losses of sklearn_kd.losses, "
        f"their names, or pairs (name, loss).{_in_place_of(item)}"
    )


def _in_place_of(item: Any) -> str:
    if isinstance(item, type):
        return f" Give an object: {item.__name__}()."
    return " Give a term its weight: Hint(weight=10)." if isinstance(item, (int, float)) else ""


def _own_name(term: FeatureTerm) -> str:
    if not term.name:
        raise ValueError(
            f"loss: {type(term).__name__} has no name. Set the class attribute name, or give a pair (name, "
            "term)."
        )
    return term.name


def _name_of_class(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def listed_losses(
    losses: Sequence[Any],
    of_outputs: Makers,
    of_features: Makers,
    otherwise: Callable[[], DistillationLoss],
) -> ListedLosses:
    """Return the losses of a list as objects; objects in the list are copied.

    Parameters
    ----------
    losses : sequence
        Objects, names, and pairs of a name and one of these.
    of_outputs, of_features : mapping of str to class
        Losses by name.
    otherwise : callable
        Returns the loss of the outputs if the list has none, or raises an error.

    Raises
    ------
    ValueError
        If a name is unknown, the list is empty, or it has several losses of the outputs.
    TypeError
        As in :func:`entries_of`.
    """
    found: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for name, item in entries_of(losses):
        made = _made(item, of_outputs, of_features)
        if isinstance(made, FeatureTerm):
            found[name] = made
        else:
            given[name] = item, made
    if not found and not given:
        raise ValueError("loss=[] has no entry. Give one loss of logits, feature terms, or both.")
    if len(given) > 1:
        raise ValueError(
            f"loss={losses!r} has several losses of the outputs, {list(given)}, each of which includes the "
            "loss of the labels. Give one of them, and feature terms beside it."
        )
    if not given:
        return ListedLosses(otherwise(), None, found)
    item, loss = next(iter(given.values()))
    return ListedLosses(loss, item, found)


def _made(item: Any, of_outputs: Makers, of_features: Makers) -> Any:
    if not isinstance(item, str):
        if not isinstance(item, (DistillationLoss, FeatureTerm)):
            raise TypeError(
                f"loss: {str(item)[:200]} is neither a loss of the outputs nor a term of features."
                f"{_in_place_of(item)}"
            )
        return clone(item)
    makers = {**of_outputs, **of_features}
    if item not in makers:
        raise ValueError(
            f"loss: {item!r} is not known.{did_you_mean(item, tuple(makers))} Losses of the outputs are "
            f"{list(of_outputs)}, and feature terms {list(of_features)}."
        )
    return makers[item]()


# --------------------------------------------------------------------------------------
# Parameters of the entries, as NAME and NAME__PARAMETER


def entry_params(losses: Sequence[Any]) -> dict[str, Any]:
    """Return the entries by name, and the parameters of objects among them; nothing for a wrong list."""
    try:
        entries = entries_of(losses)
    except (TypeError, ValueError):  # fit raises the error
        return {}
    found: dict[str, Any] = dict(entries)
    for name, item in entries:
        if isinstance(item, BaseEstimator):
            found |= {f"{name}__{key}": value for key, value in item.get_params(deep=True).items()}
    return found


def with_entry_params(losses: Sequence[Any], params: Mapping[str, Any], makers: Makers) -> list[Any]:
    """Return the list with entries replaced, by NAME, and parameters set, by NAME__PARAMETER.

    Parameters of objects are set in place, as scikit-learn sets those of nested estimators. A name is
    replaced by the object that it stands for.

    Parameters
    ----------
    losses : sequence
    params : mapping of str to object
    makers : mapping of str to class
        Losses by name.

    Raises
    ------
    ValueError
        If there is no such entry, or it has no such parameter.
    """
    entries = entries_of(losses)
    items = dict(entries)
    for key in sorted(params, key=lambda key: "__" in key):  # entries first
        name, _, rest = key.partition("__")
        if name not in items:
            raise ValueError(
                f"loss__{key}: the list of losses has no entry {name!r}.{did_you_mean(name, tuple(items))} "
                f"It has {list(items)}."
            )
        if not rest:
            items[name] = params[key]
        else:
            items[name] = _with_parameters(items[name], key, makers)
            _check_has(items[name], rest, key)
            items[name].set_params(**{rest: params[key]})
    pairs = zip(losses, entries, strict=True)
    return [_in_form(item, name, items[name]) for item, (name, _) in pairs]


def _with_parameters(item: Any, key: str, makers: Makers) -> BaseEstimator:
    """Return an entry as an object, to set its parameter given as ``loss__KEY``."""
    if isinstance(item, BaseEstimator):
        return item
    if isinstance(item, str) and item in makers:
        return makers[item]()
    meant = did_you_mean(item, tuple(makers)) if isinstance(item, str) else ""
    raise ValueError(f"loss__{key}: {item!r} is not a loss with parameters to set.{meant}")


def _check_has(item: BaseEstimator, name: str, key: str) -> None:
    """Raise ValueError unless an entry has the parameter ``name``, given as ``loss__KEY``."""
    own = sorted(item.get_params(deep=False))
    if name.partition("__")[0] in own:
        return
    mend = did_you_mean(name, own)
    if name in _OF_THE_ESTIMATOR and isinstance(item, DistillationLoss):
        mend = f" Its initial value is a parameter of the estimator: {name}=... without loss__."
    raise ValueError(f"loss__{key}: {item!r} has no parameter {name!r}.{mend} It has {own}.")


def params_of_names(losses: Sequence[Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the NAME__PARAMETER given to an estimator beside a list, for entries that are names; return them.

    Raises
    ------
    ValueError
        If there is no such entry.
    TypeError
        If the entry is an object, which has its own parameters.
    """
    items = dict(entries_of(losses))
    for key in params:
        name, _, rest = key.partition("__")
        if name not in items:
            takers = [f"loss__{entry}__{key}" for entry in items] if not rest else []
            meant = f" Parameters are those of an entry: {', '.join(takers)}." if takers else ""
            raise ValueError(
                f"loss__{key}: the list of losses has no entry {name!r}.{did_you_mean(name, tuple(items))} "
                f"It has {list(items)}.{meant}"
            )
        if not rest or isinstance(items[name], BaseEstimator):
            raise TypeError(
                f"loss__{key} beside a list of losses in which {name!r} is {items[name]!r}. Set it there, or "
                f"by set_params(loss__{key}=...)."
            )
    return params


def _in_form(before: Any, name: str, item: Any) -> Any:
    """Return an entry in the form in which it was given: a pair, or the loss alone if it has that name."""
    return (name, item) if isinstance(before, tuple) or _entry(item)[0] != name else item
