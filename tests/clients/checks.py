"""What the clients' scripts share: a check that says what held, and what the embedded model is asked."""

import contextlib

QUESTION = [{"role": "user", "content": "What is Sluice?"}]
PROMPT = "Sluice is"


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")
    print(f"ok: {message}")


@contextlib.contextmanager
def refused(kind, message, **attributes):
    """Demands an error of this kind with these attributes."""
    try:
        yield
    except kind as error:
        found = {name: getattr(error, name) for name in attributes}
        check(found == attributes, f"{message}: {kind.__name__} {found}")
    else:
        raise SystemExit(f"FAILED: {message}: {kind.__name__} expected, and nothing was refused")
