"""The Atari learner in torch, written from the mathematics; run by the peers' interpreter.

Discrete soft actor-critic (Christodoulou, arXiv 1910.07207) as published code has it: modules, autograd,
three Adam optimisers, pictures as bytes made float by the update.
"""

import copy
import math
import time
from typing import Any

import torch
from torch import nn

from . import atari_batch as work

PACKAGES = ("torch", "numpy")


def build(layout: str):
    """`layout`: "reference" (channels × height × width) or "channels-last"."""
    torch.set_num_threads(1)
    channels_last = layout == "channels-last"
    order = torch.channels_last if channels_last else torch.contiguous_format
    batches = _batches(order)
    work.check_same(Learner(order).first_updates(batches))
    learner = Learner(order)

    def measure(count: int) -> float:
        started = time.perf_counter()
        for update in range(count):
            learner.update(*batches[update % len(batches)])
        return time.perf_counter() - started

    return measure


class Learner:
    """Policy, twin critics with targets, and the temperature."""

    def __init__(self, order: torch.memory_format):
        self.policy, self.first, self.second = (
            _network(parameters).to(memory_format=order)  # pyright: ignore
            for parameters in work.networks()
        )
        self.critics = nn.ModuleList([self.first, self.second])
        self.targets = copy.deepcopy(self.critics)
        self.log_temperature = torch.zeros((), requires_grad=True)
        self.critic_optimiser, self.policy_optimiser, self.temperature_optimiser = (
            torch.optim.Adam(parameters, lr=work.LEARNING_RATE, eps=work.ADAM_EPSILON)
            for parameters in (self.critics.parameters(), self.policy.parameters(), [self.log_temperature])
        )
        self.updates = 0

    def first_updates(self, batches) -> dict[str, Any]:
        """One update on each, and what `atari_batch.CHECKED` wants to know of them."""
        means = torch.tensor([self.update(*batch) for batch in batches]).mean(0).tolist()
        picture = batches[0][0][:1].float() / 255.0
        with torch.no_grad():
            log_probs = torch.log_softmax(self.policy(picture), 1)[0].tolist()
        told = dict(zip(("critic_loss", "actor_loss", "q_mean"), means, strict=True))
        return told | {"log_temperature": self.log_temperature.item(), "log_probs": log_probs}

    def update(self, observation, action, following, terminated, reward):
        observation, following = observation.float() / 255.0, following.float() / 255.0
        temperature = self.log_temperature.detach().exp()
        with torch.no_grad():
            log_probs = torch.log_softmax(self.policy(following), 1)
            least = torch.minimum(*(target(following) for target in self.targets))
            value = (log_probs.exp() * (least - temperature * log_probs)).sum(1)
            target = reward + work.DISCOUNT * torch.where(terminated, 0.0, value)

        q_values = [critic(observation).gather(1, action[:, None])[:, 0] for critic in self.critics]
        critic_loss = sum((0.5 * (q - target) ** 2).mean() for q in q_values)
        _step(self.critic_optimiser, critic_loss)

        with torch.no_grad():
            least = torch.minimum(*(critic(observation) for critic in self.critics))
        log_probs = torch.log_softmax(self.policy(observation), 1)
        probabilities = log_probs.exp()
        actor_loss = (probabilities * (temperature * log_probs - least)).sum(1).mean()
        _step(self.policy_optimiser, actor_loss)

        entropy = -(probabilities * log_probs).sum(1).mean().detach()
        _step(self.temperature_optimiser, self.log_temperature * (entropy - work.TARGET_ENTROPY))

        self.updates += 1
        if self.updates % work.TARGET_EVERY == 0:
            self.targets.load_state_dict(self.critics.state_dict())
        q_mean = torch.stack(q_values).mean()
        return critic_loss.item(), actor_loss.item(), q_mean.item()


def _step(optimiser: torch.optim.Optimizer, loss) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _batches(order: torch.memory_format):
    def tensor(name, array):
        if "observation" in name:
            return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=order)
        return torch.from_numpy(array).long() if name == "action" else torch.from_numpy(array)

    arrays = work.batches()._asdict()
    return [[tensor(name, array[i]) for name, array in arrays.items()] for i in range(work.FUSED)]


def _network(parameters: work.Parameters) -> nn.Sequential:
    modules, channels = [], work.STACK
    for filters, kernel, stride in work.CONVOLUTIONS:
        modules += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
        channels = filters
    flat = parameters[len(work.CONVOLUTIONS)][0].shape[1]
    modules += [nn.Flatten(), nn.Linear(flat, work.HIDDEN), nn.ReLU(), nn.Linear(work.HIDDEN, work.ACTIONS)]
    network = nn.Sequential(*modules)
    layers = [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
    side = math.isqrt(flat // channels)
    with torch.no_grad():
        for index, (layer, (weight, bias)) in enumerate(zip(layers, parameters, strict=True)):
            values = torch.from_numpy(weight)
            if values.ndim == 4:
                values = values.permute(0, 3, 1, 2)
            elif index == len(work.CONVOLUTIONS):
                # Torch flattens channel by channel.
                values = values.reshape(-1, side, side, channels).permute(0, 3, 1, 2).flatten(1)
            layer.weight.copy_(values)
            layer.bias.copy_(torch.from_numpy(bias))
    return network
