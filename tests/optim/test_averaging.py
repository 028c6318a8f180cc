import torch
from torch import nn

from fieldguide.optim import EMA, NoAverage, build_average


def _model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))
    model.register_buffer("count", torch.tensor(3))
    return model


def _move(model):
    model(torch.randn(8, 4) * 3 + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_follows_the_recurrence():
    model = _model().double()
    ema = EMA(model, 0.9)
    names = [*dict(model.named_parameters()), "1.running_mean", "1.running_var"]
    expected = {name: model.state_dict()[name].clone() for name in names}
    for n in range(1, 40):
        model.double()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point() and tensor.isfinite().all():
                    tensor.add_(torch.randn_like(tensor))
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        for name in names:
            expected[name] = decay * expected[name] + (1 - decay) * model.state_dict()[name]
    with ema.applied():
        for name in names:
            torch.testing.assert_close(model.state_dict()[name], expected[name], rtol=1e-12, atol=1e-12)


def test_applied_puts_the_weights_back_bit_for_bit_even_after_an_error():
    model = _model()
    ema = EMA(model, 0.9)
    _move(model)
    ema.update()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with ema.applied():
            assert not torch.equal(model[0].weight, before["0.weight"])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_running_statistics_are_averaged_and_other_buffers_are_the_models_own():
    model = _model()
    ema = EMA(model, 0.9)
    for _ in range(5):
        _move(model)
        ema.update()
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ema.applied():
        shown = model.state_dict()
        assert not torch.equal(shown["1.running_mean"], live["1.running_mean"])
        for name in ("1.num_batches_tracked", "mask", "count"):
            assert torch.equal(shown[name], live[name])


def test_install_and_state():
    model = _model()
    ema = EMA(model, 0.99)
    _move(model)
    ema.update()
    twin = _model()
    copy = EMA(twin, 0.99)
    copy.load_state_dict(ema.state_dict())
    ema.install()
    copy.install()
    assert copy.updates == 1
    assert torch.equal(model[0].weight, twin[0].weight)


def test_no_average_for_a_decay_of_zero():
    model = _model()
    before = model[0].weight.clone()
    average = build_average(model, 0.0)
    assert isinstance(average, NoAverage)
    average.update()
    with average.applied():
        assert torch.equal(model[0].weight, before)
    average.install()
    assert average.state_dict() == {}
