"""Tensors by name."""

from __future__ import annotations

import torch

from gpurescue.state.named import named, tree


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(3), persistent=False)


def trained(kind, model, **options):
    optimizer = kind(model.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        loss = model.norm(model.embed.weight).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer


def test_modules_are_named_as_in_their_state_dict() -> None:
    model = Tied()
    found = named({"model": model})
    expected = {f"model.{key}" for key in model.state_dict()} | {"model.mask"}
    assert set(found) == expected
    assert found["model.head.weight"] is found["model.embed.weight"]


def test_state_of_an_optimizer_is_named_after_the_parameter() -> None:
    model = Tied()
    optimizer = trained(torch.optim.Adam, model)
    found = named({"optimizer": optimizer, "model": model})
    assert (
        found["optimizer.model.embed.weight.exp_avg"]
        is (optimizer.state[model.embed.weight]["exp_avg"])
    )
    assert found["optimizer.model.norm.bias.step"].item() == 1


def test_nested_state_is_found() -> None:
    model = Tied()
    optimizer = trained(torch.optim.LBFGS, model, max_iter=9, lr=0.01)
    found = named({"model": model, "optimizer": optimizer})
    (state,) = optimizer.state.values()
    assert len(state["old_dirs"]) > 1
    for number, tensor in enumerate(state["old_dirs"]):
        assert found[f"optimizer.model.embed.weight.old_dirs.{number}"] is tensor


def test_containers_and_attributes_are_looked_into() -> None:
    class Trainer:
        pass

    trainer = Trainer()
    trainer.model, trainer.ema = Tied(), [torch.zeros(2), torch.ones(2)]
    trainer.me = trainer
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    found = named({"trainer": trainer, "scaler": scaler, "x": {"y": torch.ones(1)}})
    assert found["trainer.ema.1"] is trainer.ema[1]
    assert found["trainer.model.embed.weight"] is trainer.model.embed.weight
    assert found["scaler._scale"] is scaler._scale
    assert "x.y" in found


def test_parameters_that_nobody_else_has_are_the_optimizers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], momentum=0.9)
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    found = named({"opt": optimizer})
    state = "opt.opt.params.0.momentum_buffer"
    assert set(found) == {"opt.params.0", state, "opt.params.0.grad"}


def test_names_are_the_same_every_time_and_found_twice_is_once() -> None:
    model = Tied()
    variables = {"a": model, "b": model, "c": model.embed.weight}
    assert list(named(variables)) == list(named(variables))
    assert not any(name.startswith(("b.", "c")) for name in named(variables))


def test_a_tree_tells_what_the_tensors_are_in() -> None:
    model = Tied()
    alone = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([*model.parameters(), alone], lr=0.1)
    found = tree({"model": model, "optimizer": optimizer})
    assert dict(found.modules)["model.norm"] is model.norm
    assert found.optimizers == [("optimizer", optimizer)]
    assert found.owners["optimizer.model.norm.bias"] == (optimizer, model.norm.bias)
    assert found.owners["optimizer.optimizer.params.3"] == (optimizer, alone)
