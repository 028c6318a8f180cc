"""The multi-layer perceptron, and its units of measurement."""

import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, save_model
from fieldguide.objectives import Regression
from fieldguide.profile import layer_table
from fieldguide.train import Recipe, fit


def mini(**overrides):
    torch.manual_seed(0)
    return create_model("mlp_mini", **overrides).double()


@pytest.mark.parametrize(("activation", "theirs"), [("relu", "relu"), ("tanh", "tanh"), ("sigmoid", "logistic")])
def test_equals_scikit_learn_with_the_same_weights(activation, theirs):
    x, y = load_diabetes(return_X_y=True)
    fitted = MLPRegressor(hidden_layer_sizes=(16, 8), activation=theirs, max_iter=3, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        fitted.fit(x, y)
    model = mini(in_features=10, hidden=(16, 8), activation=activation).eval()
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    for layer, weight, bias in zip(linears, fitted.coefs_, fitted.intercepts_, strict=True):
        layer.weight.data, layer.bias.data = torch.tensor(weight.T), torch.tensor(bias)
    torch.testing.assert_close(model(torch.tensor(x))[:, 0], torch.tensor(fitted.predict(x)), rtol=1e-10, atol=1e-10)


def test_without_hidden_layers_in_units_of_the_table_it_is_a_line():
    x, y = load_diabetes(return_X_y=True, scaled=False)
    scaler, target = StandardScaler().fit(x), StandardScaler().fit(y[:, None])
    model = mini(in_features=10, hidden=())
    model.inputs.set(scaler.mean_.tolist(), scaler.scale_.tolist())
    model.outputs.set(target.mean_.tolist(), target.scale_.tolist())
    line = LinearRegression().fit(scaler.transform(x), target.transform(y[:, None]))
    model.head.weight.data, model.head.bias.data = torch.tensor(line.coef_), torch.tensor(line.intercept_)
    expected = torch.tensor(LinearRegression().fit(x, y).predict(x))
    torch.testing.assert_close(model(torch.tensor(x))[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_the_units_of_the_inputs_do_not_change_what_is_learnt():
    """Centimetres instead of metres: the same training, number by number."""
    x, y = (torch.tensor(part) for part in load_diabetes(return_X_y=True))
    answers = []
    for scale, shift in ((1.0, 0.0), (100.0, 7.0)):
        rows, model = x * scale + shift, mini(in_features=10)
        model.inputs.set(rows.mean(0).tolist(), rows.std(0).tolist())
        model.outputs.set([y.mean().item()], [y.std().item()])
        fit(model, ((rows, y), None), Regression(units=(y.std().item(),)), Recipe(epochs=2, batch_size=64, threads=1))
        answers.append(model(rows).detach())
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-3)  # the statistics themselves are float32


def test_gradients_reach_everything_and_the_units_stay():
    model = mini(out_features=3, dropout=0.5)
    model.inputs.set([1.0] * 8, [2.0] * 8)
    model(torch.randn(6, 8, dtype=torch.float64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert not {name for name, _ in model.named_parameters()} & {"inputs.mean", "inputs.std"}


def test_the_units_are_saved_with_the_weights(tmp_path):
    model = mini().float()
    model.inputs.set([float(i) for i in range(8)], [1.0 + i for i in range(8)])
    model.outputs.set([3.0], [0.25])
    save_model(model, tmp_path / "model")
    loaded, x = load_model(tmp_path / "model"), torch.randn(5, 8)
    assert loaded.config == model.config
    assert torch.equal(loaded(x), model.eval()(x))
    assert torch.equal(loaded.outputs.std, torch.tensor([0.25]))


def test_evaluation_treats_every_row_by_itself():
    model, x = mini(dropout=0.3).eval(), torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), torch.cat([model(row) for row in x.split(1)]), rtol=0, atol=1e-12)


def test_exports():
    model, x = mini().float().eval(), torch.randn(4, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for rows in (x, x[:1], torch.cat([x, x])):
        torch.testing.assert_close(program(rows), model(rows), rtol=1e-5, atol=1e-5)


def test_the_layer_table_agrees_with_the_catalog():
    table = layer_table(mini().float(), (torch.randn(4, 8),))
    assert table.total.parameters == 1_377
    assert table.total.flops > 0


def test_mistakes():
    with pytest.raises(FieldguideError, match=r"MLP takes rows \(b, 8\), got \(2, 7\)"):
        mini()(torch.zeros(2, 7, dtype=torch.float64))
    with pytest.raises(FieldguideError, match="activation of mlp_mini"):
        mini(activation="softmax")
    for mean, std in (([0.0] * 7, [1.0] * 8), ([0.0] * 8, [1.0] * 7 + [0.0])):
        with pytest.raises(FieldguideError, match="8 features need as many means and standard deviations above 0"):
            mini().inputs.set(mean, std)
