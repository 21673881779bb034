"""Models of other frameworks: the same logits, gradients and attacks as in their own framework."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchattacks
from flax import linen, nnx

import srdef
from srdef import attacks, defenses, models, victims
from srdef.defenses import ResizePad
from srdef.errors import InputError, SrdefWarning

SIDE, CLASSES = 12, 5


class Nnx(nnx.Module):
    """Without `num_classes`, as people write them."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dense = nnx.Linear(8 * SIDE * SIDE, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = True):
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(linen.Conv(8, (3, 3))(x)))
        return linen.Dense(CLASSES)(x.reshape(len(x), -1))


def torch_network(channels=3):
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(channels, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * SIDE * SIDE, CLASSES),
    ]
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def images(rng):
    return rng.uniform(0.1, 0.9, (6, SIDE, SIDE, 3)).astype(np.float32)


def as_torch(images):
    return torch.tensor(images).permute(0, 3, 1, 2)


def nnx_model():
    module = Nnx(nnx.Rngs(0))
    module.eval()
    return module, module


def linen_model():
    module = Linen()
    variables = module.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    return models.from_linen(module, variables), lambda x: module.apply(variables, x, train=False)


def bound_linen_model():
    module = Linen()
    variables = module.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    return module.bind(variables), lambda x: module.apply(variables, x, train=False)


def function_model():
    weights = jax.random.normal(jax.random.key(1), (SIDE * SIDE * 3, CLASSES)) / 10

    def apply(weights, x):
        return x.reshape(len(x), -1) @ weights

    return models.from_function(apply, weights, image_size=SIDE), lambda x: apply(weights, x)


def closure_model():
    _, apply = function_model()
    return apply, apply


def equinox_model():
    equinox = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 2)
    module = equinox.nn.Sequential(
        [
            equinox.nn.Conv2d(3, 8, 3, padding=1, key=keys[0]),
            equinox.nn.Lambda(jax.nn.relu),
            equinox.nn.Dropout(0.5),
            equinox.nn.Lambda(jnp.ravel),
            equinox.nn.Linear(8 * SIDE * SIDE, CLASSES, key=keys[1]),
        ]
    )
    evaluated = equinox.nn.inference_mode(module)
    return module, lambda x: jax.vmap(evaluated)(jnp.moveaxis(x, -1, 1))


def torch_model():
    network = torch_network()
    return network, lambda x: network(as_torch(np.asarray(x))).detach().numpy()


MODELS = [
    nnx_model,
    linen_model,
    bound_linen_model,
    function_model,
    closure_model,
    equinox_model,
    torch_model,
]


@pytest.mark.parametrize("make", MODELS)
def test_a_model_of_any_framework_is_attacked_in_one_call(make, images):
    model, reference = make()
    wrapped = models.wrap(model)
    logits = np.asarray(reference(images))
    # Sums of convolutions and matrix products may be taken in another order.
    np.testing.assert_allclose(wrapped(images), logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    attack = attacks.pgd(8 / 255, steps=5)
    labels = logits.argmax(-1)
    result = attacks.perturb(attack, victims.Undefended(model), images, labels, key=jax.random.key(0))
    again = attacks.perturb(attack, victims.Undefended(wrapped), images, labels, key=jax.random.key(0))
    assert 0 < np.abs(result.images - images).max() <= 8 / 255 + 1e-6
    np.testing.assert_allclose(result.images, again.images, atol=1e-6)
    predictions = np.asarray(reference(result.images)).argmax(-1)
    np.testing.assert_array_equal(result.success, predictions != labels)


def test_keras(images):
    keras_reference = pytest.importorskip("keras_reference")
    keras = keras_reference.keras
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    features = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(features))
    wrapped = models.wrap(model, bounds=(0, 255), image_size=SIDE)
    assert wrapped.num_classes == CLASSES
    expected = np.asarray(model(255 * images, training=False))
    np.testing.assert_allclose(wrapped(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    softmax = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(features))
    with pytest.raises(InputError, match="returns probabilities, and srdef needs logits"):
        models.from_keras(softmax)


def test_pgd_on_a_torch_model_is_that_of_torchattacks(images):
    """Without a random start both are the same arithmetic; only the order of sums may differ."""
    network = torch_network()
    labels = network(as_torch(images)).argmax(-1).numpy()
    attack = attacks.pgd(4 / 255, step_size=1 / 255, steps=10, random_start=False)
    result = attacks.perturb(attack, victims.Undefended(network), images, labels, key=jax.random.key(0))
    reference = torchattacks.PGD(network, eps=4 / 255, alpha=1 / 255, steps=10, random_start=False)
    adversarial = reference(as_torch(images), torch.tensor(labels)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(result.images, adversarial, atol=1e-5)


def test_the_gradient_of_a_torch_model_is_that_of_autograd(images):
    network = torch_network()
    wrapped = models.from_torch(network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    weights = jnp.linspace(-1, 1, CLASSES)
    gradient = jax.jit(jax.vmap(jax.grad(lambda image: wrapped(image[None])[0] @ weights)))(images)
    inputs = as_torch(images).requires_grad_()
    shape = (1, 3, 1, 1)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).reshape(shape), torch.tensor([0.2, 0.3, 0.4]).reshape(shape)
    (network((inputs - mean) / std) @ torch.tensor(np.asarray(weights))).sum().backward()
    expected = inputs.grad.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_a_torch_model_works_under_eot_bpda_and_loops(images):
    network = torch_network()
    labels = network(as_torch(images)).argmax(-1).numpy()

    class Fixed(torch.nn.Module):
        """Takes any size, as the defended image is larger."""

        def forward(self, x):
            return network(torch.nn.functional.interpolate(x, (SIDE, SIDE)))

    defended = victims.Defended(models.wrap(Fixed().eval()), ResizePad(), gradient="identity")
    eot = victims.ExpectationOverTransformation(defended, 4, chunk=2)
    result = attacks.perturb(attacks.pgd(0.1, steps=3), eot, images, labels, key=jax.random.key(0))
    assert np.isfinite(result.images).all()
    direct = jax.jit(
        lambda i, y, k: attacks.deepfool(candidates=3)(victims.Undefended(models.wrap(network)), i, y, k)
    )
    adversarial = direct(images[0], labels[0], jax.random.key(0))
    assert network(as_torch(np.asarray(adversarial)[None])).argmax().item() != labels[0]


def test_gray_images_and_bounds(rng):
    network = torch_network(channels=1)
    images = rng.uniform(0, 1, (3, SIDE, SIDE, 1)).astype(np.float32)
    wrapped = models.wrap(network, bounds=(-1, 1))
    expected = network(2 * as_torch(images) - 1).detach().numpy()
    np.testing.assert_allclose(wrapped(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.wrap(3), "int is no model that srdef knows"),
        (
            lambda: models.wrap(type("LogisticRegression", (), {})()),
            "LogisticRegression is no model that srdef knows.*as scikit-learn's.*models.from_black_box",
        ),
        (lambda: models.wrap(Nnx(nnx.Rngs(0))), r"Nnx is in training mode \(norm.*call .eval\(\) first"),
        (
            lambda: models.wrap(torch_network().train()),
            r"Sequential is in training mode; call .eval\(\) first",
        ),
        (lambda: models.wrap(Linen()), "needs its variables"),
        (lambda: models.from_function(lambda x: x), r"must return logits \(N, num_classes\), not an array"),
        (lambda: models.from_function(jnp.mean, bounds=(1, 0)), "low below high"),
        (lambda: models.from_function(jnp.mean, bounds=(0, np.inf)), "low below high"),
        (lambda: models.from_function(jnp.mean, std=0), "std must be one number or one for each channel"),
        (lambda: models.from_function(jnp.mean, mean="a"), "mean must be one number or one for each channel"),
        (lambda: models.from_function(jnp.mean, num_classes="5"), "num_classes must be an integer"),
        (lambda: models.from_function(jnp.mean, image_size=(32, 32)), "image_size must be an integer"),
        (lambda: models.from_function(jnp.mean, channels_first="no"), "channels_first must be True or False"),
    ],
)
def test_what_is_no_classifier_is_said_in_one_line(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_channels_of_the_images_are_those_of_the_model():
    """A mean of three colors would make three channels of a gray image."""
    model = models.from_function(lambda x: x.mean(axis=(1, 2)), num_classes=3, mean=(0.5, 0.4, 0.3))
    with pytest.raises(InputError, match="the model's mean has 3 channels, the images have 1"):
        model(np.zeros((2, 8, 8, 1), np.float32))


def test_a_model_in_the_place_of_a_victim():
    for model in (torch_network(), models.wrap(torch_network())):
        with pytest.raises(InputError, match=r"if it is a model, give victims\.Undefended\(model\)"):
            attacks.perturb(
                attacks.fgsm(), model, np.zeros((2, SIDE, SIDE, 3), np.float32), [0, 1], key=jax.random.key(0)
            )


def softmax_linen():
    class Softmax(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.softmax(linen.Dense(CLASSES)(x.reshape(len(x), -1)))

    return models.from_linen(Softmax(), Softmax().init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3))))


SOFTMAX = {
    "torch": lambda: torch.nn.Sequential(torch_network(), torch.nn.Softmax(1)).eval(),
    "linen": softmax_linen,
    "function": lambda: lambda x: jax.nn.softmax(9 * x.mean(axis=(1, 2)) + x[:, 0, 0]),
}


@pytest.mark.parametrize("make", SOFTMAX.values(), ids=SOFTMAX)
def test_probabilities_in_the_place_of_logits_are_warned_of(make, images):
    model, key = make(), jax.random.key(0)
    labels = np.asarray(models.wrap(model)(images)).argmax(-1)
    message = "the victim's outputs are probabilities.*without its softmax"
    with pytest.warns(SrdefWarning, match=message):
        attacks.perturb(attacks.fgsm(0.01), victims.Undefended(model), images, labels, key=key)
    with pytest.warns(SrdefWarning, match=message):
        attacks.perturb(attacks.fgsm(0.01).repeat(2), victims.Undefended(model), images, labels, key=key)
    with pytest.warns(SrdefWarning, match=message):
        srdef.evaluate_robustness(model, images, labels, attacks="deepfool", epsilons=(0.01,), key=key)


def test_images_with_their_channels_first_are_refused(images):
    model, first, key = torch_network(), np.moveaxis(images, -1, 1), jax.random.key(0)
    message = "have their channels first; give"
    with pytest.raises(InputError, match=message):
        attacks.perturb(attacks.fgsm(), victims.Undefended(model), first, "predicted", key=key)
    with pytest.raises(InputError, match=message):
        srdef.evaluate_robustness(model, first, np.zeros(len(first), int), attacks="fgsm", key=key)


NAMES = ["Nnx", "Linen", "Linen", "apply", "a function", "Sequential", "Sequential"]


@pytest.mark.parametrize(("make", "name"), [*zip(MODELS, NAMES, strict=True)])
def test_a_message_names_the_model_that_was_wrapped(make, name, rng):
    model = make()[0]
    large = rng.uniform(size=(2, SIDE + 1, SIDE + 1, 3)).astype(np.float32)
    with pytest.raises(InputError, match=f"^{name} does not take images of 13x13x3"):
        srdef.evaluate_robustness(model, large, np.zeros(2, int), attacks="fgsm", key=jax.random.key(0))


def test_images_of_another_size_are_given_to_a_model_as_they_are(images):
    """A defense may enlarge them."""
    model = models.from_function(lambda w, x: x.mean(axis=(1, 2)) @ w, jnp.eye(3), image_size=SIDE)
    enlarge = defenses.create("interpolation", order="up")
    victim, key = victims.Defended(model, enlarge), jax.random.key(0)
    result = attacks.perturb(attacks.fgsm(1 / 255), victim, images, "predicted", key=key)
    assert result.images.shape == images.shape


def test_wrapping_imports_no_other_framework():
    code = "import sys, srdef.models; print([m for m in ('torch', 'keras', 'equinox') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_model_of_numpy_is_led_to_from_black_box():
    """A function of images may be one of JAX, as far as its type says."""
    victim = victims.Undefended(lambda images: np.asarray(images).mean(axis=(1, 2)))
    with pytest.raises(InputError, match=r"computes with NumPy, not with JAX: .*models.from_black_box"):
        victims.check_victim(victim, (8, 8, 3))
