"""Layers of srdef's networks in PyTorch, with the same weights."""

import numpy as np
import torch


def convolution(layer, stride=1):
    """Zero padding of half the kernel."""
    kernel = np.asarray(layer.kernel[...])
    size, _, inputs, outputs = kernel.shape
    twin = torch.nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=layer.bias is not None)
    twin.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
    if layer.bias is not None:
        twin.bias.data = torch.tensor(np.array(layer.bias[...]))
    return twin


def batch_norm(layer):
    twin = torch.nn.BatchNorm2d(layer.mean.shape[0])
    twin.weight.data, twin.bias.data = (torch.tensor(np.array(v[...])) for v in (layer.scale, layer.bias))
    twin.running_mean, twin.running_var = (torch.tensor(np.array(v[...])) for v in (layer.mean, layer.var))
    return twin


def linear(layer):
    twin = torch.nn.Linear(*layer.kernel.shape)
    twin.weight.data = torch.tensor(np.array(layer.kernel[...]).T)
    twin.bias.data = torch.tensor(np.array(layer.bias[...]))
    return twin


def prelu(layer):
    twin = torch.nn.PReLU(layer.slope.shape[0])
    twin.weight.data = torch.tensor(np.array(layer.slope[...]))
    return twin
