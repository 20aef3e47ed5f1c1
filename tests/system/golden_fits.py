"""Small fits of both systems, and the numbers that they must keep giving.

``PYTHONPATH=tests python tests/system/golden_fits.py`` writes ``golden.json`` anew; a commit that does so says why.
"""

import functools
import hashlib
import json
import platform
import tempfile
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from helpers.settings import SINGLE_RUN
from sklearn_kd import CNNStudent, DistilledClassifier, DistProClassifier, MLPStudent
from sklearn_kd.meta import PAPER_SETTINGS

GOLDEN = Path(__file__).with_name("golden.json")

_COMMON = {
    "optimizer": torch.optim.SGD, "lr": 0.1, "max_epochs": 4, "batch_size": 64, "random_state": 0, "device": "cpu",
    "standardize": False,
}  # fmt: skip


def machine() -> str:
    """What the last bits of a result depend on beside the code."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, torch {torch.__version__}, NumPy {np.__version__}, scikit-learn {sklearn.__version__}"


def _digits(flat: bool):
    X, y = load_digits(return_X_y=True)
    X = (X[:600] / 16).astype(np.float32)
    return (X if flat else X.reshape(-1, 1, 8, 8)), y[:600]


def _network(make, *args, **params):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **params)


def _distilled(teacher, student=MLPStudent, **params):
    width = {"student__hidden": 32} if student is MLPStudent else {}
    return DistilledClassifier(teacher, student, **(SINGLE_RUN | _COMMON | width | params))


def _distpro(**params):
    teacher = _network(CNNStudent, (1, 8, 8), 10, channels=(8, 8, 8))
    params = {"student__channels": (4, 4, 4), "transforms": ["conv1"], "search_epochs": 2} | params
    return DistProClassifier(teacher, CNNStudent, **(_COMMON | params))


def fits():
    """The estimators by name, not fitted."""
    forest, mlp = RandomForestClassifier(20, random_state=0), _network(MLPStudent, 64, 10, hidden=64)
    cnn = _network(CNNStudent, (1, 8, 8), 10, channels=(8, 8, 8))
    return {
        "linear": _distilled(forest),
        "gradient": _distilled(mlp, meta="gradient", meta__hypergradient="jvp"),
        "adam": _distilled(mlp, meta="gradient", optimizer=torch.optim.Adam, lr=0.01),
        "exact": _distilled(mlp, meta="gradient", meta__hypergradient="exact"),
        "hyperopt": _distilled(forest, meta="hyperopt"),
        "random": _distilled(forest, meta="random"),
        "cnn": _distilled(cnn, CNNStudent),
        "paper": _distilled(forest, **(PAPER_SETTINGS | {"meta__val_temperature": "auto"})),
        "distpro": _distpro(),
        "distpro linear, learned": _distpro(meta="linear", logit_weight="learned"),
        "distpro equal": _distpro(weights="equal", logit_weight=0.5),
    }


def digest(*arrays) -> str:
    """Digest of the bytes of arrays or tensors."""
    parts = [np.ascontiguousarray(a.detach().cpu() if isinstance(a, torch.Tensor) else a) for a in arrays]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


def _columns(estimator):
    """What was learned, by name: arrays with one row per iteration."""
    if isinstance(estimator, DistilledClassifier):
        path = estimator.metaparameter_path_
        return {name: path[name] for name in ("lambda1", "temperature")}
    if estimator.process_ is None:
        return {}
    columns = {"raw": estimator.process_.raw}
    if estimator.process_.logit_term is not None:
        columns["logit_term"] = estimator.process_.logit_term
    return columns


@functools.cache
def outcome(name: str) -> dict:
    """Fit the estimator of this name and return its numbers."""
    estimator = fits()[name]
    X, y = _digits(flat=estimator.student is MLPStudent)
    weight = np.linspace(0.5, 2, len(y)) if name == "random" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, y, sample_weight=weight)
        with tempfile.TemporaryDirectory() as folder:
            estimator.save(f"{folder}/saved.safetensors")
            again = type(estimator).load(f"{folder}/saved.safetensors", device="cpu")
    columns, history = _columns(estimator), estimator.history_
    losses = [column for column in ("train_loss", "valid_loss") if column in history[-1]]
    return {
        "weights": digest(*estimator.student_.state_dict().values()),
        "columns": digest(*columns.values()),
        "losses": {column: history[:, column] for column in losses},
        "learned": {
            column: values[:: max(1, len(values) // 8)].tolist() for column, values in columns.items()
        },
        "score": estimator.score(X, y),
        "predicts_as_saved": bool((again.predict_proba(X) == estimator.predict_proba(X)).all()),
    }


def main():
    """Write the file."""
    torch.set_num_threads(1)
    found = {"machine": machine(), "fits": {name: outcome(name) for name in fits()}}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
