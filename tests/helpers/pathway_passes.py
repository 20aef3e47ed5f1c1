"""One forward pass of a student with the losses of pathways."""

import torch

from sklearn_kd.layers._hooks import feature_hooks


def pathway_pass(pathways, student, transforms, x, teacher_maps, active=None):
    """Return the logits and the losses of the ``active`` pathways; ``pathways`` is a PathwayLosses."""
    active = range(len(pathways.pathways)) if active is None else active
    with feature_hooks(student, pathways.student_layers(active)) as maps:
        logits = student(x)
    losses = pathways.losses(transforms, maps, teacher_maps, active)
    return logits, torch.stack(losses) if losses else logits.new_zeros(0)
