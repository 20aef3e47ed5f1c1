"""Depth: a distance for each pixel, taught by feature maps
========================================================

How far away is what each pixel shows? A large network was trained on many scenes with measured distances,
which are gone. 100 scenes are left. Two small networks learn from them: one from the distances alone, one
from the large network's feature maps as well, by :class:`~sklearn_kd.DistProRegressor`.

The scenes are composed here: scikit-learn's digits stand on a floor before a wall, both tiled with pieces of
its two photographs, and a pinhole camera sees them. So the distances are exact. Nothing is downloaded.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

from sklearn_kd import DistilledRegressor, DistProRegressor, FCNStudent
from sklearn_kd.datasets import make_depth_scenes
from sklearn_kd.metrics import masked_root_mean_squared_error

SIZE, N_EARLIER, N_OWN, N_TEST = 24, 1000, 100, 200

# %%
# The scenes
# ----------
#
# One to three digits stand on the floor, from 2 m on. Each digit has a height of its own, from 0.8 to 1.7 m.
# The camera is 1.5 m above the floor, and the wall 4 to 7 m away.

digits = load_digits()
photographs = load_sample_images().images
tiles = np.stack(
    [
        photograph[row : row + 64, column : column + 64].transpose(2, 0, 1) / 510  # half as bright
        for photograph in photographs
        for row in range(0, 360, 40)
        for column in range(0, 570, 40)
    ]
)
X, y = make_depth_scenes(
    digits.images / 16, 0.8 + 0.1 * digits.target, tiles, N_EARLIER + N_OWN + N_TEST, size=SIZE,
    n_objects=(1, 3), camera_height=(1.5, 1.5), horizon=(0.4, 0.4), wall=(4, 7), foreground=0.4,
    random_state=0, return_X_y=True,
)  # fmt: skip
earlier, own, test = np.split(np.arange(len(X)), np.cumsum([N_EARLIER, N_OWN]))

# %%
# Teacher and students
# --------------------
#
# All are fully convolutional networks. Their maps have half of the images' size, and the estimators enlarge
# them. DistPro connects the three layers of the teacher with the three of the student by nine pathways. It
# first searches how much each pathway should count at each step, for 5 epochs, and then trains a fresh
# student by that process. The measure is the root of the mean squared error (RMSE) over all pixels.

common = {"lr": 0.01, "batch_size": 32, "random_state": 0, "device": "cpu"}
large = DistilledRegressor(
    None, FCNStudent, meta="none", student__channels=(16, 32, 64), max_epochs=8, **common
).fit(X[earlier], y[earlier])

small = {"student": FCNStudent, "student__channels": (6, 12, 20), "max_epochs": 40} | common
alone = DistilledRegressor(None, meta="none", **small).fit(X[own], y[own])
layers = ["layer1", "layer2", "layer3"]
distilled = DistProRegressor(
    large.student_, transforms=["conv1"], teacher_layers=layers, student_layers=layers, search_epochs=5,
    **small,
).fit(X[own], y[own])  # fmt: skip

models = {"teacher": large, "alone": alone, "DistPro": distilled}
for name, model in models.items():
    n_weights = sum(w.numel() for w in model.student_.parameters())
    error = masked_root_mean_squared_error(y[test], model.predict(X[test]))
    print(f"{name:8} {n_weights:7,d} weights   RMSE {error:.2f} m")

# %%
# What they see
# -------------
#
# Three scenes of the test. Near is dark, far is bright.

columns = {"image": None, "truth": y[test]} | {name: model.predict(X[test]) for name, model in models.items()}
figure, axes = plt.subplots(3, 5, figsize=(6.3, 4.4), layout="constrained")
for row, i in zip(axes, range(3), strict=True):
    for ax, (name, maps) in zip(row, columns.items(), strict=True):
        if maps is None:
            ax.imshow(X[test][i].transpose(1, 2, 0))
        else:
            shown = ax.imshow(maps[i], cmap="viridis", vmin=1.5, vmax=7)
        ax.set_axis_off()
        if i == 0:
            ax.set_title(name)
figure.colorbar(shown, ax=axes, label="distance, m", orientation="horizontal", aspect=40, shrink=0.7)
plt.show()

# %%
# What it shows
# -------------
#
# Both students see floor and wall, and blur the digits. DistPro's is ahead of the other by a few hundredths
# of a metre, which a single fit of each does not separate from nothing. :doc:`/guide/reproduces_maps` has
# more seeds and more images.
