"""Adversarial losses on the logits of a discriminator: real is high, no sigmoid before.

    vanilla         binary cross-entropy (Goodfellow et al., NeurIPS 2014), the generator's term in
                    its non-saturating form, which is also StyleGAN2's. SRGAN, Real-ESRGAN, GLEAN.
    relativistic    is a real picture more real than the fakes are on average, and the reverse
                    (Jolicoeur-Martineau, ICLR 2019; ESRGAN, ECCVW 2018). ESRGAN, SPSR, Beby-GAN.

Logits have any shape, (N, 1) or (N, 1, H, W); averages run over all of them. The generator's step
needs the real logits for the relativistic loss only, and no gradient of them: compute them under
`torch.no_grad()`. The discriminator's step gets the logits of `output.detach()`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Both terms as functions of (real logits, fake logits)."""

    generator: Term
    discriminator: Term
    needs_real: bool
    """Whether the generator's term looks at the real logits."""


def vanilla_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of -log sigmoid(fake)."""
    return as_real(fake)


def vanilla_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of -log sigmoid(real), plus mean of -log(1 - sigmoid(fake)); not halved."""
    return as_real(real) + as_fake(fake)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's term with the classes exchanged; half of the sum, as in BasicSR."""
    real = real.detach()
    return (as_fake(real - fake.mean()) + as_real(fake - real.mean())) / 2


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half of the sum. The averages carry gradient, as in the formula; BasicSR's do not."""
    return (as_real(real - fake.mean()) + as_fake(fake - real.mean())) / 2


def as_real(logits: Tensor) -> Tensor:
    """Cross-entropy of calling all of these real."""
    return F.softplus(-logits).mean()


def as_fake(logits: Tensor) -> Tensor:
    """Cross-entropy of calling all of these fake."""
    return F.softplus(logits).mean()


ADVERSARIAL: dict[str, Adversarial] = {
    "vanilla": Adversarial(
        generator=vanilla_generator, discriminator=vanilla_discriminator, needs_real=False
    ),
    "relativistic": Adversarial(
        generator=relativistic_generator, discriminator=relativistic_discriminator, needs_real=True
    ),
}
