"""The reference lists every public name, and docstrings say what the signatures say."""

import importlib
import inspect
import math
import re

import pytest
import torch
from numpydoc.docscrape import get_doc_object

from helpers.pages import ROOT

MODULES = ["sklearn_kd", *(f"sklearn_kd.{room}" for room in ("losses", "meta", "metrics", "networks", "teachers", "datasets"))]  # fmt: skip
_ROOMS = {
    "losses",
    "meta",
    "teachers",
    "__version__",
}  # names in sklearn_kd.__all__ that are no objects of their own
PUBLIC = [
    pytest.param(getattr(importlib.import_module(module), name), id=f"{module}.{name}")
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if name not in _ROOMS
]
CALLABLE = [case for case in PUBLIC if callable(case.values[0])]
CLASSES = [case for case in PUBLIC if inspect.isclass(case.values[0])]
MADE_BY_THE_LIBRARY = {"DistillationReport", "Population"}  # nobody calls these


def public_names():
    return {name for module in MODULES for name in importlib.import_module(module).__all__} - _ROOMS


def test_the_reference_has_the_public_names_and_no_others():
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$|^\.\. py:data:: (\w+)$", page, re.MULTILINE)
    assert {name for pair in listed for name in pair if name} - {"__version__"} == public_names()


def documented(thing):
    """Name → type, as the docstring has them, of parameters and attributes."""
    said = {}
    doc = get_doc_object(thing)
    for entry in doc["Attributes"] + doc["Other Parameters"] + doc["Parameters"]:
        names = [name.strip().lstrip("*") for name in entry.name.split(",")]
        said |= dict.fromkeys(names, (names, entry.type))
    return said


@pytest.mark.parametrize("thing", CALLABLE)
def test_a_docstring_has_a_summary_and_an_example(thing):
    doc = get_doc_object(thing)
    assert doc["Summary"], "begin with what it is for"
    example = "\n".join(doc["Examples"])
    assert ">>>" in example or "::\n" in example, "show an example"


@pytest.mark.parametrize("thing", CALLABLE)
def test_every_parameter_is_documented(thing):
    if thing.__name__ in MADE_BY_THE_LIBRARY:
        return
    assert set(inspect.signature(thing).parameters) <= set(documented(thing))


@pytest.mark.parametrize("thing", CALLABLE)
def test_documented_defaults_are_those_of_the_signature(thing):
    said = documented(thing)
    for name, parameter in inspect.signature(thing).parameters.items():
        names, kind = said.get(name, ([], ""))
        default = re.search(r"default=(.*)$", kind)
        if not default:
            continue
        value = eval(default[1].replace(" and ", ","), {"torch": torch, "inf": math.inf})
        if " and " in default[1]:  # of several parameters in one entry
            value = value[names.index(name)]
        assert parameter.default == value, name


@pytest.mark.parametrize("thing", CLASSES)
def test_public_methods_have_docstrings(thing):
    own = {name for base in thing.__mro__ if base.__module__.startswith("sklearn_kd") for name in vars(base)}
    for name in own:
        member = getattr(thing, name, None)
        if not name.startswith("_") and inspect.isroutine(member):
            assert inspect.getdoc(member), name


def test_a_public_name_is_in_one_group_of_stability():
    page = (ROOT / "docs" / "contributing" / "stability.rst").read_text(encoding="utf-8")
    listed = re.findall(r":obj:`~(sklearn_kd[\w.]*)\.(\w+)`", page)
    assert sorted(name for _, name in listed) == sorted(public_names())
    for module, name in listed:
        assert name in importlib.import_module(module).__all__
