"""Registry, Sequential and apply."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sample_photographs import photograph

from srdef import attacks, defenses, evaluate_robustness, models, victims
from srdef.errors import InputError
from srdef.evaluation.experiment import make_defense

KEY = jax.random.key(7)


@flax.struct.dataclass
class AddNoise:
    """A random defense."""

    amount: float = 0.1
    random = True
    differentiable = True

    def __call__(self, image, key):
        return image + self.amount * jax.random.normal(key, image.shape)


class Double(nnx.Module):
    """A stand-in for a network: nearest enlargement and a learned gain."""

    scale = 2

    def __init__(self, gain):
        self.gain = nnx.Param(jnp.float32(gain))

    def __call__(self, images):
        return self.gain * images.repeat(2, axis=1).repeat(2, axis=2)


def test_sequential_gives_each_defense_its_own_key():
    image = jnp.asarray(photograph(0, 8, 6))
    both = defenses.Sequential([AddNoise(), defenses.Identity(), AddNoise(0.2)])
    first = AddNoise()(image, jax.random.fold_in(KEY, 0))
    expected = AddNoise(0.2)(first, jax.random.fold_in(KEY, 2))
    np.testing.assert_array_equal(both(image, KEY), expected)


def test_sequential_declares_what_its_defenses_are():
    deterministic = defenses.Sequential([defenses.Identity(), defenses.Wavelet()])
    assert (deterministic.random, deterministic.differentiable) == (False, True)
    assert defenses.Sequential((AddNoise(), defenses.Identity())).random
    assert not defenses.Sequential([defenses.SuperResolution(Double(1), round_to_8_bits=True)]).differentiable


def test_empty_sequential_is_the_identity():
    image = photograph(0, 8, 6)
    np.testing.assert_array_equal(defenses.Sequential([])(image, KEY), image)


def test_everything_is_a_defense():
    for defense in (defenses.Identity(), defenses.Wavelet(), defenses.Sequential([])):
        assert isinstance(defense, defenses.Defense)


def test_apply_uses_the_key_of_each_id():
    images = np.stack([photograph(i, 8, 6) for i in range(5)])
    everything = defenses.apply(AddNoise(), images, key=KEY)
    assert everything.dtype == np.float32
    expected = np.clip(AddNoise()(jnp.asarray(images[3]), jax.random.fold_in(KEY, 3)), 0, 1)
    np.testing.assert_allclose(everything[3], expected, atol=1e-6)  # fused or not
    order = np.array([4, 0, 2])
    np.testing.assert_array_equal(
        defenses.apply(AddNoise(), images[order], key=KEY, ids=order, batch_size=2), everything[order]
    )


def test_a_batch_is_each_image_alone():
    """With steps that take one image after the other on a CPU, nested, and random ones between."""
    steps = (AddNoise(0.01), defenses.Wavelet(), defenses.TotalVariation(iterations=3))
    defense = defenses.Sequential([AddNoise(0.02), defenses.Sequential(steps), defenses.BitDepth(8)])
    images = np.stack([photograph(i, 12, 10) for i in range(4)])
    together = defenses.apply(defense, images, key=KEY)
    for number, image in enumerate(images):
        alone = np.clip(jax.jit(defense)(image, jax.random.fold_in(KEY, number)), 0, 1)
        # Rounding to 8 bits may send a value that fusion changed by an ulp to the next level.
        difference = np.abs(together[number] - alone)
        assert difference.max() < 1.01 / 255
        assert (difference > 1e-6).mean() < 0.01


def test_apply_accepts_rounding_errors_at_the_ends_of_the_range():
    images = np.array([-3e-8, 1 + 1e-7, 0.5], np.float32).reshape(1, 1, 1, 3)
    found = defenses.apply(defenses.Identity(), images, key=KEY)
    np.testing.assert_array_equal(found.ravel(), np.array([0, 1, 0.5], np.float32))


class Any4(nnx.Module):
    """Some classifier of four classes."""

    num_classes = 4

    def __call__(self, images):
        return images.mean(axis=(1, 2)) @ jnp.eye(3, 4) * jnp.float32(5)


def taken(images):
    """What `apply` and `perturb` say of images: None, or the same error."""
    victim, labels = victims.Undefended(Any4()), np.zeros(len(images), int)
    said = []
    for take in (
        lambda: defenses.apply(defenses.Identity(), images, key=KEY),
        lambda: attacks.perturb(attacks.fgsm(0.1), victim, images, labels, key=KEY),
    ):
        try:
            take()
            said.append(None)
        except InputError as error:
            said.append(str(error))
    assert said[0] == said[1]
    return said[0]


@pytest.mark.parametrize("overshoot", [0, 5e-7, 2e-6, 1e-5, 1e-3])
def test_apply_and_perturb_take_the_same_images(overshoot):
    images = np.stack([photograph(i, 8, 6) for i in range(2)])
    images[1, 3, 4] = [-overshoot, 1 + overshoot, 0.5]
    assert (taken(images) is None) == (overshoot < 1e-6)
    assert taken(images.astype(np.float64)) == taken(images)


def test_what_apply_gives_is_taken_by_perturb_and_apply():
    """Defenses that overshoot: noise, and a network that brightens without clipping."""
    images = np.stack([photograph(i, 8, 6) for i in range(2)])
    for defense in (
        AddNoise(0.5),
        defenses.SuperResolution(Double(3), clip=False),
        defenses.Wavelet(sigma=0.2),
    ):
        defended = defenses.apply(defense, images, key=KEY)
        assert defended.min() >= 0
        assert defended.max() <= 1
        assert taken(defended) is None


@pytest.mark.parametrize("key", [0, None, np.array([0, 7])])
def test_apply_refuses_what_is_no_key(key):
    with pytest.raises(InputError, match=r"key must be made with jax\.random\.key"):
        defenses.apply(defenses.Identity(), np.zeros((2, 8, 6, 3), np.float32), key=key)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 6, 3), np.float32), "shape"),
        (np.zeros((2, 8, 6, 3), np.uint8), "uint8"),
        (np.full((2, 8, 6, 3), 200.0), r"\[0, 1\]"),
        (np.full((2, 8, 6, 3), np.nan), r"\[0, 1\]"),
        (np.zeros((0, 8, 6, 3), np.float32), "no images"),
    ],
)
def test_apply_refuses_bad_images(images, words):
    with pytest.raises(InputError, match=words):
        defenses.apply(defenses.Identity(), images, key=KEY)


@pytest.mark.parametrize("ids", [np.arange(3), np.array([0.0, 1.0])])
def test_apply_refuses_bad_ids(ids):
    with pytest.raises(InputError):
        defenses.apply(defenses.Identity(), np.zeros((2, 8, 6, 3), np.float32), key=KEY, ids=ids)


def noise(image, key):
    return image


class NoPytree:
    random, differentiable = False, True

    def __call__(self, image, key):
        return image


@pytest.mark.parametrize(
    "defense", ["jpeg", {"name": "jpeg"}, [defenses.Identity()], defenses.Wavelet, noise, None, 3]
)
def test_what_stands_for_a_defense_elsewhere_is_none(defense):
    message = "a defense must be one like defenses.create"
    with pytest.raises(InputError, match=message):
        defenses.apply(defense, np.zeros((2, 8, 6, 3), np.float32), key=KEY)
    if isinstance(defense, str | dict | list | type):
        with pytest.raises(InputError, match=message):
            defenses.Sequential([defenses.Identity(), defense])
        with pytest.raises(InputError, match=message):
            victims.Defended(None, defense)


def test_defenses_are_pytrees_and_sequences_lists_of_them():
    with pytest.raises(InputError, match="NoPytree is no pytree, as a defense has to be"):
        defenses.apply(NoPytree(), np.zeros((2, 8, 6, 3), np.float32), key=KEY)
    with pytest.raises(InputError, match="Sequential takes a list of defenses, not one"):
        defenses.Sequential(defenses.Identity())


@flax.struct.dataclass
class SaysNothing:
    def __call__(self, image, key):
        return image


@flax.struct.dataclass
class SaysHalf(SaysNothing):
    random = False


@flax.struct.dataclass
class SaysByMethod(SaysHalf):
    def differentiable(self):
        return False  # but a method is true


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        (SaysNothing, "SaysNothing has no attribute `random`, which a defense needs"),
        (SaysHalf, "SaysHalf has no attribute `differentiable`, which a defense needs"),
        (SaysByMethod, "SaysByMethod has a method for its attribute `differentiable`, which"),
    ],
)
def test_a_defense_says_whether_it_is_random_and_differentiable(monkeypatch, defense, message):
    monkeypatch.setattr(defenses.REGISTRY, "_builders", dict(defenses.REGISTRY._builders))
    defenses.REGISTRY.register("says_nothing")(defense)
    images = np.zeros((2, 8, 6, 3), np.float32)
    classifier = models.from_function(lambda x: x.reshape(len(x), -1)[:, :2])
    for given in (defense(), defenses.Sequential([defenses.Identity(), defense()])):
        with pytest.raises(InputError, match=message):
            defenses.apply(given, images, key=KEY)
        with pytest.raises(InputError, match=message):
            evaluate_robustness(classifier, images, [0, 0], "fgsm", (0.1,), defense=given, key=KEY)
    with pytest.raises(InputError, match=message):
        make_defense([{"name": "identity"}, {"name": "says_nothing"}])


def test_create_by_name():
    assert defenses.create("wavelet", sigma=0.02) == defenses.Wavelet(sigma=0.02)
    with pytest.raises(InputError, match=r"wavelett.*identity, .*wavelet"):
        defenses.create("wavelett")
    with pytest.raises(InputError, match=r"sigmaa.*sigma"):
        defenses.create("wavelet", sigmaa=0.02)


def test_super_resolution_clips_rounds_and_enlarges():
    image = jnp.asarray(photograph(0, 8, 6))
    network = Double(1.5)
    expected = 1.5 * np.asarray(image).repeat(2, axis=0).repeat(2, axis=1)
    assert expected.max() > 1
    clipped = defenses.create("super_resolution", network=network)
    np.testing.assert_array_equal(clipped(image, KEY), np.clip(expected, 0, 1))
    free = defenses.create("super_resolution", network=network, clip=False)
    np.testing.assert_array_equal(free(image, KEY), expected)
    rounded = defenses.create("super_resolution", network=network, round_to_8_bits=True)
    levels = 255 * np.asarray(rounded(image, KEY))
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    # Ties between two levels may go either way.
    np.testing.assert_allclose(levels, 255 * np.clip(expected, 0, 1), atol=0.5001)


def test_a_network_in_training_mode_is_named():
    class Normed(Double):
        def __init__(self):
            super().__init__(1.0)
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

        def __call__(self, images):
            return super().__call__(self.norm(images))

    network = Normed()
    defense = defenses.Sequential([defenses.create("super_resolution", network=network)])
    with pytest.raises(InputError, match=r"Normed is in training mode \(norm.*call \.eval\(\) first"):
        defenses.apply(defense, np.zeros((1, 8, 6, 3), np.float32), key=KEY)
    network.eval()
    assert defenses.apply(defense, np.zeros((1, 8, 6, 3), np.float32), key=KEY).shape == (1, 16, 12, 3)


def test_the_weights_of_a_network_are_arguments_of_the_program():
    images = np.stack([photograph(0, 8, 6)])
    dark, light = (
        defenses.apply(defenses.SuperResolution(Double(gain)), images, key=KEY) for gain in (0.25, 0.5)
    )
    np.testing.assert_allclose(2 * dark, light, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_defended_images_may_stay_on_the_device(batch_size):
    images = np.stack([photograph(i, 8, 6) for i in range(5)])
    host = defenses.apply(AddNoise(), images, key=KEY, batch_size=batch_size)
    device = defenses.apply(AddNoise(), images, key=KEY, batch_size=batch_size, on_device=True)
    assert isinstance(host, np.ndarray)
    assert isinstance(device, jax.Array)
    np.testing.assert_array_equal(host, device)
    assert 0 <= host.min() < host.max() <= 1


@flax.struct.dataclass
class OnTheHost:
    """A defense that computes with NumPy."""

    random = False
    differentiable = False

    def __call__(self, image, key):
        shape = jax.ShapeDtypeStruct(image.shape, jnp.float32)
        return jax.pure_callback(lambda image: np.round(image), shape, image, vmap_method="sequential")


@pytest.mark.parametrize("own", [OnTheHost(), defenses.Sequential([defenses.Identity(), OnTheHost()])])
@pytest.mark.parametrize("as_surrogate", [False, True])
def test_a_defense_that_asks_the_host_has_no_exact_gradient(own, as_surrogate):
    images = np.stack([photograph(seed, 8, 6) for seed in range(2)])

    def classifier(images):
        return images.mean((1, 2))

    gradient = own if as_surrogate else "exact"
    victim = victims.Defended(classifier, own, gradient=gradient)
    attacked = attacks.perturb(attacks.uniform_noise(0.1), victim, images, np.zeros(2, int), key=KEY)
    assert attacked.images.shape == images.shape  # which needs no gradient
    name = type(own).__name__
    with pytest.raises(InputError, match=rf"^{name} computes by a callback, .*EstimatedGradient"):
        attacks.perturb(attacks.fgsm(0.1), victim, images, np.zeros(2, int), key=KEY)
