"""How packages that VLyard can do without are installed: by extras of this distribution, which is built in a checkout.

Knows no index: a package of this name there may be anybody's.
"""


def installing(extra: str) -> str:
    """What to do to have an extra's packages."""
    return f"pip install '.[{extra}]' in a checkout of VLyard"
