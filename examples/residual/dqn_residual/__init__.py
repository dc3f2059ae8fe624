"""A residual network, as IMPALA's: three stages of a convolution, max-pooling and two residual blocks."""

import itertools

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x.relu()).relu())


class ResNet(nn.Module):
    def __init__(self, frame_shape: tuple[int, int], stack: int, width: int = 1) -> None:
        super().__init__()
        sizes, layers = [stack, 16 * width, 32 * width, 32 * width], []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, 2, 1), Block(after), Block(after)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        height, width_in_pixels = (-(-size // 8) for size in frame_shape)
        self.widths = (sizes[-1] * height * width_in_pixels, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
