"""Where bfloat16 is the faster one."""

import torch


def bfloat16_is_faster(cuda: bool) -> bool:
    """Whether the processors have instructions for it: emulated on a CPU, it takes three times as long as float32.

    Args:
        cuda: it's GPUs that will compute; where none can be asked from here, they're taken for ones that have them.
    """
    if cuda:
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
