"""Files of estimators, to be changed and written again."""

from pathlib import Path

import torch

from sklearn_kd import DistilledClassifier, DistProClassifier
from sklearn_kd.persistence._container import Content, packed, unpacked


def content_of(
    estimator: DistilledClassifier | DistProClassifier, path: Path
) -> tuple[dict, dict[str, torch.Tensor]]:
    """Save the estimator; return the file's JSON and its tensors."""
    estimator.save(path)
    about, tensors = unpacked(path.read_bytes(), "it")
    return about, dict(tensors)


def write(path: Path, about: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file whose digest fits its content: only the content can be found wrong."""
    path.write_bytes(packed(Content(about, tensors)))
