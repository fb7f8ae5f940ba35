"""How tables show the numbers of a comparison."""

from __future__ import annotations

# Below it a p is the far tail of Student's t alone, which neither draws nor simulations bear out.
_SMALLEST_P = 0.001


def shown(value: float | None, form: str = ".4f") -> str:
    """A number, or a dash where there is none.

    >>> shown(0.25), shown(-0.1, "+.2f"), shown(None)
    ('0.2500', '-0.10', '-')
    """
    return "-" if value is None else format(value, form)


def shown_p(p: float | None) -> str:
    """A p-value in [0, 1], or a dash where there is none; a small one is only said to be below 0.001, and none is 0.

    >>> shown_p(0.0321), shown_p(3.2e-08), shown_p(0.0), shown_p(None)
    ('0.032', '< 0.001', '< 0.001', '-')
    """
    return f"< {_SMALLEST_P:g}" if p is not None and p < _SMALLEST_P else shown(p, ".2g")
