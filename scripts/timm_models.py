"""Cut models of timm's families to 0.7 of their FLOPs and write the table into docs/research/models.md.

    pip install timm
    python scripts/timm_models.py
    python scripts/timm_models.py resnet18 vit_tiny_patch16_224 --out -

The smallest of each family, with seeded random weights and batch-norms as after training; random scores, the hardest
case for the trace, because no layer is spared.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from detectors import TIMM, examine, of_timm

SHARE = 0.7
"""Of the FLOPs that is kept."""

SIDE = 128
"""Pixels of the square image, where a model does not ask for more."""

MODELS: dict[str, int] = {
    **dict.fromkeys(
        (
            *("resnet18", "resnext50_32x4d", "seresnet18", "skresnet18", "ecaresnet26t", "resnest14d"),
            *(
                "res2net50_14w_8s",
                "tresnet_m",
                "nf_resnet26",
                "nfnet_f0",
                "densenet121",
                "dpn68",
                "dla34",
                "vgg11_bn",
                "xception41",
            ),
            *("inception_v4", "inception_resnet_v2", "hrnet_w18_small", "cspresnet50", "darknet21", "ese_vovnet19b_dw"),
            *("efficientnet_lite0", "mobilenetv2_050", "mobilenetv3_small_050", "mobilenetv4_conv_small_035"),
            *("ghostnet_050", "mixnet_s", "lcnet_050", "rexnet_100", "regnetx_002", "regnety_002", "repvgg_a0"),
            *("mobileone_s0", "repvit_m0_9", "fastvit_t8", "convnext_atto", "convnextv2_atto", "starnet_s050"),
            *("hgnetv2_b0", "selecsls42b", "poolformer_s12", "edgenext_xx_small", "mobilevit_xxs", "pvt_v2_b0"),
            *("efficientvit_b0", "inception_next_atto"),
        ),
        SIDE,
    ),
    **dict.fromkeys(
        (
            *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224"),
            *("resmlp_12_224", "levit_128s", "xcit_nano_12_p16_224", "coat_lite_tiny"),
        ),
        224,
    ),
}
"""Sides of the image, by the model's name."""


WHY = """\
What is held would not be exact, or is written down as a number. **Channels that share one mean**: a layer norm, or a
group norm, divides by a spread of all channels, which a cut changes; so the stream that blocks add to is held in
ConvNeXt, in all transformers and mixers and in PoolFormer, and what lies inside the blocks is cut. ConvNeXt V2 has a
norm over channels there as well, and nothing is left. **Filters that are normalized by what they read** (NFNet,
NF-ResNet): without one input all others change. **Attention along channels** (ECA, EdgeNeXt) mixes them. **Numbers that
a constructor works out and no forward pass does** hold what they count: the width of a head in the attention of
transformers, the pieces of Res2Net, MixNet, SKNet, CSPNet, DPN and ReXNet. MobileOne's outputs are equal to the bit."""
"""What the last column comes from."""


def write(rows: list[str], failed: dict[str, str], out: Path) -> None:
    """Put the table behind all that stands in the file before it."""
    lines = [
        TIMM,
        "",
        f"One small model of each family, cut to {SHARE} of its FLOPs, or as far as its channels allow, by random",
        "scores; seeded random weights, batch-norms as after training. Written by the command below.",
        "",
        "    python scripts/timm_models.py",
        "",
        f"timm {version('timm')}, torch {torch.__version__.split('+')[0]}, one thread, two images. Columns as above.",
        "",
        "| network | example | prunable | error | seconds | FLOPs kept | held |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *rows,
        *(["", "Not pruned:", "", *(f"* **{n}**: {e}" for n, e in failed.items())] if failed else []),
        "",
        WHY,
    ]
    text = "\n".join(lines) + "\n"
    if str(out) == "-":
        sys.stdout.write(text)
    else:
        before = out.read_text(encoding="utf-8").split(TIMM, 1)[0].rstrip()
        out.write_text(f"{before}\n\n{text}", encoding="utf-8")


def main() -> None:
    """Examine the named models, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"models; all by default: {', '.join(MODELS)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "research" / "models.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the package
    rows: list[str] = []
    failed: dict[str, str] = {}
    for name in arguments.names or MODELS:
        try:
            rows.append(examine(name, partial(of_timm, name, MODELS.get(name, 224)), SHARE))
            print(rows[-1], flush=True)
        except Exception as e:  # the table tells what went wrong, and the others go on
            failed[name] = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
            print(f"{name}: {failed[name]}", flush=True)
    write(rows, failed, arguments.out)


if __name__ == "__main__":
    main()
