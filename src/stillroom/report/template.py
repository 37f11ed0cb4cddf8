"""Fill a page's template: everything is escaped but for the plots, which we draw ourselves."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPT = "cards.js"


def fill(name: str, context: Mapping[str, Any]) -> str:
    """Return a template of this package with its values filled in.

    The page's only script is `cards.js`; its digest in the content security policy keeps any other from running.
    """
    return _environment().get_template(name).render(context)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("stillroom.report", ".")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = loader.get_source(made, SCRIPT)[0].strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals.update(script=Markup(script), script_digest=digest)
    made.filters["drawn"] = Markup
    made.filters["thousands"] = "{:,}".format
    made.filters["spaced"] = lambda text: text.replace("_", " ")
    return made
