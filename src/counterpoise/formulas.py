"""Texts that a spreadsheet evaluates as a formula when it opens a CSV file.

Reference:
    OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
"""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def escape_formula(text: str) -> str:
    """Return the text with an additional apostrophe in front if it starts like a formula: with =, +, -, @, tab or CR.

    Numbers are not changed. Texts that already start with apostrophes before such a character get one more, so that
    `unescape_formula` returns every text as it was.
    """
    return f"'{text}" if _FORMULA.match(text) and not is_number_text(text) else text


def unescape_formula(text: str) -> str:
    """Return the text that `escape_formula` was given."""
    return text[1:] if _ESCAPED.match(text) else text


def is_number_text(text: str) -> bool:
    """Return whether a text is a number, as Python reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
