"""Victims are pytrees that give the logits of one image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, struct

from srdef import defenses, images, models
from srdef.attacks.losses import cross_entropy
from srdef.errors import InputError
from srdef.programs import jit
from srdef.victims import (
    Admix,
    Defended,
    DiverseInputs,
    Ensemble,
    ExpectationOverTransformation,
    ScaledCopies,
    SmoothedGradient,
    SpectrumSimulation,
    Undefended,
    canvas_side,
    check_victim,
    draws_per_call,
    expected,
    expected_loss,
)

KEY = jax.random.key(0)


class Mean(nnx.Module):
    """Two logits: the mean of the image, and a parameter."""

    num_classes = 2

    def __init__(self, threshold):
        self.threshold = nnx.Param(jnp.float32(threshold))

    def __call__(self, images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([mean, jnp.broadcast_to(self.threshold[...], mean.shape)], axis=-1)


def test_undefended_is_the_classifier():
    victim = Undefended(Mean(0.25))
    image = jnp.full((4, 5, 3), 0.5)
    np.testing.assert_allclose(victim(image, jax.random.key(0)), [0.5, 0.25])
    assert victim.num_classes == 2
    gradient = jax.grad(lambda x: victim(x, jax.random.key(0))[0])(image)
    np.testing.assert_allclose(gradient, 1 / 60, rtol=1e-6)


def test_weights_are_arguments_not_constants():
    """One compiled program serves other weights of the same shape."""

    @jax.jit
    def logits(victim, image):
        return victim(image, jax.random.key(0))

    image = jnp.full((4, 5, 3), 0.5)
    assert logits(Undefended(Mean(0.25)), image)[1] == 0.25
    assert logits(Undefended(Mean(0.75)), image)[1] == 0.75
    assert logits._cache_size() == 1


class Canvas(nnx.Module):
    """Gives back the image that it sees, as logits."""

    num_classes = 0

    def __call__(self, images):
        return images.reshape(len(images), -1)


def draws(probability, count=200, shape=(30, 20, 3)):
    """An image of distinct values above 1, and what `DiverseInputs` makes of it."""
    image = (1 + np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
    victim = DiverseInputs(Undefended(Canvas()), probability, fill=0.5)
    keys = jax.random.split(jax.random.key(0), count)
    height, width = canvas_side(shape[0]), canvas_side(shape[1])
    seen = jax.jit(jax.vmap(lambda key: victim(image, key)))(keys)
    return image, np.asarray(seen).reshape(count, height, width, 3)


def test_canvas_side_scales_with_the_image():
    assert [canvas_side(side) for side in (299, 598, 160, 30)] == [330, 660, 177, 33]


def test_diverse_inputs_against_a_transcription():
    """Each draw is a nearest-neighbour resize by TensorFlow's rule, somewhere on a grey canvas."""
    image, seen = draws(probability=1.0)
    sides, places = set(), set()
    for canvas in seen:
        inside = canvas[..., 0] != 0.5
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        height, width = len(rows), len(columns)
        expected = image[np.floor(np.arange(height) * 30 / height).astype(int)]
        expected = expected[:, np.floor(np.arange(width) * 20 / width).astype(int)]
        top, left = rows[0], columns[0]
        np.testing.assert_array_equal(canvas[top : top + height, left : left + width], expected)
        np.testing.assert_array_equal(canvas[~inside], 0.5)
        sides.add(height)
        places.add((height, top))
    # Sides from [30, 33), and places below what is left over, as the published code draws them.
    assert sides == {30, 31, 32}
    assert places == {(30, 0), (30, 1), (30, 2), (31, 0), (31, 1), (32, 0)}


def test_diverse_inputs_without_resizing_stand_in_the_middle():
    image, seen = draws(probability=0.0, count=3)
    for canvas in seen:
        np.testing.assert_array_equal(canvas[1:31, 1:21], image)
        assert (canvas == 0.5).sum() == canvas.size - image.size


def test_diverse_inputs_probability():
    image, seen = draws(probability=0.3, count=400)
    plain = sum(np.array_equal(canvas[1:31, 1:21], image) for canvas in seen)
    # A resized image may land there too, with probability 1/9; 4 standard deviations.
    share = 0.7 + 0.3 / 9
    assert abs(plain / 400 - share) < 4 * np.sqrt(share * (1 - share) / 400)


def test_diverse_inputs_of_the_same_size_are_resized_back():
    """As PyTorch resizes (float32 sums of four products); where nothing was resized, the image itself."""
    images = np.random.default_rng(0).uniform(size=(40, 30, 20, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), len(images))
    seen, large = (
        np.asarray(jax.vmap(DiverseInputs(probability=0.5, same_size=same).transform)(images, keys))
        for same in (True, False)
    )
    back = torch.nn.functional.interpolate(
        torch.tensor(large).permute(0, 3, 1, 2), size=(30, 20), mode="bilinear", align_corners=False
    )
    kept = (seen == images).all(axis=(1, 2, 3))
    assert 0 < kept.sum() < len(images)
    np.testing.assert_allclose(seen[~kept], back.permute(0, 2, 3, 1).numpy()[~kept], atol=1e-6)
    np.testing.assert_array_equal(large[kept][:, 1:31, 1:21], images[kept])


class Pooled(nnx.Module):
    """A small smooth classifier of images of any size: a patch-wise layer, averaged."""

    num_classes = 4

    def __init__(self):
        rng = np.random.default_rng(0)
        self.first = nnx.Param(jnp.asarray(rng.normal(size=(12, 16)), jnp.float32))
        self.second = nnx.Param(jnp.asarray(3 * rng.normal(size=(16, 4)), jnp.float32))

    def __call__(self, images):
        n, height, width, _ = images.shape
        patches = images[:, : height // 2 * 2, : width // 2 * 2]
        patches = patches.reshape(n, height // 2, 2, width // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
        hidden = jnp.tanh(patches.reshape(n, height // 2, width // 2, 12) @ self.first[...])
        return hidden.mean(axis=(1, 2)) @ self.second[...]


def photograph(height=32, width=24):
    """Smooth structure and some noise, in [0, 1]."""
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0.2, 0.8, (4, 4, 3)).astype(np.float32)
    smooth = np.asarray(images.resize(coarse, height, width))
    return jnp.asarray(np.clip(smooth + rng.normal(0, 0.03, smooth.shape), 0, 1), jnp.float32)


def eager_gradient_of(victim, image, key=KEY):
    """Of the cross-entropy with label 1, as attacks take it."""
    return jax.grad(lambda x: expected(victim, lambda z: cross_entropy(z, 1), x, key))(image)


gradient_of = jit(eager_gradient_of)


def wd_sr(**options):
    network = models.create("edsr", blocks=2, features=8)
    parts = [defenses.Wavelet(sigma=0.04), defenses.SuperResolution(network, clip=False)]
    return Defended(Pooled(), defenses.Sequential(parts), **options)


def test_defended_logits_are_those_of_the_defended_image_whatever_the_gradient():
    image = photograph()
    coarse = defenses.BitDepth(3)
    expected_logits = Pooled()(coarse(image, KEY)[None])[0]
    for gradient in ("exact", "identity", Faded()):
        victim = Defended(Pooled(), coarse, gradient)
        np.testing.assert_array_equal(victim(image, KEY), expected_logits)
        assert victim.num_classes == 4


def test_exact_gradient_through_bayesshrink_and_edsr_against_finite_differences():
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
            jax.tree.map(jnp.asarray, wd_sr()),
        )
        image = photograph().astype(jnp.float64)

        @jax.jit
        def loss(x):
            return cross_entropy(wide(x, jax.random.key(0)), 1)

        gradient = jax.jit(jax.grad(loss))(image)
        rng = np.random.default_rng(0)
        for direction in rng.normal(size=(5, *image.shape)):
            h = 1e-6
            slope = (loss(image + h * direction) - loss(image - h * direction)) / (2 * h)
            # Some constants of the defense are float32; a threshold that a coefficient crosses
            # within h changes the slope a little.
            np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-3)


def test_identity_gradient_is_the_classifiers_at_the_defended_image():
    image, coarse = photograph(), defenses.BitDepth(3)
    by_hand = eager_gradient_of(Undefended(Pooled()), coarse(image, KEY))
    found = gradient_of(Defended(Pooled(), coarse, "identity"), image)
    np.testing.assert_allclose(found, by_hand, atol=1e-7)
    assert jnp.abs(found).max() > 1e-2
    assert (gradient_of(Defended(Pooled(), coarse), image) == 0).all()  # the true one


def test_identity_gradient_of_another_size_is_brought_back_by_the_transposed_resize():
    image, victim = photograph(), wd_sr(gradient="identity")
    enlarged = victim.defense(image, KEY)
    outer = np.asarray(eager_gradient_of(Undefended(Pooled()), enlarged))
    rows, columns = images.resize_matrix(32, 64), images.resize_matrix(24, 48)
    by_hand = np.einsum("yh,yxc,xw->hwc", rows, outer, columns, optimize=True)
    # Sums of some hundred float32 products, in another order.
    np.testing.assert_allclose(gradient_of(victim, image), by_hand, atol=5e-6 * np.abs(by_hand).max())


def test_surrogate_gradient_is_that_of_the_surrogate_at_the_defended_image():
    image, coarse, surrogate = photograph(), defenses.BitDepth(3), Faded()
    outer = eager_gradient_of(Undefended(Pooled()), coarse(image, KEY))
    _, pull = jax.vjp(lambda x: surrogate(x, KEY), image)
    found = gradient_of(Defended(Pooled(), coarse, surrogate), image)
    np.testing.assert_allclose(found, pull(outer)[0], atol=1e-7)


def test_defended_is_a_pytree_that_compiles_once_for_other_numbers():
    image = photograph()
    gradient = jax.jit(lambda victim: eager_gradient_of(victim, image))
    found = [
        gradient(Defended(Pooled(), defenses.BitDepth(bits), defenses.Wavelet(sigma=bits / 100)))
        for bits in (3, 5)
    ]
    assert gradient._cache_size() == 1
    assert jnp.abs(found[0] - found[1]).max() > 1e-4


def test_defended_rejects_unknown_gradients_and_surrogates_of_another_size():
    with pytest.raises(InputError, match=r"bpda.*exact, identity"):
        Defended(Pooled(), defenses.Jpeg(), "bpda")
    with pytest.raises(InputError, match="surrogate makes images of"):
        Defended(Pooled(), defenses.Identity(), defenses.ResizePad())(photograph(), KEY)


@struct.dataclass
class Faded:
    """Every value fades by a random factor."""

    random = differentiable = True

    def __call__(self, image, key):
        return image * jax.random.uniform(key, image.shape, minval=0.3)


RANDOM = Defended(Pooled(), Faded())


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_expectation_of_the_loss_has_the_mean_of_the_draws_gradients(chunk):
    image = photograph()
    victim = ExpectationOverTransformation(RANDOM, draws=6, chunk=chunk)
    keys = jax.random.split(KEY, 6)
    each = np.stack([gradient_of(RANDOM, image, key=key) for key in keys])
    assert np.abs(each - each.mean(axis=0)).max() > 1e-4  # the draws differ
    np.testing.assert_allclose(gradient_of(victim, image), each.mean(axis=0), atol=1e-6)


def test_expectation_of_logits_and_of_probabilities():
    image = photograph()
    logits = jax.vmap(RANDOM, (None, 0))(image, jax.random.split(KEY, 6))
    averaged = ExpectationOverTransformation(RANDOM, 6, "logits")
    np.testing.assert_allclose(averaged(image, KEY), logits.mean(axis=0), rtol=1e-5)
    mean = jax.nn.softmax(logits).mean(axis=0)
    averaged = ExpectationOverTransformation(RANDOM, 6, "probabilities")
    np.testing.assert_allclose(jax.nn.softmax(averaged(image, KEY)), mean, rtol=1e-5)
    value = expected(averaged, lambda z: cross_entropy(z, 2), image, KEY)
    assert value == pytest.approx(-np.log(mean[2]), rel=1e-5)


def test_expectation_draws_anew_unless_fixed_and_depends_on_the_key_alone():
    image, other = photograph(), jax.random.key(1)
    fresh = ExpectationOverTransformation(RANDOM, 3)
    assert (gradient_of(fresh, image) == gradient_of(fresh, image)).all()
    assert (gradient_of(fresh, image) != gradient_of(fresh, image, key=other)).any()
    fixed = ExpectationOverTransformation(RANDOM, 3, fixed=True)
    assert (gradient_of(fixed, image) == gradient_of(fixed, image, key=other)).all()
    reseeded = ExpectationOverTransformation(RANDOM, 3, fixed=True, seed=1)
    assert (gradient_of(fixed, image) != gradient_of(reseeded, image)).any()


def test_expectation_within_diverse_inputs_still_averages_the_loss():
    image = photograph()
    victim = DiverseInputs(ExpectationOverTransformation(RANDOM, 3))
    key = jax.random.split(KEY)[0]
    found = expected(victim, lambda z: cross_entropy(z, 1), image, KEY)
    by_hand = expected(
        victim.victim, lambda z: cross_entropy(z, 1), victim.transform(image, key), jax.random.split(KEY)[1]
    )
    assert found == by_hand


@pytest.mark.parametrize("victim", [wd_sr(gradient="identity"), ExpectationOverTransformation(RANDOM, 3)])
def test_compiled_and_in_a_batch_as_alone(victim):
    batch = jnp.stack([photograph(), photograph()[::-1]])
    keys = jax.random.split(KEY, 2)
    together = jax.jit(jax.vmap(eager_gradient_of, (None, 0, 0)))(victim, batch, keys)
    for i in range(2):
        alone = gradient_of(victim, batch[i], key=keys[i])
        np.testing.assert_allclose(together[i], alone, atol=1e-6)
    eager = eager_gradient_of(victim, batch[0], key=keys[0])
    np.testing.assert_allclose(together[0], eager, atol=1e-6)


def test_expectation_rejects_bad_options():
    with pytest.raises(InputError, match="unknown average"):
        ExpectationOverTransformation(RANDOM, 3, "mean")
    for draws in (0, 2.5, "20", True):
        with pytest.raises(InputError, match="draws must be an integer of at least 1"):
            ExpectationOverTransformation(RANDOM, draws)
    with pytest.raises(InputError, match="chunk must be an integer of at least 1"):
        ExpectationOverTransformation(RANDOM, 20, chunk=0)
    with pytest.raises(InputError, match="fixed must be True or False"):
        ExpectationOverTransformation(RANDOM, 20, fixed="no")


@pytest.mark.parametrize(
    "bad",
    [
        *(np.nan, np.inf, -0.5, np.float32("nan"), np.array([0.5, -1])),
        *(jnp.float32(-0.5), jnp.array([0.5, jnp.nan])),
    ],
)
@pytest.mark.parametrize(
    ("view", "option"),
    [
        (DiverseInputs, "probability"),
        (DiverseInputs, "fill"),
        (SmoothedGradient, "nsig"),
        (SpectrumSimulation, "rho"),
        (SpectrumSimulation, "sigma"),
        (Admix, "share"),
    ],
)
def test_views_reject_numbers_out_of_range(view, option, bad):
    bank = {"bank": np.full((1, 4, 4, 3), 0.5, np.float32)} if view is Admix else {}
    with pytest.raises(InputError, match=option):
        view(**{option: bad}, **bank)
    # What stands for a number in a tree of axes, or of nothing, is none.
    good = view(**bank)
    assert getattr(good.replace(**{option: 0}), option) == 0
    jax.eval_shape(jax.vmap(lambda view: view, in_axes=None, axis_size=2), good)


@pytest.mark.slow
def test_memory_of_the_exact_gradient():
    """16 images of 299 pixels through wavelets, EDSR-baseline and EfficientNet-Lite0 in 10 GiB."""
    network = models.create("edsr_baseline_x2")
    classifier = models.create("efficientnet_lite0")

    def bytes_for(victim):
        def gradients(victim, batch, keys):
            return jax.vmap(lambda x, k: gradient_of(victim, x, key=k))(batch, keys)

        batch = jax.ShapeDtypeStruct((16, 299, 299, 3), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(KEY, 16))
        compiled = jax.jit(gradients).lower(victim, batch, keys).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    enlarge = defenses.SuperResolution(network)
    exact = Defended(classifier, defenses.Sequential([defenses.Wavelet(), enlarge]))
    assert bytes_for(exact) < 10 * 2**30
    # Twenty draws one at a time take little more than one.
    random = Defended(classifier, defenses.Sequential([defenses.PixelDeflection(deflections=20), enlarge]))
    assert bytes_for(ExpectationOverTransformation(random, 20, chunk=1)) < 10 * 2**30


class Curved(nnx.Module):
    """Three logits that bend with the image, so that its copies have other gradients."""

    num_classes = 3

    def __init__(self, seed=0):
        self.weights = nnx.Param(jax.random.normal(jax.random.key(seed), (4 * 5 * 3, 3)))

    def __call__(self, images):
        return jnp.tanh(images.reshape(len(images), -1) @ self.weights[...] / 3)


PICTURE = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 5, 3)), jnp.float32)
BANK = np.random.default_rng(1).uniform(size=(2, 4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "view",
    [
        ScaledCopies(copies=3),
        Admix(bank=BANK, copies=2, chunk=None),
        SpectrumSimulation(copies=4, chunk=2),
        SmoothedGradient(size=3),
        ScaledCopies(SmoothedGradient(size=3), copies=2),
    ],
    ids=lambda view: type(view).__name__,
)
def test_transformed_predicts_as_the_victim_and_has_the_mean_gradient_of_the_copies(view):
    plain = Undefended(Curved())
    inner = view.victim.replace(victim=plain) if view.victim else plain
    victim = view.replace(victim=inner)
    np.testing.assert_array_equal(victim(PICTURE, KEY), plain(PICTURE, KEY))
    assert victim.num_classes == check_victim(victim, PICTURE.shape) == 3

    def mean(x):
        return expected(victim, lambda logits: logits[0], x, KEY)

    def copies(x):
        return [view.expected_of(i, lambda logits: logits[0], x, KEY) for i in range(view.copies)]

    view = victim
    np.testing.assert_allclose(mean(PICTURE), np.mean(copies(PICTURE)), rtol=1e-5)
    ours = jax.grad(lambda x: victim(x, KEY)[0])(PICTURE)
    by_copy = [jax.grad(lambda x, i=i: copies(x)[i])(PICTURE) for i in range(view.copies)]
    # Sums in another order.
    np.testing.assert_allclose(ours, np.mean(by_copy, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.grad(mean)(PICTURE), ours, rtol=1e-4, atol=1e-6)


def test_views_with_masked_classes_have_finite_gradients():
    victim = ScaledCopies(Undefended(Masked()), copies=2)
    logits, pull = jax.vjp(lambda x: victim(x, KEY), PICTURE)
    assert np.isneginf(logits[-1])
    assert np.isfinite(pull(jnp.ones(4))[0]).all()


class Masked(Curved):
    num_classes = 4

    def __call__(self, images):
        logits = super().__call__(images)
        return jnp.concatenate([logits, jnp.full((len(images), 1), -jnp.inf)], axis=1)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0), np.array([2, 6]), jnp.array([0.5, 1.5])])
def test_an_ensemble_averages_what_it_says(weights):
    members = (Undefended(Curved(0)), Undefended(Curved(1)))
    shares = np.array([0.5, 0.5] if weights is None else [0.25, 0.75])
    each = np.stack([member(PICTURE, KEY) for member in members]).astype(np.float64)
    logits = Ensemble(members, "logits", weights)
    np.testing.assert_allclose(logits(PICTURE, KEY), shares @ each, rtol=1e-5, atol=1e-6)
    softmax = np.exp(each) / np.exp(each).sum(axis=1, keepdims=True)
    probabilities = Ensemble(members, "probabilities", weights)
    np.testing.assert_allclose(probabilities(PICTURE, KEY), np.log(shares @ softmax), rtol=1e-5, atol=1e-6)
    losses = -np.log(softmax[:, 1])
    loss = Ensemble(members, "loss", weights)
    np.testing.assert_allclose(
        expected(loss, lambda z: cross_entropy(z, 1), PICTURE, KEY), shares @ losses, rtol=1e-5
    )
    found, mean = expected_loss(loss, lambda z: jnp.log(cross_entropy(z, 1)), PICTURE, KEY)
    np.testing.assert_allclose(found, np.log(shares @ losses), rtol=1e-5)
    np.testing.assert_allclose(mean, shares @ each, rtol=1e-5, atol=1e-6)


def test_an_ensemble_of_probabilities_does_not_underflow():
    """All but one probability of each member are zero in float32."""
    sure = Undefended(Sure())
    logits = Ensemble((sure, sure), "probabilities")(PICTURE, KEY)
    np.testing.assert_allclose(logits, jax.nn.log_softmax(sure(PICTURE, KEY)), rtol=1e-5)
    assert (np.asarray(logits) < -104).any()


class Sure(Curved):
    def __call__(self, images):
        return 1e4 * super().__call__(images)


def test_a_weight_of_zero_leaves_a_victim_out():
    members = (Undefended(Masked(0)), Undefended(Masked(1)))
    for average in ("logits", "probabilities", "loss"):
        alone = Ensemble(members[:1], average)(PICTURE, KEY)
        np.testing.assert_allclose(Ensemble(members, average, (1, 0))(PICTURE, KEY), alone, rtol=1e-5)


def test_an_ensemble_of_any_victims_compiles_and_counts_its_draws():
    random = ExpectationOverTransformation(Defended(Curved(1), defenses.create("bit_depth")), 3)
    victim = Ensemble((Undefended(Curved(2)), random, ScaledCopies(Undefended(Curved(3)), copies=2)))
    assert draws_per_call(victim) == 1 + 3 + 1
    both = jax.jit(lambda victim, x: victim(x, KEY))
    np.testing.assert_allclose(both(victim, PICTURE), victim(PICTURE, KEY), rtol=1e-5)
    both(Ensemble(victim.victims, weights=(1.0, 2.0, 3.0)), PICTURE)
    both(Ensemble(victim.victims, weights=(3.0, 2.0, 1.0)), PICTURE)
    assert both._cache_size() == 2  # weights are arguments, not constants


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(()), "victims must be a tuple of victims"),
        (lambda: Ensemble((Undefended(Curved()), Undefended(Mean(0.5)))), "must have the same classes"),
        (lambda: Ensemble((Undefended(Curved()),), "votes"), "unknown average 'votes'; choose from: loss"),
        (
            lambda: Ensemble((Undefended(Curved()),), weights=(1, 2)),
            "weights must be 1 numbers of at least 0",
        ),
        (lambda: Ensemble((Undefended(Curved()),), weights=[-1]), "weights must be 1 numbers"),
        (lambda: Ensemble((Undefended(Curved()),), weights=[0]), "weights must be 1 numbers"),
        *(
            (lambda kind=kind, bad=bad: Ensemble((Undefended(Curved()),) * 2, weights=kind(bad)), "must be 2")
            for kind in (list, np.array, jnp.array)
            for bad in ([1.0, -2.0], [1.0], [1.0, 2.0, 3.0], [0.0, 0.0], [1.0, np.nan], [[1.0, 2.0]])
        ),
        (lambda: Ensemble((Undefended(Curved()),) * 2, weights=[1, "a"]), "weights must be 2 numbers"),
        (lambda: Ensemble((Undefended(Curved()),) * 2, weights=jnp.float32(1)), "weights must be 2 numbers"),
        (
            lambda: jax.jit(lambda w: Ensemble((Undefended(Curved()),) * 2, weights=w)(PICTURE, KEY))(
                jnp.ones(3)
            ),
            "weights must be 2 numbers",
        ),
    ],
)
def test_ensemble_rejects_bad_options(make, message):
    with pytest.raises(InputError, match=message):
        make()


class Training(nnx.Module):
    num_classes = 3

    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.norm(images).mean(axis=(1, 2))


def test_networks_in_training_mode_are_found_within_wrappers():
    inside = Undefended(Training())
    for victim in (ExpectationOverTransformation(inside, 2), Ensemble((Undefended(Curved()), inside))):
        with pytest.raises(InputError, match="in training mode"):
            check_victim(victim, PICTURE.shape)
