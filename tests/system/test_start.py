"""What importing the library and a first fit import besides: nothing that takes long."""

import subprocess
import sys
import textwrap

import pytest

import sklearn_kd


def test_slow_modules_are_not_imported_and_all_kinds_of_teachers_are_known():
    """In one process: what the kinds of teachers are is known before an estimator is imported."""
    script = """
        import sys

        import torch, sklearn.base
        import numpy as np

        before = set(sys.modules)
        import sklearn_kd

        def imported():
            slow = "hyperopt", "matplotlib", "networkx", "pandas", "sympy", "torch._dynamo", "torch._inductor"
            return [name for name in slow if name in set(sys.modules) - before]

        assert not imported(), imported()
        assert "DistProClassifier" in dir(sklearn_kd)
        assert "sklearn_kd.estimators._distpro" not in sys.modules
        assert "sklearn_kd.comparison._compare" not in sys.modules
        from sklearn_kd.teachers._registry import adapter_class

        assert adapter_class(torch.nn.Linear(2, 2)).__name__ == "ModuleTeacher"
        rng = np.random.default_rng(0)
        X, y, f = rng.normal(size=(64, 4)), np.arange(64) % 2, rng.normal(size=(64, 2))
        for params in ({"meta": "none"}, {"meta": "fixed"}, {"meta": "linear"}, {"optimizer": "adam"}):
            clf = sklearn_kd.DistilledClassifier(None, sklearn_kd.MLPStudent, max_epochs=1, **params)
            clf.fit(X, y, teacher_logits=f).predict(X)
            assert not imported(), (params, imported())
    """
    code = ["-W", "ignore", "-c", textwrap.dedent(script)]
    subprocess.run([sys.executable, *code], check=True, timeout=300)


def test_public_names_can_be_imported():
    names = {}
    exec("from sklearn_kd import *", names)
    assert set(sklearn_kd.__all__) <= names.keys()
    assert set(sklearn_kd.__all__) <= set(dir(sklearn_kd))
    with pytest.raises(AttributeError, match="no attribute 'DistilClassifier'"):
        _ = sklearn_kd.DistilClassifier
