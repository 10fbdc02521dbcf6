"""``fcbp.stateful`` in the trainers that people use, where these are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fcbp
from fcbp.stateful import ContinualBackprop

NUMBERS = {"replacement_rate": 0.02, "maturity_threshold": 3}
X = torch.randn(320, 4, generator=torch.Generator().manual_seed(1))
Y = X[:, :2].sin()

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers' own


def network() -> nn.Module:
    torch.manual_seed(0)
    return fcbp.nets.mlp(4, (16, 12), 2)


def own_loop(epochs: int = 1, accumulate: int = 1) -> tuple[nn.Module, ContinualBackprop]:
    """The loop that the trainers take the place of."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, X[:1], **NUMBERS)
    for _ in range(epochs):
        for i, (x, y) in enumerate(DataLoader(TensorDataset(X, Y), batch_size=8)):
            (nn.functional.mse_loss(model(x), y) / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                cbp.step()
                optimizer.zero_grad()
    assert sum(int(n.sum()) for n in cbp.replaced.values()) > 5
    return model, cbp


# --- Lightning ------------------------------------------------------------------------------------------


def lightning_parts(folder: Path, **options: Any) -> tuple[Any, Any, Any]:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.example_input_array = X[:1]

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self(100 * batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    callback = fcbp.stateful.LightningCallback(log_every=10, **NUMBERS)
    trainer = lightning.Trainer(
        **{"max_epochs": 1, **options}, callbacks=[callback], logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=2,
    )  # fmt: skip
    return Module(), trainer, callback


def loader(x: Tensor = X, y: Tensor = Y) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=8)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_trains_as_ones_own_loop_does(accumulate, tmp_path):
    module, trainer, callback = lightning_parts(
        tmp_path, accumulate_grad_batches=accumulate, enable_checkpointing=False, val_check_interval=10
    )
    trainer.fit(module, loader(), loader(X[:16], Y[:16]))
    model, cbp = own_loop(accumulate=accumulate)
    assert callback.cbp.steps == cbp.steps == 40 // accumulate
    for name, count in cbp.replaced.items():
        assert torch.equal(count, callback.cbp.replaced[f"net.{name}"])
    for p, q in zip(module.net.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert float(trainer.callback_metrics["cbp/replaced"]) > 0
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_lightning_goes_on_from_a_checkpoint(tmp_path):
    module, trainer, _ = lightning_parts(tmp_path)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    module, trainer, callback = lightning_parts(tmp_path, max_epochs=2)
    trainer.fit(module, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    model, cbp = own_loop(epochs=2)
    assert callback.cbp.steps == cbp.steps == 80
    for p, q in zip(module.net.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_lightning_without_examples_is_told(tmp_path):
    module, trainer, _ = lightning_parts(tmp_path)
    module.example_input_array = None
    with pytest.raises(ValueError, match=r"example_inputs is \(\); expected some, or the module's example_input_array"):
        trainer.fit(module, loader())


# --- transformers ---------------------------------------------------------------------------------------


class Rows(Dataset):
    """Examples by the names of the model's arguments."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": X[i], "labels": Y[i]}


class Regression(nn.Module):
    """A model that gives its loss, as transformers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = self.net(x)
        return {"loss": nn.functional.mse_loss(output, labels), "output": output}


def transformers_parts(folder: Path, epochs: int, accumulate: int = 1) -> tuple[Any, Any, Any]:
    transformers = pytest.importorskip("transformers")

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(Rows(), batch_size=8)

    model = Regression()
    callback = fcbp.stateful.TransformersCallback({"x": X[:1], "labels": Y[:1]}, **NUMBERS)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, learning_rate=0.01,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1e9, gradient_accumulation_steps=accumulate,
        save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = InOrder(model, arguments, train_dataset=Rows(), callbacks=[callback], optimizers=(optimizer, None))
    return model, trainer, callback


@pytest.mark.parametrize("accumulate", [1, 2])
def test_transformers_trains_as_ones_own_loop_does(accumulate, tmp_path):
    model, trainer, callback = transformers_parts(tmp_path, 1, accumulate)
    trainer.train()
    other, cbp = own_loop(accumulate=accumulate)
    assert callback.cbp.steps == cbp.steps == 40 // accumulate
    for name, count in cbp.replaced.items():
        assert torch.equal(count, callback.cbp.replaced[f"net.{name}"])
    for p, q in zip(model.net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_transformers_goes_on_from_a_checkpoint(tmp_path):
    _, trainer, _ = transformers_parts(tmp_path, 1)
    trainer.train()
    model, trainer, callback = transformers_parts(tmp_path, 2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))
    other, cbp = own_loop(epochs=2)
    assert callback.cbp.steps == cbp.steps == 80
    for p, q in zip(model.net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# --- Stable-Baselines3 ----------------------------------------------------------------------------------


class ActorCritic(nn.Module):
    """The networks of a policy by the names that they have there, without the distribution that draws from them."""

    def __init__(self, policy: Any):
        super().__init__()
        self.features_extractor, self.mlp_extractor = policy.features_extractor, policy.mlp_extractor
        self.action_net, self.value_net = policy.action_net, policy.value_net

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        actor, critic = self.mlp_extractor(self.features_extractor(observations))
        return self.action_net(actor), self.value_net(critic)


def test_ppo_of_stable_baselines_keeps_its_networks_able_to_learn(tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
    policy = model.policy
    units = fcbp.find_units(ActorCritic(policy), torch.zeros(1, 4))
    cbp = ContinualBackprop(policy, policy.optimizer, units=units, replacement_rate=1e-2, maturity_threshold=4)
    policy.optimizer.register_step_post_hook(lambda *_: cbp.step())
    model.learn(256)
    assert cbp.steps == 4 * 2 * 2
    assert {name.split(".")[1] for name in cbp.replaced} == {"policy_net", "value_net"}
    assert sum(int(n.sum()) for n in cbp.replaced.values()) > 5
    model.save(tmp_path / "ppo")  # the hooks do not stand in the way
    sb3.PPO.load(tmp_path / "ppo", device="cpu")


# --- none of them ---------------------------------------------------------------------------------------


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'KerasCallback'"):
        _ = fcbp.stateful.KerasCallback
