"""The initial bias of the classification head."""

import numpy as np

from counterpoise.balance import Correction
from counterpoise.balance.losses.protocol import Loss
from counterpoise.errors import UserError


def initial_head_bias(correction: Correction, loss: Loss, setting: bool | str) -> np.ndarray | None:
    """Return the initial bias of the head, float [C], or None for zeros.

    The bias is the constant logit vector of least loss, so that training does not start with learning the class
    frequencies (Lin et al., ICCV 2017, section 3.3).

    Args:
        correction: Correction of the first epoch.
        loss: Loss of the first epoch.
        setting: `bias_init`: True, False, or "auto", which is True for multi-label data only.
    """
    if setting not in (True, False, "auto"):
        raise UserError(f"bias_init={setting}: use true, false or auto")
    if setting is False or (setting == "auto" and not correction.multi_label):
        return None
    return loss.initial_logits(correction)
