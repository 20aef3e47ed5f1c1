"""Segmentation: a class for each pixel, from few maps
====================================================

A map has a class for each pixel of an image, and a person needs minutes to draw it. A large network was
trained earlier on many images and their maps, which are gone. You have 40 images with a map and 600 without.
A small network learns from the 40 maps, and from what the large one says about the pixels of all 640 images.

The images are composed here, from scikit-learn's digits on pieces of its two photographs, so the maps are
exact. Nothing is downloaded.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from sklearn.datasets import load_digits, load_sample_images

from sklearn_kd import DistilledClassifier, FCNStudent
from sklearn_kd.datasets import make_segmentation_scenes
from sklearn_kd.metrics import mean_iou_score

SIZE, N_EARLIER, N_MAPS, N_IMAGES, N_TEST = 24, 1200, 40, 600, 200

# %%
# The scenes
# ----------
#
# One or two digits, each from 0 to 2, lie on a dark piece of a photograph, tinted, turned and mirrored.
# Class 0 is the photograph, class k the digit k − 1.

digits, labels = load_digits(n_class=3, return_X_y=True)
digits = digits.reshape(-1, 8, 8) / 16
photographs = load_sample_images().images
pieces = np.stack(
    [
        photograph[row : row + 64, column : column + 64].transpose(2, 0, 1) / 1020  # a quarter as bright
        for photograph in photographs
        for row in range(0, 360, 40)
        for column in range(0, 570, 40)
    ]
)
X, y = make_segmentation_scenes(
    digits, labels, pieces, N_EARLIER + N_MAPS + N_IMAGES + N_TEST, size=SIZE,
    n_objects=(1, 2), scale=(0.6, 1.0), foreground=0.4, random_state=0, return_X_y=True,
)  # fmt: skip
earlier, own, unlabeled, test = np.split(np.arange(len(X)), np.cumsum([N_EARLIER, N_MAPS, N_IMAGES]))

# %%
# The teacher
# -----------
#
# A fully convolutional network. Its maps have half the size of the images; the estimator enlarges them.

common = {"lr": 0.01, "random_state": 0, "device": "cpu"}
large = DistilledClassifier(
    None, FCNStudent, student__channels=(16, 32, 64), meta="none",
    batch_size=32, max_epochs=10, **common,
)  # fmt: skip
teacher = large.fit(X[earlier], y[earlier]).student_

# %%
# The students
# ------------
#
# A smaller network learns from the 40 maps alone ("alone" below), and from the maps and the teacher's answers
# for 640 images ("taught"), in as many steps. The measure is the mean over the classes of intersection over
# union (IoU): 1 where all pixels are right.

small = {"student": FCNStudent, "student__channels": (8, 16, 24), "batch_size": 16} | common
alone = DistilledClassifier(None, meta="none", max_epochs=147, **small).fit(X[own], y[own])
distilled = DistilledClassifier(teacher, meta="fixed", lambda1=0.5, temperature=2.0, max_epochs=11, **small)
distilled.fit(X[own], y[own], X_unlabeled=X[unlabeled])

models = {"teacher": large, "alone": alone, "taught": distilled}
for name, model in models.items():
    n_weights = sum(w.numel() for w in model.student_.parameters())
    score = mean_iou_score(y[test], model.predict(X[test]))
    print(f"{name:8} {n_weights:7,d} weights   mean IoU {score:.3f}")

# %%
# What they draw
# --------------
#
# Three images of the test, their true maps, and what the models draw.

COLORS = {"photograph": "#dddddd", "digit 0": "#e69f00", "digit 1": "#0072b2", "digit 2": "#009e73"}
columns = {"image": None, "truth": y[test]} | {name: model.predict(X[test]) for name, model in models.items()}
figure, axes = plt.subplots(3, 5, figsize=(6.3, 4.4), layout="constrained")
for row, i in zip(axes, range(3), strict=True):
    for ax, (name, maps) in zip(row, columns.items(), strict=True):
        if maps is None:
            ax.imshow(X[test][i].transpose(1, 2, 0))
        else:
            ax.imshow(maps[i], cmap=ListedColormap(list(COLORS.values())), vmin=0, vmax=3)
        ax.set_axis_off()
        if i == 0:
            ax.set_title(name)
patches = [Patch(color=color, label=kind) for kind, color in COLORS.items()]
figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=9)
plt.show()

# %%
# What it shows
# -------------
#
# With the teacher's answers the small network is about half of the way from the IoU of the maps alone to
# the teacher's. It stays behind its teacher, which has more weights and has seen thirty times as many maps.
# These are single fits: :doc:`/guide/reproduces_maps` has several seeds.
