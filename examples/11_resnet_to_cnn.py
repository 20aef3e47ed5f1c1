"""Images: a pretrained ResNet to a small CNN
==========================================

A residual network was trained earlier on images that are no longer there. You have 100 labeled images and
900 without labels, and need a network that is far cheaper. The ResNet answers for all 1,000 images, and a
CNN with three small convolutions learns from its answers. The same CNN trained on the 100 labels shows what
that is worth.

So that this runs everywhere in seconds, the images are scikit-learn's digits, 8×8 pixels, and the ResNet is
trained here, on 500 of them. Any trained ``nn.Module`` that returns logits takes its place;
``CIFARResNet.from_file`` reads published weights for CIFAR-10 (:doc:`/guide/images`).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from sklearn_kd import CIFARResNet, CNNStudent, DistilledClassifier, distillation_report

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
earlier, test, here = np.split(np.random.default_rng(0).permutation(len(X)), [500, 797])

# %%
# The teacher
# -----------
#
# A ResNet-8 of 75,000 weights is trained on images that are shifted by up to a pixel, anew in each batch.


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
#
# ``lambda1=0`` gives the labels no weight, so ``y`` may hold anything for images without one: here the
# teacher's own prediction. At T = 4 the student also learns which digits the teacher finds alike.
#
# The student alone trains for ten times as many epochs on a tenth of the images. That is the same number of
# steps. Both are trained with three seeds, which also choose the 100 labeled images.

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
# Where they disagree
# -------------------
#
# The first ten test images of which the two CNNs of the last seed say different things. The CNN that learned
# from the ResNet is right about most of them, but not always.

of_alone, of_student = alone[-1].predict(X[test]), students[-1].predict(X[test])
different = np.flatnonzero(of_alone != of_student)
print(f"they disagree on {len(different)} of {len(test)} images")
figure, panels = plt.subplots(2, 5, layout="constrained")
for ax, k in zip(panels.flat, different, strict=False):
    ax.imshow(X[test][k, 0], cmap="gray_r")
    ax.set_axis_off()
    for side, color, said in ((0.0, "#0072b2", of_alone[k]), (1.0, "#d55e00", of_student[k])):
        right = said == y[test][k]
        ax.text(
            side, -0.04, f"{said} {'✓' if right else '✗'}", color=color, transform=ax.transAxes,
            ha="right" if side else "left", va="top", fontsize=14, weight="bold",
        )  # fmt: skip
figure.suptitle("What the CNN says: alone (left), taught (right)", fontsize=13)
plt.show()

# %%
# What it cost, and whether it was worth it
# -----------------------------------------
#
# The report compares the models of the last seed. Its times are microseconds of this machine: compare the
# rows.

report = distillation_report(students[-1], X[test], y[test], student_alone=alone[-1])
report  # noqa: B018

# %%
# ``report.plot`` draws the accuracy and the time of a row on the left. On the right a dot below the diagonal
# is a bin of rows of which the model is surer than it should be. The CNN of the 100 labels is.

figure = report.plot()
for ax, title in zip(figure.axes, ("accuracy against time", "accuracy against confidence"), strict=True):
    ax.set_title(title)
plt.show()

# %%
# What it shows
# -------------
#
# The small CNN is about as accurate as the ResNet that taught it, which has seventeen times as many weights.
# On the 100 labels alone it is .13 less accurate, and too sure of its answers. The labels were not used: the
# teacher's answers for 1,000 images are worth more than 100 labels.


# sphinx_gallery_start_ignore
def record():
    """Write the picture of the guide's page on the report, if the script is called with --record."""
    import sys
    from pathlib import Path

    if "--record" in sys.argv:
        figure.savefig(Path(sys.argv[0]).with_suffix(".png"), dpi=110)


record()
# sphinx_gallery_end_ignore
