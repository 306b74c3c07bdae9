"""What a body is handed on in."""

from collections.abc import Callable

Piece = bytes | memoryview
"""A piece of a body. A view is good only for the call that it is given to: what it views is received into again."""

Take = Callable[[Piece], bool]
"""Takes a piece; false when no more should come for now."""
