"""Vision transformers of timm as networks with maps: tokens of some blocks, laid out as a grid.

A transformer sees a picture as square patches, one token each, and some tokens beside them: class,
distillation, registers. A block's map is its patches' tokens where the patches are. Positions were
learnt for one grid; for others they are resampled as timm does, bicubic with antialiasing, so
pictures may have any shape whose sides are multiples of a patch. Nothing after the last block that
is used is built or run.

Of `timm.models.vision_transformer` (ViT, DINOv2, DeiT, plain and distilled) and `timm.models.cait`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import timm
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.models.cait import Cait
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ad.core.devices import in_precision
from ad.core.errors import SettingError
from ad.core.networks.products import fast_products
from ad.runtime.framing.size import Size


def has_tokens(model: nn.Module) -> bool:
    """Whether a model of timm is one that `TokenMaps` takes."""
    return isinstance(model, VisionTransformer | Cait) and type(model.patch_embed) is PatchEmbed


@final
class TokenMaps(nn.Module):
    """The maps of some blocks of a vision transformer.

    Args:
        name: Full timm name of a model that `has_tokens`.
        indices: Numbers of the blocks, from shallow to deep.
        norm: Whether the maps pass the final norm, which the transformer has after its last block.
        pretrained: Whether timm downloads its weights.
        size: Of the pictures to expect; others are as good, but their positions are resampled anew
            for each batch.

    Raises:
        SettingError: If a side of ``size`` is no multiple of a patch.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        name: str,
        indices: Sequence[int],
        *,
        norm: bool,
        pretrained: bool,
        size: Size | None = None,
    ) -> None:
        super().__init__()
        create: Any = timm.create_model  # models have what none of timm's types tells
        # A download is read into the whole model; else what is not used is not built.
        depth = {} if pretrained else {"depth": max(indices) + 1}
        self.name = name
        self.model = create(name, pretrained=pretrained, num_classes=0, **depth)
        self.model.prune_intermediate_layers(list(indices), prune_norm=not norm)
        self.indices = tuple(indices)
        self.norm = norm
        self.prefix: tuple[str, ...] = ()
        if not isinstance(self.model, Cait):  # whose class token joins after the last block
            known = ("cls_token", "dist_token", "reg_token")
            self.prefix = tuple(one for one in known if getattr(self.model, one, None) is not None)
        self.prefix_tokens = sum(getattr(self.model, one).shape[1] for one in self.prefix)
        self.learnt_grid: tuple[int, int] = self.model.patch_embed.grid_size
        self.size = size
        grid = self.learnt_grid if size is None else self.grid(size)
        for buffer, learnt, wanted in zip(("rows", "columns"), self.learnt_grid, grid, strict=True):
            self.register_buffer(buffer, _resampling(learnt, wanted), persistent=False)

    def grid(self, size: Size) -> tuple[int, int]:
        """Rows and columns of patches of a picture.

        Raises:
            SettingError: If a side is no multiple of a patch.
        """
        patch = self.model.patch_embed.patch_size[0]
        if not size.divides(patch, patch):
            msg = (
                f"`img_size` must be a multiple of {patch} for backbone `{self.name}`, whose "
                f"patches are {patch} pixels wide; got {size.typed}. Near it: "
                f"{size.near(patch, patch)}."
            )
            raise SettingError(msg)
        return size.height // patch, size.width // patch

    @torch.no_grad()
    def open_blocks(self) -> None:
        """Let every block count fully, where they have scales that start near zero to be learnt.

        A network with random weights would be its patches' projection else, whatever the block.
        """
        for name, parameter in self.model.blocks.named_parameters():
            if name.rpartition(".")[2].startswith("gamma"):  # of LayerScale, in either kind
                parameter.fill_(1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract maps of patches.

        Args:
            images: ``[B, 3, H, W]``, normalised as the transformer wants them.

        Returns:
            ``[B, D, h, w]`` for each block, channels-last.
        """
        height, width = self.grid(Size(images.shape[2], images.shape[3]))
        shape = (images.shape[0], height, width, self.model.embed_dim)
        return [
            each[:, self.prefix_tokens :]
            .reshape(shape)
            .movedim(3, 1)
            .contiguous(memory_format=torch.channels_last)
            for each in self.tokens(images)
        ]

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Extract all tokens.

        Args:
            images: As for `forward`.

        Returns:
            ``[B, prefix_tokens + h * w, D]`` for each block: class, distillation and register
            tokens, as far as there are any, then the patches', row by row.
        """
        x = self._embedded(images)
        found = []
        with fast_products(x):
            for index, block in enumerate(self.model.blocks):
                x = block(x)
                if index in self.indices:
                    found.append(self.model.norm(x) if self.norm else x)
        return found

    def _embedded(self, images: Tensor) -> Tensor:
        """What the first block is given."""
        model = self.model
        grid = self.grid(Size(images.shape[2], images.shape[3]))
        embed = model.patch_embed  # called itself, it may insist on the size it learnt from
        patches = embed.norm(embed.proj(images).flatten(2).mT)
        prefix = [getattr(model, one).expand(images.shape[0], -1, -1) for one in self.prefix]
        if model.pos_embed is not None:
            learnt = self.learnt_grid[0] * self.learnt_grid[1]
            others = model.pos_embed.shape[1] - learnt  # prefix tokens may have positions, too
            patches = patches + self._positions(model.pos_embed[:, others:], grid)
            if others:
                prefix = [torch.cat(prefix, dim=1) + model.pos_embed[:, :others]]
        x = model.pos_drop(torch.cat([*prefix, patches], dim=1))
        return x if isinstance(model, Cait) else model.norm_pre(x)  # type: ignore[no-any-return]

    def _positions(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        """Learnt positions ``[1, H * W, D]`` on another grid, ``[1, h * w, D]``, float32."""
        if grid == self.learnt_grid:
            return table
        rows, columns = self.rows, self.columns
        if grid != (rows.shape[0], columns.shape[0]):
            rows = _resampling(self.learnt_grid[0], grid[0]).to(table)
            columns = _resampling(self.learnt_grid[1], grid[1]).to(table)
        with in_precision("fp32", table.device):  # weights, not activations
            learnt = table.reshape(*self.learnt_grid, -1)
            on_rows = torch.einsum("hH,HWd->hWd", rows, learnt)
            return torch.einsum("wW,hWd->hwd", columns, on_rows).flatten(0, 1)[None]


def _resampling(learnt: int, wanted: int) -> Tensor:
    """Weights ``[wanted, learnt]`` of bicubic resampling along one side, float32."""
    each = torch.eye(learnt)[None, None]  # a row for each place; rows stay as they are
    resampled = F.interpolate(each, size=(learnt, wanted), mode="bicubic", antialias=True)
    return resampled[0, 0].mT.contiguous()
