"""Fill a page's template: everything is escaped but for the plots, which we draw ourselves."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

CARDS = "cards.js"


def fill(name: str, context: Mapping[str, Any], scripts: Sequence[str] = (CARDS,)) -> str:
    """Return a template of this package with its values filled in.

    Args:
        name: of the template.
        context: its values.
        scripts: files of this package, joined to the page's only script; its digest in the content security policy
            keeps any other from running.
    """
    from markupsafe import Markup

    made = _environment()
    assert made.loader is not None
    script = "\n".join(made.loader.get_source(made, part)[0].strip() for part in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return made.get_template(name).render({**context, "script": Markup(script), "script_digest": digest})


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("stillroom.report", ".")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["drawn"] = Markup
    made.filters["thousands"] = "{:,}".format
    made.filters["percent"] = percent
    made.filters["spaced"] = lambda text: text.replace("_", " ")
    return made


def percent(value: float) -> str:
    """Return a percentage with about two digits, small ones as a bound."""
    return f"{value:.0f}%" if value >= 10 else f"{value:.1f}%" if value >= 0.1 else "<0.1%"
