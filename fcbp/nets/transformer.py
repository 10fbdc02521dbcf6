"""A pre-norm transformer encoder, and a small vision transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments, check_elements
from fcbp.kinds import Count

__all__ = ["TransformerEncoder", "VisionTransformer"]


class SelfAttention(nn.Module):
    """Multi-head self-attention: one projection to queries, keys and values, one from all heads' values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}, heads is {heads}; expected heads to divide width")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "*batch tokens width"]) -> Float[Tensor, "*batch tokens width"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2).unbind(-3)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))
        return mixed


class EncoderBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Float[Tensor, "*batch tokens width"]) -> Float[Tensor, "*batch tokens width"]:
        x = x + self.attn(self.norm1(x))
        encoded: Tensor = x + self.mlp(self.norm2(x))
        return encoded


class TransformerEncoder(nn.Module):
    """Pre-norm encoder blocks and a last norm (Xiong et al., 2020, arXiv 2002.04745).

    Linear weights are drawn from xavier's uniform distribution, biases are 0.

    Args:
        width: features of a token.
        depth: blocks.
        heads: attention heads a block; divides ``width``.
        hidden: units of a block's hidden layer; 4 times the width by default.

    Raises:
        ValueError: ``heads`` does not divide ``width``.

    Example:
        >>> TransformerEncoder(width=16, depth=2, heads=4)(torch.zeros(3, 10, 16)).shape
        torch.Size([3, 10, 16])
    """

    @arguments
    def __init__(self, width: Count, depth: Count, heads: Count, hidden: Count | None = None):
        super().__init__()
        check_elements("depth", depth, depth, width)
        check_elements("width", width, width, width)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, hidden or 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Float[Tensor, "*batch tokens width"]) -> Float[Tensor, "*batch tokens width"]:
        encoded: Tensor = self.norm(self.blocks(tokens))
        return encoded


class VisionTransformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2021, arXiv 2010.11929).

    Patches are projected to tokens, a class token goes before them, positions are learned, and the class token's
    last state is read. The patch projection is drawn as lecun's normal, the class token is 0 and positions come from
    ``N(0, 0.02^2)``, the head starts at 0, as in the paper's code.

    Args:
        classes: outputs.
        image: height and width of the images.
        patch: height and width of a patch; divides ``image``.
        channels: channels of the images.
        width: features of a token.
        depth: encoder blocks.
        heads: attention heads a block.
        hidden: units of a block's hidden layer; 4 times the width by default.

    Raises:
        ValueError: ``patch`` does not divide ``image``, or ``heads`` does not divide ``width``.

    Example:
        >>> VisionTransformer(classes=10, width=16, depth=1, heads=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    @arguments
    def __init__(
        self,
        classes: Count,
        *,
        image: Count = 32,
        patch: Count = 4,
        channels: Count = 3,
        width: Count = 192,
        depth: Count = 6,
        heads: Count = 3,
        hidden: Count | None = None,
    ):
        super().__init__()
        if image % patch:
            raise ValueError(f"patch is {patch}, image is {image}; expected patch to divide image")
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (image // patch) ** 2, width))
        self.encoder = TransformerEncoder(width, depth, heads, hidden)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.patches.weight, std=(channels * patch**2) ** -0.5)
        nn.init.zeros_(self.head.weight)
        for bias in (self.patches.bias, self.head.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        outputs: Tensor = self.head(self.encoder(tokens + self.positions)[:, 0])
        return outputs
