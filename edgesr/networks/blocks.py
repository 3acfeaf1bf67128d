"""The few layers that more than one network uses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelPReLU(nn.PReLU):
    """PReLU with one slope a channel; the same numbers and parameters as `nn.PReLU`, faster.

    While training on a CPU with channels last, the inner loop of torch's kernel is only as long
    as the channels (16 here). Seen as rows of width*channels it is long enough to vectorise:
    a training step of ECBSR-M4C16 in bf16 takes 0.85 of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.device.type == "cpu"):
            return F.prelu(x, self.weight)
        n, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n * h, w * c)  # a view in channels last
        rows = F.prelu(rows, self.weight.repeat(w))
        return rows.view(n, h, w, c).permute(0, 3, 1, 2)
