"""PyTorch classifiers under JAX: computed by PyTorch, with PyTorch's gradient, inside any JAX program."""

import hashlib
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError
from srdef.models.wrapped import Applied, Channels, NotLogitsError, Wrapped, from_function
from srdef.own_code.reach import reach_of
from srdef.programs import call_back

# Graphs of forward passes that wait for their backward pass: one for each device that computes, and one more.
_KEPT = 1


class _Bridge:
    """A torch module as a function of NumPy arrays, and the gradient of that function.

    A gradient needs the graph of its forward pass. JAX calls the two passes apart, so the graphs of the last
    forward passes are kept until the backward pass with the same images asks for them; if it is not there any
    more, the forward pass is done again.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._lock = threading.Lock()
        self._classes: dict[tuple[int, ...], int] = {}
        self._graphs: OrderedDict[int, tuple[np.ndarray, Any, Any]] = OrderedDict()
        self._count = 0

    def __hash__(self) -> int:
        return id(self.module)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bridge) and self.module is other.module

    def __repr__(self) -> str:
        """The module with a hash of its weights: results that are kept for one must not serve another.

        Also of those in no `state_dict`: tensors that are no buffers, and modules in a list.
        """
        sha = hashlib.sha256(reach_of(self.module).arrays.encode())
        for name, tensor in self.module.state_dict().items():
            sha.update(name.encode())
            if hasattr(tensor, "detach"):
                sha.update(_float32(tensor).tobytes())
        return f"{self.module!r} {sha.hexdigest()}"

    def what_is_reached(self) -> Any:
        """For `reach_of`, which would take the graphs that wait for parts of the model."""
        return self.module

    def count_classes(self, shape: tuple[int, ...]) -> int:
        """How many logits the module returns for an image of this shape; called once for each."""
        if shape not in self._classes:
            self._classes[shape] = self.forward(np.full((1, *shape), 0.5, np.float32)).shape[-1]
        return self._classes[shape]

    @property
    def device(self) -> Any:
        """Where the module computes: the device of its first weight."""
        import torch

        weights = [*self.module.parameters(), *self.module.buffers()]
        return weights[0].device if weights else torch.device("cpu")

    def _dtype(self) -> Any:
        import torch

        weights = [p.dtype for p in self.module.parameters() if p.is_floating_point()]
        return weights[0] if weights else torch.float32

    def _tensor(self, images: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.array(images)).to(self.device, self._dtype())

    def forward(self, images: Any) -> np.ndarray:
        """The logits of images `(..., channels, height, width)`."""
        import torch

        images = np.asarray(images)
        with torch.no_grad():
            logits = self._logits(self._tensor(images.reshape(-1, *images.shape[-3:])))
        return _float32(logits).reshape(*images.shape[:-3], -1)

    def forward_keeping_graph(self, images: Any) -> np.ndarray:
        """As `forward`; the graph is kept for `backward`."""
        images = np.array(images)
        inputs, logits = self._graph(images)
        with self._lock:
            self._count += 1
            self._graphs[self._count] = (images, inputs, logits)
            while len(self._graphs) > _KEPT + jax.local_device_count():
                self._graphs.popitem(last=False)
        return _float32(logits).reshape(*images.shape[:-3], -1)

    def backward(self, images: Any, cotangent: Any) -> np.ndarray:
        """The gradient of the images, given that of their logits."""
        import torch

        images = np.asarray(images)
        inputs, logits = self._take_graph(images) or self._graph(images)
        cotangent = (
            torch.from_numpy(np.array(cotangent)).reshape(logits.shape).to(logits.device, logits.dtype)
        )
        (gradient,) = torch.autograd.grad(logits, inputs, cotangent, allow_unused=True)
        if gradient is None:
            return np.zeros(images.shape, images.dtype)
        return _float32(gradient).reshape(images.shape)

    def _graph(self, images: np.ndarray) -> tuple[Any, Any]:
        import torch

        with torch.enable_grad():
            inputs = self._tensor(images.reshape(-1, *images.shape[-3:])).requires_grad_()
            return inputs, self._logits(inputs)

    def _take_graph(self, images: np.ndarray) -> tuple[Any, Any] | None:
        with self._lock:
            for number, (kept, inputs, logits) in reversed(self._graphs.items()):
                if kept.shape == images.shape and np.array_equal(kept, images):
                    del self._graphs[number]
                    return inputs, logits
        return None

    def _logits(self, inputs: Any) -> Any:
        """What the module returns, in evaluation mode: `.train()` may have been called since.

        Maps would be as many classes as they have numbers, and a pair is not said to be logits first.
        """
        check_evaluation_mode(self.module)
        logits = self.module(inputs)
        shape = tuple(getattr(logits, "shape", ()))
        if len(shape) < 2 or shape[0] != len(inputs) or math.prod(shape[2:]) != 1:
            found = f"a tensor {shape}" if hasattr(logits, "shape") else f"a {type(logits).__name__}"
            raise NotLogitsError(
                f"{type(self.module).__name__} must return logits (N, num_classes), not {found} for "
                f"{len(inputs)} images"
            )
        return logits


def check_evaluation_mode(module: Any) -> None:
    """Raise InputError if a PyTorch module is in training mode, or a layer in it that is another one then.

    A batch normalisation then also changes its statistics. A layer that was put in after `.eval()` is one.
    """
    for place, layer in module.named_modules():
        if layer.training and (not place or _has_modes(layer.__class__)):
            where = f" (layer {place}: {type(layer).__name__})" if place else ""
            raise InputError(f"{type(module).__name__} is in training mode{where}; call .eval() first")


@cache
def _has_modes(kind: type) -> bool:
    """Whether a class of layers asks for its mode, as far as its functions can be read."""
    import torch

    if issubclass(kind, torch.jit.ScriptModule):
        return True
    functions = [
        function
        for base in kind.__mro__
        if issubclass(base, torch.nn.Module) and base is not torch.nn.Module
        for name, function in vars(base).items()
        if isinstance(function, FunctionType) and name not in ("train", "__init__", "__setstate__")
    ]
    return any("training" in function.__code__.co_names for function in functions)


def _float32(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _call(bridge: _Bridge, images: jax.Array) -> jax.Array:
    return _callback(bridge.forward, bridge, images)


def _callback(function: Any, bridge: _Bridge, images: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct((images.shape[0], bridge.count_classes(images.shape[1:])), jnp.float32)
    return call_back(function, shape, images.astype(jnp.float32), vmap_method="expand_dims")


def _forward(bridge: _Bridge, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _callback(bridge.forward_keeping_graph, bridge, images), images


def _backward(bridge: _Bridge, images: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    arguments = images.astype(jnp.float32), cotangent
    gradient = call_back(bridge.backward, shape, *arguments, vmap_method="broadcast_all")
    return (gradient.astype(images.dtype),)


_call.defvjp(_forward, _backward)


@dataclass(frozen=True)
class _Torch(Applied):
    """A torch module as a static part of a program: equal where it is the same module."""

    bridge: _Bridge

    @property
    def model_name(self) -> str:
        return type(self.bridge.module).__name__

    def __call__(self, _: Any, images: jax.Array) -> jax.Array:
        return _call(self.bridge, images)

    def check(self, parameters: Any) -> None:
        check_evaluation_mode(self.bridge.module)


def from_torch(
    module: Any,
    *,
    num_classes: int | None = None,
    mean: Channels = 0.0,
    std: Channels = 1.0,
    bounds: tuple[float, float] = (0.0, 1.0),
    channels_first: bool = True,
    image_size: int | None = None,
) -> Wrapped:
    """Make a classifier of a PyTorch module, which goes on computing in PyTorch.

    The module runs on the device of its weights, a CPU or CUDA; images and logits travel through the host.
    Its gradient is PyTorch's own, so that attacks, BPDA and EOT work as with any classifier, under `jit` and
    `vmap`. RobustBench's models are such modules: `from_torch(robustbench.load_model(...))`.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode; maps images to logits `(N, num_classes)`.
    num_classes : int, optional
        Default: found by calling the module once for each size of image.
    mean, std, bounds, image_size
        As for `from_function`; models that normalise their inputs themselves need none.
    channels_first : bool
        Whether the module takes `(N, channels, height, width)`, as PyTorch's layers do.

    Raises
    ------
    InputError
        For a module in training mode or one that returns no logits, and as `from_function`.
    """
    check_evaluation_mode(module)
    return from_function(
        _Torch(_Bridge(module)),
        (),
        num_classes=num_classes,
        mean=mean,
        std=std,
        bounds=bounds,
        channels_first=channels_first,
        image_size=image_size,
    )
