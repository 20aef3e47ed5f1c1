"""What the processes that train one student exchange for a hypergradient."""

import torch
from torch import nn

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.runtime._ranks import Ranks


class Recorder(Ranks):
    """The first of two processes; notes the tensors of each message and leaves them as they are."""

    def __init__(self):
        super().__init__()
        self.size, self.sent = 2, []

    def mean_(self, tensors):
        self.sent.append([tuple(t.shape) for t in tensors])


class Linear:
    """The loss a · s has the derivative 1 by a and s."""

    def contract(self, u):
        return u.sum()[None]


def test_v_is_sent_for_the_student_alone():
    """It vanishes on the weights of transforms, which may be many."""
    student, transform = nn.Linear(3, 4), nn.Linear(4, 50)
    optimizer = torch.optim.SGD([*student.parameters(), *transform.parameters()], lr=0.1)
    ranks, x = Recorder(), torch.randn(6, 3)

    def outputs(x):
        return transform(student(x)).square().mean(1)

    estimator = HypergradientEstimator(student, optimizer, others=[transform], outputs=outputs, ranks=ranks)
    estimator.begin()
    logits, s = student(x), outputs(x)
    estimator.after_forward((x,), s, Linear(), logits, 12)
    s.mean().backward()
    optimizer.step()

    def validation_loss(logits):
        loss = logits.square().mean()
        return loss, 2 * logits / logits.numel()

    h, _ = estimator.hypergradient(x, validation_loss, 12)
    assert torch.isfinite(h).all()
    of_v, of_h = ranks.sent
    assert of_v[:-1] == [(4, 3), (4,)]  # the last are the sizes that the step of a difference is chosen by
    assert len(of_v[-1]) == 1 and of_v[-1][0] < 10
    assert of_h == [(1,)]
