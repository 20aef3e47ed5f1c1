"""The average of a student's weights over its epochs, and what D_val says of it."""

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from sklearn_kd.training._weight_average import WeightAverage, load_weights, weights_of


def moved(module, rng):
    """Give all weights and statistics new values."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(torch.as_tensor(rng.normal(size=tensor.shape) * 10))


@pytest.mark.parametrize("n_epochs", [1, 2, 7])
@pytest.mark.parametrize("decay", [0.0, 1.0, 8.0])
def test_the_average_is_that_of_its_definition(decay, n_epochs):
    """In float64. With decay 1 epoch i has the weight 2 i / (n (n + 1))."""
    module, rng = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double(), np.random.default_rng(0)
    average, weights, statistics = WeightAverage(module, decay), [], []
    for _ in range(n_epochs):
        moved(module, rng)
        average.update()
        weights.append(module[0].weight.detach().numpy().copy())
        statistics.append(module[1].running_var.numpy().copy())
    shares = np.ones(n_epochs)
    for n in range(1, n_epochs + 1):
        shares[: n - 1] *= 1 - (decay + 1) / (n + decay)
        shares[n - 1] = (decay + 1) / (n + decay)
    if decay == 1:
        np.testing.assert_allclose(shares, 2 * np.arange(1, n_epochs + 1) / (n_epochs * (n_epochs + 1)))
    last, count = module[0].weight.detach().clone(), int(module[1].num_batches_tracked)
    average.swap()
    np.testing.assert_allclose(
        module[0].weight.detach().numpy(), np.tensordot(shares, weights, 1), atol=1e-13
    )
    np.testing.assert_allclose(module[1].running_var.numpy(), np.tensordot(shares, statistics, 1), atol=1e-13)
    assert int(module[1].num_batches_tracked) == count
    average.swap()
    assert torch.equal(module[0].weight, last)


def test_what_is_no_statistic_stays_the_last():
    """Such as infinite bounds, or vectors of length 1; a buffer that grows is not averaged either."""
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    module.register_buffer("bounds", torch.tensor([5.0, torch.inf]))
    module.register_buffer("running_sum", torch.ones(1))
    average, rng = WeightAverage(module, 1.0), np.random.default_rng(0)
    for _ in range(3):
        with torch.no_grad():
            module.parametrizations.weight.original.copy_(torch.as_tensor(rng.normal(size=(3, 3))))
        module(torch.ones(2, 3))
        module.running_sum = torch.cat([module.running_sum, torch.ones(1)])
        average.update()
    last = {name: buffer.clone() for name, buffer in module.named_buffers()}
    average.swap()
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, last[name]), name


def test_weights_of_a_pruned_student_are_refused():
    module, made = nn.Linear(2, 2), nn.Linear(2, 2)
    nn.utils.prune.identity(module, "weight")
    with pytest.raises(
        ValueError, match=r"lost its weights \['weight'\] .* Set retrain='average' or 'fresh'"
    ):
        load_weights(made, weights_of(module))


def test_small_steps_of_bfloat16_count():
    """In it, 1 + 2**-7 / 3 is 1."""
    module = nn.Linear(1, 1, bias=False).bfloat16()
    average = WeightAverage(module, 0.0)
    for value in (1.0, 1.0, 1.0 + 2**-7):
        nn.init.constant_(module.weight, value)
        average.update()
    assert float(average.state_dict()["average"]["weight"]) == pytest.approx(1 + 2**-7 / 3, rel=1e-6)


def test_without_an_epoch_there_is_nothing_to_exchange():
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    average = WeightAverage(module, 1.0)
    average.swap()
    average.update()
    assert torch.equal(module.weight, before)


def test_a_restored_average_goes_on():
    rng, module = np.random.default_rng(0), nn.Linear(2, 2)
    average, other = WeightAverage(module, 1.0), WeightAverage(module, 1.0)
    average.update()
    other.load_state_dict(average.state_dict())
    moved(module, rng)
    average.update()
    other.update()
    for name, value in average.state_dict()["average"].items():
        assert torch.equal(value, other.state_dict()["average"][name])
