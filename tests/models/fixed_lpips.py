"""LPIPS's networks with weights from `fixed_weights`, and pictures to compare."""

import fixed_weights as fixed
import numpy as np

# torchvision's convolutions: index -> (channels in, out, kernel)
ALEX = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3)}
ALEX |= {10: (256, 256, 3)}
VGG = {0: (3, 64, 3), 2: (64, 64, 3), 5: (64, 128, 3), 7: (128, 128, 3)}
VGG |= {10: (128, 256, 3), 12: (256, 256, 3), 14: (256, 256, 3), 17: (256, 512, 3)}
VGG |= dict.fromkeys((19, 21, 24, 26, 28), (512, 512, 3))
CONVOLUTIONS = {"alex": ALEX, "vgg": VGG}
# of the package: the convolutions of its slices, and the heads' widths
SLICES = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28)}
WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def features(name):
    """torchvision's keys -> weights that keep activations of order one."""
    found = {}
    for index, (before, after, kernel) in CONVOLUTIONS[name].items():
        shape, bound = (after, before, kernel, kernel), (6 / before / kernel**2) ** 0.5
        noise = fixed.uniform(f"{name}{index}", shape)
        found[f"features.{index}.weight"] = np.float32(bound) * noise
        bias = fixed.uniform(f"{name}{index}b", (after,))
        found[f"features.{index}.bias"] = np.float32(0.1) * bias
    return found


def heads(name, key="lin{}.model.1.weight"):
    """The heads' keys -> weights above 0, as trained ones are."""
    return {
        key.format(i): (1 + fixed.uniform(f"{name}h{i}", (1, c, 1, 1))) / np.float32(c)
        for i, c in enumerate(WIDTHS[name])
    }


def published(name):
    """The state dict of the package `lpips`: slices, heads twice, scaling layer."""
    found = {}
    for key, value in features(name).items():
        _, index, part = key.split(".")
        place = 1 + sum(int(index) > last for last in SLICES[name])
        found[f"net.slice{place}.{index}.{part}"] = value
    found |= heads(name) | heads(name, "lins.{}.model.1.weight")
    for part, values in (("shift", SHIFT), ("scale", SCALE)):
        found[f"scaling_layer.{part}"] = np.float32(values).reshape(1, 3, 1, 1)
    return found


def pictures():
    """Pairs [3 67 80 3]: two of noise, much the same, equal."""
    a, b = (0.5 + 0.5 * fixed.uniform(f"lpips{i}", (3, 67, 80, 3)) for i in range(2))
    b[1] = np.clip(a[1] + 0.03 * b[1], 0, 1)
    b[2] = a[2]
    return a, b
