"""PyTorch's side of the benchmark of an accelerator: the same networks, with the channels last."""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from srdef.commands.benchmarks import attacks, cifar, defenses, models
from srdef.commands.benchmarks.common import Run
from srdef.commands.benchmarks.workbench import BF16, FLOAT32, Workbench, photographs
from srdef.errors import InputError


def device() -> str:
    """The GPU, where PyTorch sees one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def let_go() -> None:
    """Give memory that PyTorch keeps for later back, so that JAX can have it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()


@contextlib.contextmanager
def arithmetic_of(arithmetic: str, autocast: bool) -> Iterator[None]:
    """Let PyTorch round to TF32 or not, and to bf16 where it thinks best."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arithmetic != FLOAT32
    with torch.autocast(device(), torch.bfloat16, enabled=autocast and arithmetic == BF16):
        yield


def synchronised(arithmetic: str, function: Callable[[], Any], *, autocast: bool = True) -> Run:
    """A call of the function that comes back when the GPU is done."""
    import torch

    def run() -> Any:
        with arithmetic_of(arithmetic, autocast):
            result = function()
        if device() == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def ready(network: Any) -> Any:
    """The network on the GPU, channels last, without gradients of its weights."""
    import torch

    network = network.eval().to(device(), memory_format=torch.channels_last)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def as_torch(images: np.ndarray) -> Any:
    """`(N, 3, H, W)` on the GPU; in memory the channels stay last."""
    import torch

    return torch.from_numpy(images).to(device()).permute(0, 3, 1, 2)


def classifier(bench: Workbench) -> Any:
    """The classifier of the attacks; of one with random weights too, its own."""
    if bench.sizes.toy:
        return ready(cifar.torch_twin(bench.classifier))
    if bench.pretrained:
        return ready(attacks.torch_network(bench.sizes.side))
    from srdef.commands.benchmarks.timm_networks import timm

    return ready(timm.create_model("tf_efficientnet_lite0"))


def compiled(network: Any) -> Any:
    """The network through `torch.compile`."""
    import torch

    return torch.compile(network)


def plain(network: Any) -> Any:
    """The network itself."""
    return network


def forward(bench: Workbench, arithmetic: str) -> Run:
    """The classifier's logits of the batch."""
    import torch

    network, images = classifier(bench), as_torch(bench.attacked[0])

    def logits() -> Any:
        with torch.inference_mode():
            return network(images)

    return synchronised(arithmetic, logits)


def gradient(bench: Workbench, arithmetic: str, through: Callable[[Any], Any] = plain) -> Run:
    """The sum of the cross-entropies of the batch, and its gradient with respect to the images."""
    images, labels = bench.attacked
    return _gradient(through(classifier(bench)), images, labels, arithmetic)


def classifier_gradient(name: str, side: int, count: int, arithmetic: str) -> Run:
    """The same of one of the larger classifiers, with random weights."""
    from srdef.commands.benchmarks.timm_networks import timm

    images, labels = photographs(side, count)
    return _gradient(ready(timm.create_model(models.NETWORKS[name][2])), images, labels, arithmetic)


def _gradient(network: Any, images: np.ndarray, labels: np.ndarray, arithmetic: str) -> Run:
    import torch

    batch, classes = as_torch(images), torch.from_numpy(labels.astype(np.int64)).to(device())

    def loss_and_gradient() -> Any:
        inputs = batch.detach().clone(memory_format=torch.channels_last).requires_grad_()
        loss = torch.nn.functional.cross_entropy(network(inputs), classes, reduction="sum")
        return loss.detach(), torch.autograd.grad(loss, inputs)[0]

    return synchronised(arithmetic, loss_and_gradient)


def enlarged(bench: Workbench, arithmetic: str, through: Callable[[Any], Any] = plain) -> Run:
    """The batch super-resolved; in bf16 weights and images are rounded themselves."""
    import torch

    network, images = ready(defenses.torch_edsr(bench.edsr)), as_torch(bench.small_images)
    if arithmetic == BF16:
        network, images = copy.deepcopy(network).to(torch.bfloat16), images.to(torch.bfloat16)
    network = through(network)

    def enlarge() -> Any:
        with torch.inference_mode():
            return network(images)

    return synchronised(arithmetic, enlarge, autocast=False)


def attack(
    bench: Workbench,
    arithmetic: str,
    make: Callable[[Any, Any], Any],
    chosen: Callable[[Workbench], tuple[np.ndarray, np.ndarray]] = lambda bench: bench.attacked,
) -> Run:
    """An attack of torchattacks on the images, made from that library and the network."""
    import torch
    import torchattacks

    images, labels = chosen(bench)
    if not (bench.pretrained or bench.sizes.toy):
        raise InputError("its network has other random weights, and an attack its own number of steps")
    # In PyTorch's own layout: some of its attacks view images as vectors.
    inputs = as_torch(images).contiguous()
    classes = torch.from_numpy(labels.astype(np.int64)).to(device())
    made = make(torchattacks, classifier(bench))
    return synchronised(arithmetic, partial(made, inputs, classes))
