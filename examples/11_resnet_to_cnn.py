"""Images: a pretrained ResNet to a small CNN
==========================================

A residual network was trained earlier on images that are no longer there. Here are 100 labeled
images and 900 without labels, and a network is wanted that is far cheaper. The ResNet answers for
all 1,000 images, and a CNN with three small convolutions learns from its answers. The same CNN
trained on the 100 labels shows what that is worth.

So that this runs everywhere in seconds, the images are scikit-learn's digits, 8×8 pixels, and the
ResNet is trained here, on 500 of them. Any trained ``nn.Module`` that returns logits takes its
place; ``CIFARResNet.from_file`` reads published weights for CIFAR-10 (:doc:`/guide/images`).
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_digits

from sklearn_kd import CIFARResNet, CNNStudent, DistilledClassifier, distillation_report

matplotlib.use("Agg")
X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
earlier, test, here = np.split(np.random.default_rng(0).permutation(len(X)), [500, 797])

# %%
# The teacher
# -----------
# A ResNet-8 of 75,000 weights, trained on images that are shifted by up to a pixel, anew in each
# batch.


def shifted(images):
    """Shift each image by −1, 0 or 1 pixels in both directions."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(images), 1)) + torch.arange(8)
    return padded[torch.arange(len(images))[:, None, None], 0, down[:, :, None], right[:, None, :]][:, None]


pretraining = DistilledClassifier(
    None, CIFARResNet, meta="none", student__depth=8, student__mean=(0.3,), student__std=(0.37,),
    augment=shifted, max_epochs=40, random_state=0, device="cpu",
)  # fmt: skip
resnet = pretraining.fit(X[earlier], y[earlier]).student_

# %%
# The students
# ------------
# ``lambda1=0`` gives the labels no weight, so that ``y`` may hold anything for images without one:
# here the teacher's own prediction. At T = 4 the student also learns which digits the teacher finds
# alike.
#
# The student alone trains for ten times as many epochs on a tenth of the images, which are as many
# steps.

small = {
    "student": CNNStudent,
    "student__channels": (8, 16, 16),
    "lr": 0.01,
    "batch_size": 50,
    "device": "cpu",
}
students, alone = [], []
for seed in range(3):
    rows = np.random.default_rng(seed).permutation(here)
    labeled = rows[:100]
    distilled = DistilledClassifier(
        resnet, meta="fixed", lambda1=0.0, temperature=4.0, max_epochs=20, random_state=seed, **small
    )
    guesses = pretraining.predict(X[rows])
    students.append(distilled.fit(X[rows], guesses))
    by_labels = DistilledClassifier(None, meta="none", max_epochs=200, random_state=seed, **small)
    alone.append(by_labels.fit(X[labeled], y[labeled]))

print(f"the ResNet                  {pretraining.score(X[test], y[test]):.3f}")
for name, models in {"CNN, 100 labels": alone, "CNN, the ResNet's answers": students}.items():
    found = [model.score(X[test], y[test]) for model in models]
    print(
        f"{name:28}{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}   "
        f"({', '.join(f'{accuracy:.3f}' for accuracy in found)})"
    )

# %%
# What it cost, was it worth it
# -----------------------------
# Of the last seed. The table has microseconds of this machine: compare its rows.

report = distillation_report(students[-1], X[test], y[test], student_alone=alone[-1])
print(report)

# %%
# The picture
# -----------
# Left: accuracy and the time of a row. Right: a dot below the diagonal is a bin of rows of which
# the model is surer than it should be, as the CNN of the 100 labels is.

figure = report.plot()
figure.savefig(Path(sys.argv[0]).with_suffix(".png"), dpi=110)
