"""Registry of teachers: choose the adapter for an object.

An object gets the adapter of the most specific of its classes that has one. Objects of other classes are
recognised by what they can do; :func:`tell_by_abilities` registers such an adapter.

| teacher                               | trained here          | sees                          |
|---------------------------------------|-----------------------|-------------------------------|
| classifier with a ``fit``             | a clone, on D_train   | X as the user gave it         |
| ``FrozenEstimator(fitted)``           | no                    | X as the user gave it         |
| trained classifier without ``fit``    | no                    | X as the user gave it         |
| function                              | no                    | X as given, or float32 tensor |
| ONNX file or session                  | no                    | X as given, or float32 tensor |
| pipeline of transformers              | no                    | the texts of X                |
| ``nn.Module`` that returns logits     | no                    | float32 tensor                |
| fitted skorch net                     | no                    | float32 array                 |
| list of teachers                      | as its teachers       | as its teachers               |
| registered by the user                | as its adapter says   | as its adapter says           |
| None, with ``teacher_logits``         | no                    |                               |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, TypeVar, overload

from sklearn.base import clone, is_regressor

from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._logit_checks import thawed

Adapter = TypeVar("Adapter", bound=type[TeacherAdapter])

_ADAPTERS: dict[type, type[TeacherAdapter]] = {}
# Adapters of objects whose class has none, tried in this order.
_BY_ABILITIES: list[type[TeacherAdapter]] = []
# Classes whose adapter came with an estimator from another process.
_CARRIED: set[type] = set()


# --------------------------------------------------------------------------------------
# Registration


@overload
def register_teacher(kind: type) -> Callable[[Adapter], Adapter]: ...


@overload
def register_teacher(kind: type, adapter: Adapter) -> Adapter: ...


def register_teacher(kind: type, adapter: Any = None) -> Any:
    """Register the adapter of a class, so that its instances can be teachers.

    It can decorate the adapter. An instance gets the adapter of the most specific of its classes that has
    one. Registering a class again replaces its adapter. The library's own registrations cannot be replaced,
    but a subclass of ``nn.Module``, say, can have its own adapter.

    Parameters
    ----------
    kind : type
        Class of the teachers.
    adapter : subclass of TeacherAdapter, default=None
        How these teachers are trained and asked. None: return a decorator.

    Returns
    -------
    type
        The adapter, or, without ``adapter``, a decorator that returns the adapter.

    Raises
    ------
    TypeError
        If ``kind`` is not a class, or ``adapter`` is not a subclass of :class:`TeacherAdapter` with a
        ``predict_logits``.
    ValueError
        If the library itself has registered ``kind``.

    See Also
    --------
    TeacherAdapter : The methods of an adapter.
    BatchTeacherAdapter : The same for teachers that are asked batch by batch.

    Notes
    -----
    Each process has its own registry. An unfitted estimator is pickled with its teacher's adapter, so that a
    search may use other processes. A fitted one is not, because it needs no adapter to predict.

    Clones of an estimator share a registered teacher that comes trained, as they share networks.

    Examples
    --------
    A model behind a function that takes rows as lists and returns scores, such as a web service:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.teachers import TeacherAdapter, register_teacher
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=500).fit(X, y)
    >>> class Service:
    ...     labels = [0, 1, 2]
    ...
    ...     def score(self, rows):
    ...         return model.decision_function(rows).tolist()
    >>> @register_teacher(Service)
    ... class ServiceTeacher(TeacherAdapter):
    ...     def column_classes(self):
    ...         return self.teacher.labels
    ...
    ...     def predict_logits(self, X):
    ...         return self.teacher.score(X.tolist())
    >>> clf = DistilledClassifier(Service(), MLPStudent, max_epochs=5, random_state=0).fit(X, y)
    >>> clf.score(X, y) > 0.5
    True

    A LightGBM booster needs no more than this::

        @register_teacher(lightgbm.Booster)
        class BoosterTeacher(TeacherAdapter):
            def predict_logits(self, X):
                return self.teacher.predict(X, raw_score=True)

    Set ``teacher_classes`` to the classes of its columns, unless they are 0 to K−1.
    """
    if not isinstance(kind, type):
        raise TypeError(
            f"register_teacher: kind={short_repr(kind)} must be a class: the teachers' class, not a teacher. "
            "As a decorator, write @register_teacher(TheClass)."
        )
    if adapter is None:
        return lambda decorated: register_teacher(kind, decorated)
    _check_adapter(adapter)
    registered = _ADAPTERS.get(kind)
    if registered is not None and is_of_library(registered):
        raise ValueError(
            f"register_teacher: {kind.__name__} already has an adapter in this library, "
            f"{registered.__name__}. Register a subclass of {kind.__name__}, and give its instances as "
            "teachers."
        )
    _ADAPTERS[kind] = adapter
    _CARRIED.discard(kind)
    return adapter


def tell_by_abilities(adapter: Adapter) -> Adapter:
    """Register an adapter that accepts objects of any class by what they can do."""
    _BY_ABILITIES.append(adapter)
    return adapter


def is_of_library(adapter: type[TeacherAdapter]) -> bool:
    """Return True if an adapter comes with this library."""
    return adapter.__module__.startswith("sklearn_kd.")


def _check_adapter(adapter: Any) -> None:
    if not (isinstance(adapter, type) and issubclass(adapter, TeacherAdapter)):
        raise TypeError(
            f"register_teacher: adapter={short_repr(adapter)} must be a subclass of TeacherAdapter or "
            "BatchTeacherAdapter, given as the class, not as an instance."
        )
    base = BatchTeacherAdapter if issubclass(adapter, BatchTeacherAdapter) else TeacherAdapter
    methods = ("predict_logits", "iter_logits", "on")
    if all(getattr(adapter, name, None) is getattr(base, name, None) for name in methods):
        raise TypeError(
            f"register_teacher: {adapter.__name__} has no predict_logits, the method that returns the "
            "logits of rows. Define it."
        )
    if base is BatchTeacherAdapter and adapter.fit is not TeacherAdapter.fit and not is_of_library(adapter):
        raise TypeError(
            f"register_teacher: {adapter.__name__} has a fit, but a BatchTeacherAdapter is for teachers that "
            "come trained. Make it a subclass of TeacherAdapter, or leave fit out."
        )


# --------------------------------------------------------------------------------------
# Lookup


def adapter_class(teacher: Any) -> type[TeacherAdapter] | None:
    """Return the adapter class of a teacher, or None if none is registered for it.

    A FrozenEstimator gets the adapter of its content if that adapter takes trained teachers.
    """
    content = thawed(teacher)
    found = None if content is teacher else _most_specific(content)
    return _most_specific(teacher) if found is None or found.trains(content) else found


def _most_specific(teacher: Any) -> type[TeacherAdapter] | None:
    by_class = (_ADAPTERS.get(kind) for kind in type(teacher).__mro__)
    adapters = [*(adapter for adapter in by_class if adapter is not None), *_BY_ABILITIES]
    return next((adapter for adapter in adapters if adapter.accepts(teacher)), None)


def make_teacher(
    teacher: Any,
    teacher_classes: list[Any] | None = None,
    fit_parameters: Mapping[str, Any] | None = None,
) -> TeacherAdapter:
    """Wrap a teacher in its adapter, which checks it.

    Parameters
    ----------
    teacher : object
    teacher_classes : list or None, default=None
        The class of each column, if the user states them.
    fit_parameters : mapping or None, default=None
        Further parameters of the teacher's own ``fit``.

    Raises
    ------
    TypeError
        If no adapter is registered for its class, or its ``fit`` takes no such parameters.
    ValueError
        If the adapter refuses it.
    """
    wrapped = wrap_teacher(teacher, teacher_classes)
    wrapped.take_fit_parameters(fit_parameters or {})
    return wrapped


def wrap_teacher(teacher: Any, teacher_classes: list[Any] | None, name: str = "teacher") -> TeacherAdapter:
    """Wrap a teacher in its adapter, without parameters of its fit (see :func:`make_teacher`).

    ``name`` is the argument's name in messages, such as "teacher[0]" in a list.
    """
    adapter = adapter_class(teacher)
    if adapter is not None and adapter.gives_classes:
        return adapter(teacher, teacher_classes)
    raise TypeError(
        f"{name}={short_repr(teacher)} is none of: a scikit-learn classifier, or another classifier with "
        "fit and get_params, FrozenEstimator(fitted classifier), a trained object with predict_proba or "
        "decision_function and without fit, a function of X that returns logits or probabilities, an ONNX "
        "file or session, a text-classification pipeline of transformers, a trained torch.nn.Module that "
        "returns logits, a fitted skorch net, a list of teachers, an object of a class that was given to "
        "register_teacher in this process, or None with teacher_logits given to fit."
        f"{advice_for(teacher, name)}"
    )


def comes_trained(teacher: Any) -> bool:
    """Return True if a teacher is used as it is, False if it is trained here or is not a teacher."""
    adapter = adapter_class(teacher)
    return adapter is not None and not adapter.trains(teacher)


def shared_copy(teacher: Any) -> Any:
    """Return the teacher for a clone of its estimator: itself if it comes trained, else an unfitted clone."""
    if type(teacher) in (list, tuple):
        return type(teacher)([shared_copy(member) for member in teacher])
    return teacher if comes_trained(teacher) else clone(teacher, safe=False)


def without_training(teacher: Any) -> Any:
    """Return an unfitted clone of a teacher if all of it is trained here, else None."""
    adapter = adapter_class(teacher)
    if adapter is None or not adapter.trains(teacher):
        return None
    return shared_copy(teacher) if adapter.trains_all(teacher) else None


# --------------------------------------------------------------------------------------
# Other processes


def registrations_of(teacher: Any) -> list[tuple[type, type[TeacherAdapter]]]:
    """Return the (class, adapter) pairs that a user has registered for a teacher and its members."""
    adapter = adapter_class(teacher)
    if adapter is None:
        return []
    if is_of_library(adapter):
        return [found for member in adapter.members(teacher) for found in registrations_of(member)]
    kinds = type(thawed(teacher)).__mro__
    return [next((kind, adapter) for kind in kinds if _ADAPTERS.get(kind) is adapter)]


def carry_registration(kind: type, adapter: type[TeacherAdapter]) -> None:
    """Register an adapter from another process, unless the user has registered one in this process."""
    if kind not in _ADAPTERS or kind in _CARRIED:
        _ADAPTERS[kind] = adapter
        _CARRIED.add(kind)


# --------------------------------------------------------------------------------------
# Messages


def short_repr(value: Any, n_max: int = 200) -> str:
    """Return a ``repr`` cut to ``n_max`` characters, since arrays and weights can fill pages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= n_max else f"{text[:n_max]}..."


def advice_for(teacher: Any, name: str = "teacher", wanted: str = "a classifier") -> str:
    """Return advice about an object that is not a teacher, or ""; ``wanted`` is what to give instead."""
    if name != "teacher" and (teacher is None or isinstance(teacher, str)):
        return " A list of teachers holds only teachers, without names and without None."
    if teacher is None:
        return " Pickles and copies of a fitted estimator hold no trained teacher without keep_teacher=True."
    if isinstance(teacher, type):
        return " Give an instance, not the class. The teacher comes before the student."
    if hasattr(teacher, "fit") and hasattr(teacher, "get_params") and is_regressor(teacher):
        return f" {type(teacher).__name__} is a regressor: give {wanted}, or use DistilledRegressor."
    if isinstance(teacher, Mapping):
        return " Load the weights into their network by load_state_dict, and give the network."
    if isinstance(teacher, (str, PathLike)):
        return " Load the file, and give the teacher in it."
    if isinstance(teacher, bytes):
        return " Give the bytes of an ONNX file as sklearn_kd.teachers.OnnxTeacher(bytes)."
    if hasattr(teacher, "SerializeToString"):
        return " Give an ONNX model as sklearn_kd.teachers.OnnxTeacher(model.SerializeToString())."
    if isinstance(teacher, (list, tuple)) and not teacher:
        return " The list is empty."
    if hasattr(teacher, "fit") and not hasattr(teacher, "get_params"):
        return (
            f" {type(teacher).__name__} has a fit but no get_params, so no clone of it can be fitted on "
            "your training rows (D_train). If it is trained, give FrozenEstimator(it), or a function that "
            "asks it; else derive its class from sklearn.base.BaseEstimator."
        )
    return ""
