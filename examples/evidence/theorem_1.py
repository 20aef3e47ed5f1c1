"""Check Theorem 1 of the paper: when the greedy hypergradient equals the implicit one.

At the optimum w* of the training loss the implicit hypergradient is the derivative of L_val for a student
that is trained to the end:

    implicit = −(∂²L_train/∂w ∂lambda)ᵀ H⁻¹ ∇L_val,      H = ∂²L_train/∂w²
    greedy / gamma = −(∂²L_train/∂w ∂lambda)ᵀ ∇L_val     (plain SGD of rate gamma)

They agree if H is the identity. Here H is computed in full, in float64, for two small students on the digits
averaged to 4×4 pixels, with 30 % of the labels flipped, a forest's logits, and an L2 penalty that makes w*
unique for the linear student. After k steps of plain SGD from w* with other metaparameters, the derivative of
L_val is

    h_k = −(∂²L_train/∂w ∂lambda)ᵀ H⁻¹ (1 − (1 − gamma H)ᵏ) ∇L_val,

which is greedy for k = 1 and implicit for k → ∞. L_val is taken at the T_val that is best at w*. The implicit
hypergradient is checked against central differences of L_val between students trained to the end at other
metaparameters. The greedy one is the library's, and is checked against its formula. The three seeds differ in
rows, flips and initial weights.

    OMP_NUM_THREADS=1 python examples/evidence/theorem_1.py       # a minute

It prints the tables and writes theorem_1.json beside this file.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian
from torch.nn.utils import parameters_to_vector

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._logit_distillation import ClosedFormEvaluation
from sklearn_kd.losses._logits import TrainingLoss
from sklearn_kd.tasks._cross_entropy import optimal_val_temperature, validation_loss
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.teachers._logit_checks import log_probabilities

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "paper"))
from _protocol import list_table, number
from _provenance import provenance

ROWS, FLIPPED, PENALTY, RATE = 600, 0.3, 1e-3, 0.1
STUDENTS, SEEDS = ("linear", "MLP of 8"), 3
VALUES = ((0.5, 1.0), (0.5, 4.0))
STEPS = (1, 5, 20, 100, 1000, 10_000)
NAMES = ("lambda1", "log T")


class Data:
    """Rows of D_train and D_val in float64, and the teacher's logits."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        X, y = load_digits(return_X_y=True)
        X = X.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(len(X), -1)
        order = rng.permutation(len(X))
        X, y = ((X - X.mean(axis=0)) / X.std(axis=0))[order], y[order]
        noisy = np.where(rng.random(len(y)) < FLIPPED, (y + rng.integers(1, 10, len(y))) % 10, y)
        train, valid = slice(ROWS), slice(ROWS, 2 * ROWS)
        forest = RandomForestClassifier(random_state=seed).fit(X[train], noisy[train])
        self.X, self.X_val = (torch.as_tensor(X[rows]) for rows in (train, valid))
        self.y, self.y_val = (torch.as_tensor(noisy[rows]) for rows in (train, valid))
        self.f = torch.as_tensor(log_probabilities(forest.predict_proba(X[train]))).double()


class Inner:
    """The training of one student to the end, and its derivatives at w*, a vector.

    Parameters
    ----------
    name : str
        One of ``STUDENTS``. The MLP's hidden layer has tanh, because H does not exist at ReLU's kinks.
    data : Data
    seed : int
    """

    def __init__(self, name: str, data: Data, seed: int):
        torch.manual_seed(seed)
        n_inputs, self.data = data.X.shape[1], data
        if name == "linear":
            self.student = nn.Sequential(nn.Linear(n_inputs, 10)).double()
        else:
            self.student = nn.Sequential(nn.Linear(n_inputs, 8), nn.Tanh(), nn.Linear(8, 10)).double()
        self.start = parameters_to_vector(self.student.parameters()).detach()

    def logits(self, w: Tensor, X: Tensor) -> Tensor:
        sizes = [p.numel() for p in self.student.parameters()]
        named = zip(self.student.named_parameters(), w.split(sizes), strict=True)
        return functional_call(self.student, {name: part.view_as(p) for (name, p), part in named}, (X,))

    def train_loss(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return L_train with the penalty; theta = (lambda1, log T)."""
        d = self.data
        rows = LogitDistillation().loss(
            self.logits(w, d.X), d.f, d.y, lambda1=theta[0], temperature=theta[1].exp()
        )
        return rows.mean() + PENALTY / 2 * w @ w

    def val_loss(self, w: Tensor, val_temperature: float) -> Tensor:
        return nn.functional.cross_entropy(self.logits(w, self.data.X_val) / val_temperature, self.data.y_val)

    def optimum(self, theta: Tensor) -> Tensor:
        """Return w*: L-BFGS from the start, then Newton's steps."""
        w = self.start.clone().requires_grad_()
        descent = torch.optim.LBFGS(
            [w], max_iter=20_000, tolerance_grad=1e-6, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            descent.zero_grad()
            loss = self.train_loss(w, theta)
            loss.backward()
            return loss

        descent.step(closure)
        return self.polished(w.detach(), theta)

    def polished(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return the optimum near w, by four steps of Newton, until the gradient is rounding noise."""
        for _ in range(4):
            g = grad(self.train_loss)(w, theta)
            w = w - torch.linalg.solve(hessian(self.train_loss)(w, theta), g)
        return w

    def mixed(self, w: Tensor, theta: Tensor) -> Tensor:
        """Return ∂²L_train/∂theta ∂w, shape (2, n_weights)."""
        by_theta = torch.func.jacfwd(grad(self.train_loss), argnums=1)(w, theta)
        return by_theta.T

    def greedy(self, w: Tensor, theta: Tensor, val_temperature: float) -> Tensor:
        """Return the library's hypergradient of a step of plain SGD, divided by its rate."""
        torch.nn.utils.vector_to_parameters(w, self.student.parameters())
        optimizer = torch.optim.SGD(self.student.parameters(), lr=RATE, weight_decay=PENALTY)
        record = HypergradientEstimator(self.student, optimizer, method="exact")
        d = self.data
        record.begin()
        logits = self.student(d.X)
        temperature = float(theta[1].exp())
        loss = TrainingLoss(logits, Targets(d.y, d.f), float(theta[0]), temperature, scaling="hinton")
        record.after_forward((d.X,), logits, ClosedFormEvaluation(loss), logits)
        optimizer.zero_grad()
        logits.backward(loss.r)
        optimizer.step()
        targets = Targets(d.y_val)
        h, _ = record.hypergradient(d.X_val, lambda z: validation_loss(z, targets, val_temperature))
        return h.detach() * torch.tensor([1.0, temperature]) / RATE


def differences(inner: Inner, w: Tensor, theta: Tensor, val_temperature: float) -> list[float]:
    """Return central differences of L_val between students trained to the end at other metaparameters."""
    found, step = [], 1e-4
    for j in range(2):
        moved = step * torch.eye(2, dtype=torch.float64)[j]
        up, down = (
            inner.val_loss(inner.polished(w, theta + sign * moved), val_temperature) for sign in (1, -1)
        )
        found.append(float((up - down) / (2 * step)))
    return found


def check(inner: Inner, values: tuple[float, float]) -> dict[str, Any]:
    """Return the hypergradients at the inner optimum of some metaparameters, and the eigenvalues of H."""
    theta = torch.tensor([values[0], np.log(values[1])], dtype=torch.float64)
    w = inner.optimum(theta)
    best = optimal_val_temperature([(inner.logits(w, inner.data.X_val), Targets(inner.data.y_val))])
    v, mixed = grad(inner.val_loss)(w, best), inner.mixed(w, theta)
    eigenvalues, vectors = torch.linalg.eigh(hessian(inner.train_loss)(w, theta))
    seen, along = mixed @ vectors, vectors.T @ v

    def after(k: float) -> Tensor:
        """Return h_k / gamma."""
        done = torch.ones_like(eigenvalues) if np.isinf(k) else 1 - (1 - RATE * eigenvalues) ** k
        return -(seen * (done / eigenvalues)) @ along

    implicit = after(np.inf)
    greedy = inner.greedy(w, theta, best)
    of_steps = {str(k): after(k).tolist() for k in STEPS}
    return {
        "lambda1, T": values,
        "norm of the gradient": float(grad(inner.train_loss)(w, theta).norm()),
        "L_val": float(inner.val_loss(w, best)),
        "T_val": best,
        "eigenvalues": [float(eigenvalues.quantile(q)) for q in (0, 0.25, 0.5, 0.75, 1)],
        "greedy": greedy.tolist(),
        "greedy, by hand": (-mixed @ v).tolist(),
        "implicit": implicit.tolist(),
        "differences": differences(inner, w, theta, best),
        "cosine": float(nn.functional.cosine_similarity(greedy, implicit, dim=0)),
        "after k steps": of_steps,
    }


def tables(record: dict) -> list[str]:
    """Return the table of docs/guide/horizon.rst, means over the seeds."""
    rows = []
    for name, values in product(STUDENTS, VALUES):
        runs = [r for r in record["runs"] if r["student"] == name and r["lambda1, T"] == list(values)]
        for j, of in enumerate(NAMES):
            implicit = np.array([run["implicit"][j] for run in runs])
            by_step = {
                k: np.array([run["after k steps"][k][j] for run in runs]) for k in runs[0]["after k steps"]
            }
            right = [k for k, h in by_step.items() if (np.sign(h) == np.sign(implicit)).all()]
            shown = [np.mean(h) for h in (*by_step.values(), implicit)]
            cells = [f"{value:+.4f}".replace("-", "−").replace("0.", ".") for value in shown]
            rows.append([f"{name}, {number(values[0]).rstrip('0')}, T = {values[1]:g}", of, *cells, right[0]])
    steps = [f"{int(k):,}" for k in record["runs"][0]["after k steps"]]
    return [list_table(["", "by", *steps, "implicit", "right from"], rows)]


def sentences(record: dict) -> list[str]:
    """Return the sentences of the guide about the record."""

    def largest_error(of: str, reference: str) -> float:
        pairs = ((np.array(run[of]), np.array(run[reference])) for run in record["runs"])
        return max(float(np.abs(a / b - 1).max()) for a, b in pairs)

    errors = (
        largest_error("greedy", "greedy, by hand"),
        largest_error("differences", "implicit"),
    )
    low, high = (pick(value for run in record["runs"] for value in run["eigenvalues"]) for pick in (min, max))
    cosines = [run["cosine"] for run in record["runs"]]
    return [
        f"largest relative errors {errors[0]:.0e} and {errors[1]:.0e}",
        f"between {low:.1g} and {high:.1g}",
        f"cosine of the two is between {number(min(cosines))} and {number(max(cosines))}",
    ]


def main() -> None:
    torch.set_num_threads(1)
    began, found = time.process_time(), []
    for name, values, seed in product(STUDENTS, VALUES, range(SEEDS)):
        inner = Inner(name, Data(seed), seed)
        run = {"student": name, "seed": seed, "weights": len(inner.start)} | check(inner, values)
        found.append(run)
        spread = ", ".join(f"{value:.1e}" for value in run["eigenvalues"])
        print(f"\n{name}, {values}, seed {seed}: eigenvalues {spread}", end="")
        print(f"; |gradient| {run['norm of the gradient']:.0e}")
        for j, of in enumerate(NAMES):
            parts = [run[key][j] for key in ("greedy", "greedy, by hand", "implicit", "differences")]
            print(f"  {of:8} greedy {parts[0]:+.6f} ({parts[1]:+.6f})", end="")
            print(f", implicit {parts[2]:+.6f} ({parts[3]:+.6f})")
            print("   of k steps:", *(f"{k}: {h[j]:+.5f}" for k, h in run["after k steps"].items()))
    settings = {"rows": ROWS, "flipped": FLIPPED, "penalty": PENALTY, "rate": RATE, "seeds": SEEDS}
    record = {**provenance(__file__), "settings": settings, "CPU seconds": round(time.process_time() - began)}
    record["runs"] = found
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    for table in tables(json.loads(json.dumps(record))):
        print(f"\n{table}")
    print(*sentences(record), sep="\n")


if __name__ == "__main__":
    main()
