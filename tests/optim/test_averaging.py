import torch
from torch import nn

from fieldguide.optim import EMA, SWA, Lookahead, NoAverage, ScheduleFreeAdamW, build_average, build_optimizer
from fieldguide.optim.averaging import OwnAverage
from fieldguide.optim.norm_statistics import NormStatistics


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
    average = build_average(model, 10, (), lambda: None)
    assert isinstance(average, NoAverage)
    average.update()
    with average.applied():
        assert torch.equal(model[0].weight, before)
    average.install()
    assert average.state_dict() == {}


# -------------------------------------------------------------------------------------------- SWA and its statistics


def _batches():
    torch.manual_seed(3)
    return [torch.randn(8, 4) * 3 + 1 for _ in range(5)]


def _statistics(model):
    return NormStatistics(model, lambda: [model(batch) for batch in _batches()])


def test_swa_is_torchs_average_and_torchs_renewed_statistics():
    model = _model()
    swa = SWA(model, 3, _statistics(model))
    theirs = torch.optim.swa_utils.AveragedModel(model)
    for step in range(10):
        _move(model)
        swa.update()
        if step >= 3:
            theirs.update_parameters(model)
    torch.optim.swa_utils.update_bn(_batches(), theirs)
    with swa.applied():
        for name, tensor in theirs.module.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    swa.install()
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_swa_puts_everything_back_and_does_nothing_before_its_start():
    model = _model()
    passes = []
    swa = SWA(model, 2, NormStatistics(model, lambda: passes.append(model(_batches()[0]))))
    for _ in range(2):
        _move(model)
        swa.update()
    with swa.applied():
        pass
    assert not passes
    _move(model)
    swa.update()
    _move(model)
    swa.update()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with swa.applied():
            assert not torch.equal(model[0].weight, before["0.weight"])
            assert not torch.equal(model[1].running_mean, before["1.running_mean"])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[1].momentum == 0.1
    assert len(passes) == 1


def test_without_new_statistics_an_average_is_worse():
    """Why the pass: the variance that weights in motion have seen is not the average's."""
    model = _model()
    swa = SWA(model, 0, _statistics(model))
    for _ in range(30):
        _move(model)
        swa.update()
    stale = model[1].running_var.clone()
    with swa.applied():
        inputs = torch.cat(_batches())
        seen = model[0](inputs).var(0, unbiased=True)
        fresh = (model[1].running_var - seen).abs().max()
        assert fresh < (stale - seen).abs().max() / 5


def test_frozen_norms_keep_their_statistics():
    model = _model()
    model[1].eval()
    swa = SWA(
        model, 0, NormStatistics(model, lambda: (_ for _ in ()).throw(AssertionError("nothing to pass over for")))
    )
    before = model[1].running_mean.clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    swa.update()
    swa.install()
    assert torch.equal(model[1].running_mean, before)


# ------------------------------------------------------------------------------------------- Lookahead and own averages


def test_lookahead_follows_its_algorithm():
    model = _model().double()
    lookahead = Lookahead(model, every=4, pull=0.3)
    slow, fast = model[0].weight.detach().clone(), model[0].weight.detach().clone()
    for step in range(1, 15):
        change = torch.randn(3, 4, dtype=torch.float64)
        with torch.no_grad():
            model[0].weight.add_(change)
        lookahead.update()
        fast = fast + change
        if step % 4 == 0:
            slow = fast = slow + 0.3 * (fast - slow)
        torch.testing.assert_close(model[0].weight.detach(), fast, rtol=0, atol=1e-12)
    with lookahead.applied():
        torch.testing.assert_close(model[0].weight.detach(), slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(model[0].weight.detach(), fast, rtol=0, atol=1e-12)
    lookahead.install()
    torch.testing.assert_close(model[0].weight.detach(), slow, rtol=0, atol=1e-12)


def test_a_schedule_free_optimizers_own_average_is_shown_and_installed():
    model = _model()
    optimizer = build_optimizer(model, "schedule_free", lr=0.05)
    average = build_average(model, 10, [optimizer], lambda: [model(batch) for batch in _batches()])
    assert isinstance(average, OwnAverage)
    with average.applied():
        assert isinstance(optimizer, ScheduleFreeAdamW)
    for batch in _batches():
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    averaged = optimizer.averaged()[model[0].weight]
    with average.applied():
        assert torch.equal(model[0].weight, averaged)
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())
    average.install()
    assert torch.equal(model[0].weight, averaged)
    torch.testing.assert_close(model[1].running_mean, torch.stack([model[0](b).mean(0) for b in _batches()]).mean(0))


def test_each_average_is_built_by_its_number():
    model = _model()
    kinds = {"ema": 0.9, "swa": 0.5, "lookahead": 5}
    built = [type(build_average(model, 10, (), lambda: None, **{name: value})) for name, value in kinds.items()]
    assert built == [EMA, SWA, Lookahead]
    assert build_average(model, 10, (), lambda: None, swa=0.01).start == 9, "the last step at least"
