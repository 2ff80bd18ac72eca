"""One step of training, and what it changes: weights, optimizer, averaged weights."""

import torch
from torch import Tensor, nn

from loupe.augment import random
from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import Stage
from loupe.data.pixels.batches import Batch
from loupe.devices import Compute
from loupe.models.classifier import Classifier
from loupe.training import losses, optimizers
from loupe.training.activation_loader import CyclicAugment, IdentityAugment
from loupe.training.averaging import WeightAverage
from loupe.training.checkpoint import Snapshot, optimizer_tensors, restore_optimizer


class TrainStep:
    """What one stage trains with: network, optimizer, augmentation, and the average of the weights, if it keeps one."""

    def __init__(
        self,
        model: Classifier,
        stage: Stage,
        augmenter: Augmenter | IdentityAugment | CyclicAugment,
        arithmetic: Compute,
        class_weights_K: Tensor | None,
        first: int = 0,
    ) -> None:
        """`first`: the block that the inputs enter at; with activations of frozen blocks, the one after them."""
        model.learn(stage.part, batch_statistics=stage.batch_statistics)
        self.model = model
        self.stage = stage
        self.augmenter = augmenter
        self.arithmetic = arithmetic
        self.class_weights_K = class_weights_K
        self.first = first
        self.loss = losses.build(stage, class_weights_K)
        self.optimizer = optimizers.build(stage, model)
        self.decayed = optimizers.decayed(model, everything=stage.decay_all)
        self.penalised = optimizers.penalised(model, stage)
        self.scaler = arithmetic.scaler()
        self.average = WeightAverage(model, stage.ema_decay) if stage.ema_decay else None

    @property
    def result(self) -> Classifier:
        """The network to evaluate and to keep."""
        return self.average.model if self.average else self.model

    def penalty(self) -> float:
        """The L2 term of the loss, for the network that is evaluated; 0 where the stage has none."""
        chosen = {id(parameter) for parameter in self.penalised}
        pairs = zip(self.model.parameters(), self.result.parameters(), strict=True)
        return optimizers.l2_penalty([kept for mine, kept in pairs if id(mine) in chosen], self.stage.l2)

    def step(self, batch: Batch, partner: Batch | None, *, epoch: int, step: int, steps: int, lr: float) -> Tensor:
        """One step of the optimizer; returns the sum of the loss and the number of hits over the batch, on the device.

        Args:
            batch: the images; partner: the images that they are mixed with, if any.
            epoch: over all stages, from 0; step: in the epoch, from 0; steps: of this stage, before this one.
            lr: the learning rate of this step.
        """
        stage = self.stage
        torch.manual_seed(random.integer_seed(self.augmenter.seed, epoch, step, "dropout"))
        x_BCHW, target = self._inputs(batch, partner, epoch)
        with self.arithmetic.autocast():
            logits_BK = self.model(x_BCHW, self.first)
        losses_B = self.loss(logits_BK.float(), target)
        self.scaler.scale(losses_B.mean()).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if stage.l2:
            optimizers.add_l2_gradient(self.penalised, stage.l2)
        if stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), stage.clip_norm)
        optimizers.set_rate(self.optimizer, lr)
        if steps % optimizers.FORGET_EVERY_STEPS == 0:
            optimizers.forget(self.optimizer)
        if stage.weight_decay:
            optimizers.decay(self.optimizer, self.decayed, stage.weight_decay)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model, steps)
        hits = losses.hits(logits_BK.detach(), target)
        return torch.stack([losses_B.detach().sum(), hits.to(losses_B.dtype)])

    def _inputs(self, batch: Batch, partner: Batch | None, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented pixels and their target, mixed with those of the partner where there is one."""
        classes = len(self.model.classes)
        x_BCHW = self.augmenter.train(batch.x_BCHW, batch.index_B, epoch)
        if partner is None:
            return x_BCHW, losses.target(batch.y_B, None, None, classes)
        assert isinstance(self.augmenter, Augmenter), "images are mixed as images"
        other_BCHW = self.augmenter.train(partner.x_BCHW, partner.index_B, epoch)
        x_BCHW, share_B = self.augmenter.mix(x_BCHW, other_BCHW, batch.index_B, epoch)
        return x_BCHW, losses.target(batch.y_B, partner.y_B, share_B, classes)

    def state(self) -> Snapshot:
        """Everything here that training changes."""
        tensors = {"weights": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        if self.average:
            tensors["average"] = self.average.model.state_dict()
        return Snapshot(tensors, {"scaler": self.scaler.state_dict()})

    def restore(self, snapshot: Snapshot) -> None:
        """Puts back what `state` gave."""
        self.model.load_state_dict(snapshot.tensors["weights"])
        restore_optimizer(self.optimizer, snapshot.tensors["optimizer"])
        if self.average:
            self.average.model.load_state_dict(snapshot.tensors["average"])
        self.scaler.load_state_dict(snapshot.values["scaler"])
