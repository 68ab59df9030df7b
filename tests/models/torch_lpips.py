"""LPIPS in plain torch, written from the paper and the published keys: the oracle.

`torch_lpips(name)` has the state dict of the package `lpips` (0.1.4): net.sliceS.N, the
heads twice, the scaling layer.
"""

import torch
from torch import nn

# (channels, kernel, stride, padding) of a convolution, "M" a pooling, in torchvision
ALEX = [(64, 11, 4, 2), "M", (192, 5, 1, 2), "M", (384, 3, 1, 1)]
ALEX += [(256, 3, 1, 1), (256, 3, 1, 1)]
VGG = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M"]
VGG += [512, 512, 512, "M", 512, 512, 512]
ENDS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}
WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def torchvision_features(name):
    """`features` of torchvision's alexnet or vgg16, up to the last map compared."""
    layers, channels = [], 3
    for one in ALEX if name == "alex" else VGG:
        if one == "M":
            layers.append(nn.MaxPool2d(*((3, 2) if name == "alex" else (2, 2))))
            continue
        width, kernel, stride, padding = (one, 3, 1, 1) if name == "vgg" else one
        layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        layers = [nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False)]
        self.model = nn.Sequential(*layers)


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        self.register_buffer("shift", torch.tensor(shift)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(scale)[None, :, None, None])


class TorchLPIPS(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.scaling_layer, self.net = Scaling(), nn.Module()
        features, begin = torchvision_features(name), 0
        for number, end in enumerate(ENDS[name], 1):
            part = nn.Sequential()
            for index in range(begin, end):
                part.add_module(str(index), features[index])
            self.net.add_module(f"slice{number}", part)
            begin = end
        for number, width in enumerate(WIDTHS[name]):
            self.add_module(f"lin{number}", Head(width))
        self.lins = nn.ModuleList([getattr(self, f"lin{i}") for i in range(5)])

    def forward(self, a, b):
        """a, b [b 3 h w] in [0, 1] -> [b]."""
        total, maps = 0.0, []
        for x in (a, b):
            x = (2 * x - 1 - self.scaling_layer.shift) / self.scaling_layer.scale
            found = []
            for part in self.net.children():
                x = part(x)
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
            maps.append(found)
        for head, one, other in zip(self.lins, *maps):
            total = total + head.model((one - other) ** 2).mean((1, 2, 3))
        return total


def torch_lpips(name):
    """The network in evaluation mode, its weights torch's own random ones."""
    return TorchLPIPS(name).eval().requires_grad_(False)
