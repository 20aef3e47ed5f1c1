"""A mixture of losses whose weights are learned
=============================================

A network can teach by more than its outputs: a student can also be pulled towards what the teacher's layers
look at (attention), and towards which rows the teacher finds alike (similarity). Each further loss has a
weight, and each weight is one more number to guess. Here the weights are metaparameters, as lambda1 and T
are, and are learned with them (:doc:`/guide/mixtures`).
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, layer_table
from sklearn_kd.losses import AttentionTransfer, SimilarityPreserving

X, y = load_digits(return_X_y=True)
X = (X / 16).reshape(-1, 1, 8, 8).astype(np.float32)
SEEDS = range(3)

# %%
# Two networks
# ------------
# One class of networks, in two widths: 16 for the teacher, which has seen 700 digits, and 4 for the student,
# which has 80. Any module will do.


class ConvNet(nn.Sequential):
    """Three convolutions, of which two halve the image, and a linear layer."""

    def __init__(self, n_classes, width=4):
        def block(n_in, n_out, stride):
            conv = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU())

        super().__init__()
        self.fine = block(1, width, 1)
        self.middle = block(width, 2 * width, 2)
        self.coarse = block(2 * width, 4 * width, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * width, n_classes)


common = {"student": ConvNet, "lr": 0.01, "device": "cpu"}


def trained_teacher(rows, seed):
    teacher = DistilledClassifier(
        None, student__width=16, meta="none", batch_size=32, max_epochs=8, random_state=seed, **common
    )
    return FrozenEstimator(teacher.fit(X[rows], y[rows]))


# %%
# :func:`~sklearn_kd.layer_table` lists the layers of a network. Terms take the numbered stages unless layers
# are named: ``AttentionTransfer(teacher_layers=["middle"], student_layers=["middle"])``.

print(layer_table(ConvNet(10), (1, 8, 8)))

# %%
# Four students
# -------------
# Without a teacher; with its outputs; with a mixture of three losses, whose weights stay; and with the same
# mixture, whose weights, lambda1 and T are learned in a search of a third of the epochs. All start from the
# same values. ``retrain="fresh"`` gives the last one a fresh student after the search, without the averaging
# of weights that a search brings by default: so it is trained exactly as the others are, and only the values
# differ.

mixture = ["kd", AttentionTransfer(weight=1), SimilarityPreserving(weight=10)]
METHODS = {
    "labels alone": {"meta": "none"},
    "teacher's outputs": {"meta": "fixed"},
    "mixture, fixed": {"meta": "fixed", "loss": mixture},
    "mixture, learned": {"meta": "linear", "loss": mixture, "retrain": "fresh"},
}
scores, models = {"teacher": []}, {}
for seed in SEEDS:
    past, own, test = np.split(np.random.default_rng(seed).permutation(len(X)), [700, 780])
    teacher = trained_teacher(past, seed)
    scores["teacher"].append(teacher.score(X[test], y[test]))
    for name, params in METHODS.items():
        student = DistilledClassifier(
            teacher,
            lambda1=0.5,
            temperature=4.0,
            batch_size=20,
            max_epochs=32,
            random_state=seed,
            **common,
            **params,
        )
        models[name, seed] = student.fit(X[own], y[own])
        scores.setdefault(name, []).append(student.score(X[test], y[test]))

base = np.array(scores["teacher's outputs"])
print(f"{'accuracy':20}{'mean':>7}   three seeds        less that of the teacher's outputs")
for name, values in scores.items():
    gain = np.array(values) - base
    error = gain.std(ddof=1) / len(SEEDS) ** 0.5
    each = " ".join(f"{value:.3f}" for value in values)
    print(f"{name:20}{np.mean(values):7.3f}   {each}  {gain.mean():+.3f} ± {error:.3f}")
for name, value in models["mixture, learned", 0].metaparameters_.items():
    print(f"learned, seed 0: {name} = {value:.2f}")

# %%
# What came out
# -------------
# The mixture is ahead of the teacher's outputs in the mean of three seeds, by about .02; these are few
# seeds, and one of them says otherwise for the fixed one. **Learning the weights changes nothing here**:
# they stay near a good start. In a short search they cannot go far, about 5 % in an iteration, so begin
# near the right size, or try several (``meta="hyperopt"``). Leave ``retrain="fresh"`` out in practice: then
# the search's student may train on, for more epochs in all, and is averaged. Do not credit the learned
# weights with what that brings.
#
# The figure has the accuracies on the left: the student alone (blue diamonds) is the least accurate, and
# both mixtures are a little ahead of the teacher's outputs. On the right are the paths of the four values
# in the search, thin for each seed and thick for their mean. They begin to move after ten iterations of
# Adam.

figure, axes = plt.subplot_mosaic(
    [["scores", "attention", "lambda1"], ["scores", "similarity", "T"]],
    figsize=(12, 4.8), width_ratios=(1.2, 1, 1), layout="constrained",
)  # fmt: skip
paths = [models["mixture, learned", seed].process_ for seed in SEEDS]
names = ["attention", "similarity", "lambda1", "T"]
MetaparameterPathDisplay.from_process(paths, axes=[axes[name] for name in names], color="#d55e00")
for name in names:
    axes[name].set_xlabel("iteration of the search" if name in ("similarity", "T") else "")
axes["attention"].set_title("learned weights of the terms")
axes["lambda1"].set_title("learned lambda1 and T")
for place, (name, values) in enumerate(scores.items()):
    color, marker = {"teacher": ("#6b7280", "s"), "labels alone": ("#0072b2", "D")}.get(
        name, ("#d55e00", "o")
    )
    axes["scores"].plot(values, [place] * len(SEEDS), marker, color=color, alpha=0.45, markeredgewidth=0)
    axes["scores"].plot(np.mean(values), place, marker, color=color, markersize=11)
axes["scores"].set_yticks(range(len(scores)), list(scores))
axes["scores"].invert_yaxis()
axes["scores"].set(xlabel="accuracy on new rows", title="means and three seeds")
axes["scores"].grid(axis="x", color="0.92")
for ax in axes.values():
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
