"""What all pages share: the templates' environment, the style sheet, limits of size, and how values become text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pydrift.core.text import printable

# These keep every page under 2 MB, however many rows it has and however long the names are.
TABLE_ROWS = 250
REASONS = 20
SETTINGS = 100
TEXT_LIMIT = 4000  # characters of any one text
NAME_LIMIT = 60  # characters of a name

# Colour alone never tells a verdict.
SYMBOL = {"stable": "●", "drift": "▲", "related": "△", "inconclusive": "◆", "unmeasured": "◇"}

_FOLDER = Path(__file__).parent


def render_page(template: str, **values: Any) -> str:
    """The page that a template makes of the values and of what all pages share."""
    return _ENVIRONMENT.get_template(template).render(css=_style_sheet(), **values)


def percent(share: float) -> str:
    """A share in percent, with three digits."""
    return f"{100 * share:.3g} %"


def p_text(p: float | None) -> str:
    """A p-value with three digits, or n/a where there is none."""
    return "n/a" if p is None else f"{p:.3g}"


def list_names(names: list[str], at_most: int) -> str:
    """The names, separated by commas, as far as there is room; the rest are counted."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def flat_settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Nested settings as dotted names and JSON values, at most SETTINGS of them.

    They are sorted, because a result that was read back from JSON has lost their order.
    """
    return _flat(settings, "")[:SETTINGS]


def _flat(settings: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in sorted(settings.items()):
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return rows


def _style_sheet() -> Markup:
    return Markup((_FOLDER / "page.css").read_text("utf-8"))


def _finalize(value: Any) -> Any:
    """Makes control characters visible in every text of a page; after that autoescape makes markup harmless."""
    return printable(value, TEXT_LIMIT) if type(value) is str else value


def _minus(text: str) -> str:
    """A number's hyphen as a minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"minus": _minus, "printable": printable, "percent": percent, "p_text": p_text}
_ENVIRONMENT.globals |= {"SYMBOL": SYMBOL, "NAME_LIMIT": NAME_LIMIT, "REASONS": REASONS}
