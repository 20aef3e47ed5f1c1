"""Metaparameters that move to where the better of two students was trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.meta._population import Difference, Population, PopulationStrategy, UnitCube
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import _check_real, check_positive_ints


class Twins(PopulationStrategy):
    def __init__(
        self,
        delta: float = 0.1,
        epochs_per_move: int = 1,
        pairs: int = 1,
        z: float = 0.0,
        *,
        val_temperature: Any = "auto",
    ):
        self.delta = delta
        self.epochs_per_move = epochs_per_move
        self.pairs = pairs
        self.z = z
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_positive_ints(epochs_per_move=self.epochs_per_move, pairs=self.pairs)
        _check_real("delta", self.delta, above=0.0)
        _check_real("z", self.z, least=0.0)
        UnitCube(space)

    def search(self, population: Population) -> None:
        cube, moves = UnitCube(population.space), []
        centre = cube.place(population.start)
        population.select([0] * (2 * self.pairs))
        while population.n_epochs_left:
            n = min(self.epochs_per_move, population.n_epochs_left)
            signs = population.rng.choice([-1.0, 1.0], size=(self.pairs, len(centre)))
            tried = np.clip(centre + self.delta * np.concatenate([signs, -signs]), 0.0, 1.0)
            population.train([cube.values(place) for place in tried], n, centre=cube.values(centre))
            losses = population.val_losses()
            best = int(losses.mean(axis=1).argmin())
            twin = (best + self.pairs) % (2 * self.pairs)
            difference = Difference.of(losses[best], losses[twin])
            taken = difference.is_below_zero(self.z)
            if taken:
                centre = tried[best]
            moves.append((difference, taken))
            population.select([best] * (2 * self.pairs))
            population.record(cube.values(centre), float(losses[best].mean()))
