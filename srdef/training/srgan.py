"""SRGAN: a super-resolution network trained against a discriminator (Ledig et al., 2017, arXiv:1609.04802).

The generator minimises (equation 3)

    content · |φ(target) − φ(output)|² + pixels · |target − output|² − adversarial · log D(output)

with three weights, where φ is a feature map of a frozen network, each square a mean over its elements,
and D the probability that the discriminator gives an image of being a photograph. In the paper φ is VGG-19's
last convolution, multiplied by 1/12.75, the content's weight 1, the pixels' 0 and the adversarial
part's 10⁻³; any network with feature maps can take VGG's place.

Both players step at once: the discriminator learns from the outputs with which it taught the generator.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx

from srdef import models
from srdef.errors import InputError
from srdef.models.discriminator import Discriminator
from srdef.models.protocols import SuperResolutionNetwork
from srdef.models.registry import initialise
from srdef.training import super_resolution


def feature_map(network: Any, endpoint: str, images: jax.Array) -> jax.Array:
    """The map that `network` calls `endpoint`, or for "" its last one: `(N, H, W, 3)` to `(N, h, w, C)`."""
    return network.endpoints(images)[endpoint] if endpoint else network.features(images)


def perceptual_loss(
    network: Any, endpoint: str, outputs: jax.Array, targets: jax.Array, scale: float = 1.0
) -> jax.Array:
    """Mean squared difference of two images' feature maps, each multiplied by `scale` (equation 5).

    Parameters
    ----------
    network : nnx.Module
        With `features`, or `endpoints` where one is named, such as `vgg19`.
    endpoint : str
        Which feature map: "conv5_4" is φ5,4; "" the last one.
    outputs, targets : (N, H, W, 3)
        Images in [0, 1]. No gradient flows to the targets.
    """
    wanted = jax.lax.stop_gradient(feature_map(network, endpoint, targets))
    return jnp.square(scale * (feature_map(network, endpoint, outputs) - wanted)).mean()


def generator_loss(fake: jax.Array) -> jax.Array:
    """Mean of −log D(output) (equation 6), from logits: finite however sure the discriminator is."""
    return jax.nn.softplus(-fake).mean()


def discriminator_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Mean of −log D(target) − log(1 − D(output)) (equation 2), from logits."""
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()


@dataclass(frozen=True)
class Trainer:
    """One jitted step of both players.

    The state has, beside what `super_resolution.Trainer` keeps of the generator, the discriminator's
    parameters, statistics and optimiser under `discriminator`. `frozen` holds the arrays of the feature
    network (`features`) and the weights of the losses (`weights`).
    """

    training: Any
    evaluation: Any
    discriminator: Any
    features: Any
    optimizer: optax.GradientTransformation
    scale: int
    endpoint: str
    feature_scale: float
    ema_decay: float
    frozen: Any

    def step(
        self, state: dict[str, Any], frozen: Any, high: jax.Array, step: jax.Array
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        """One update of both from a uint8 batch of padded patches; the new state and the losses."""
        low, target = super_resolution.pairs(high, self.scale)
        features = nnx.merge(self.features, frozen["features"])
        opponent = state["discriminator"]

        def generate(parameters: Any) -> tuple[jax.Array, Any]:
            network = nnx.merge(self.training, parameters, state["statistics"], copy=True)
            judge = nnx.merge(self.discriminator, opponent["parameters"], opponent["statistics"], copy=True)
            output = network(low)
            losses = {
                "content": perceptual_loss(features, self.endpoint, output, target, self.feature_scale),
                "pixels": super_resolution.LOSSES["l2"](output, target),
                "adversarial": generator_loss(judge(output)),
            }
            loss = sum(frozen["weights"][name] * value for name, value in losses.items())
            return loss, (output, {"loss": loss, **losses}, nnx.state(network, nnx.Not(nnx.Param)))

        def judge(parameters: Any, output: jax.Array) -> tuple[jax.Array, Any]:
            judge = nnx.merge(self.discriminator, parameters, opponent["statistics"], copy=True)
            loss = discriminator_loss(judge(target), judge(output))
            return loss, nnx.state(judge, nnx.Not(nnx.Param))

        gradient, (output, losses, statistics) = jax.grad(generate, has_aux=True)(state["parameters"])
        updates, optimizer = self.optimizer.update(gradient, state["optimizer"], state["parameters"])
        parameters = optax.apply_updates(state["parameters"], updates)

        (judged, judge_statistics), gradient = jax.value_and_grad(judge, has_aux=True)(
            opponent["parameters"], jax.lax.stop_gradient(output)
        )
        updates, judge_optimizer = self.optimizer.update(
            gradient, opponent["optimizer"], opponent["parameters"]
        )
        new_state = {
            "parameters": parameters,
            "statistics": statistics,
            "optimizer": optimizer,
            "average": super_resolution.averaged_update(
                state["average"], nnx.merge_state(parameters, statistics), self.ema_decay, step
            ),
            "discriminator": {
                "parameters": optax.apply_updates(opponent["parameters"], updates),
                "statistics": judge_statistics,
                "optimizer": judge_optimizer,
            },
        }
        return new_state, {**losses, "discriminator": judged}

    def averaged(self, state: dict[str, Any]) -> Any:
        """The generator with the averaged weights, in evaluation mode."""
        return nnx.merge(self.evaluation, state["average"])


def create_trainer(
    network: SuperResolutionNetwork, config: ml_collections.ConfigDict
) -> tuple[Trainer, dict[str, Any]]:
    """The trainer of `network` against a new discriminator, and its initial state.

    Parameters
    ----------
    network : SuperResolutionNetwork
        The generator; the paper starts from a trained SRResNet.
    config : ConfigDict
        With `perceptual` and `loss_weights`, see `configs/train_edsr.py:srgan_x2`.

    Raises
    ------
    InputError
        For a feature network without trained weights or without the named endpoint, or images that are
        too small for it.
    """
    perceptual, side = config.perceptual, config.patch * network.scale
    features = models.create(
        perceptual.network, pretrained=not perceptual.weights, weights=perceptual.weights or None
    )
    if not hasattr(features, "features"):
        raise InputError(f"model {perceptual.network!r} has no feature maps for a perceptual loss")
    if perceptual.endpoint:
        patch = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        known = nnx.eval_shape(lambda network, x: network.endpoints(x), features, patch)
        if perceptual.endpoint not in known:
            raise InputError(
                f"model {perceptual.network!r} has no endpoint {perceptual.endpoint!r}; "
                f"choose from: {', '.join(known)}"
            )
    training, evaluation, parameters, statistics = super_resolution.split_modes(network, config.precision)
    optimizer = super_resolution.create_optimizer(config)

    def new_discriminator() -> Discriminator:
        sizes = config.discriminator_features, config.discriminator_hidden
        return Discriminator(side, *sizes, rngs=nnx.Rngs(config.seed + 1))

    discriminator = initialise(new_discriminator)
    judge, _, judge_parameters, judge_statistics = super_resolution.split_modes(
        discriminator, config.precision
    )
    structure, arrays = nnx.split(features)
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": optimizer.init(parameters),
        "average": jax.tree.map(jnp.copy, nnx.merge_state(parameters, statistics)),
        "discriminator": {
            "parameters": judge_parameters,
            "statistics": judge_statistics,
            "optimizer": optimizer.init(judge_parameters),
        },
    }
    trainer = Trainer(
        training=training,
        evaluation=evaluation,
        discriminator=judge,
        features=structure,
        optimizer=optimizer,
        scale=network.scale,
        endpoint=perceptual.endpoint,
        feature_scale=perceptual.scale,
        ema_decay=config.ema_decay,
        frozen={"features": arrays, "weights": dict(config.loss_weights)},
    )
    return trainer, state
