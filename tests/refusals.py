"""What every refusal has in common: a UserError whose message is one line."""

from collections.abc import Callable
from typing import Any

import pytest

from counterpoise.errors import UserError


def user_error(action: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Return the message of the UserError that a call raises."""
    with pytest.raises(UserError) as error:
        action(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
