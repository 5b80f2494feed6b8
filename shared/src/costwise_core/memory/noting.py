"""What a view tells the bill: how much shorter a prompt is, and by which words to know it."""

from collections.abc import Sequence

from costwise_core.memory.messages import Conversation, Message
from costwise_core.memory.view import MemoryView, newest_question
from costwise_core.notes import pieces_of
from costwise_core.waterfall import LeftOut

__all__ = ["note_of"]


def note_of(
    conversation: Conversation, history: Sequence[Message], view: MemoryView, *, exact: bool
) -> LeftOut | None:
    """Return what a view left out, None if nothing.

    The prompt is known by a line of the summary and one of the newest question, and by having none
    of what went. Where the next prompt has the same lines, the newer note stands for it.

    Example:
        >>> old, new = Message(role="user", text="Red shoes?"), Message(role="user", text="Blue?")
        >>> view = MemoryView(summary="Ada asks for shoes.", kept=(new,), left_out_tokens=90)
        >>> note = note_of(Conversation(id="1"), [old, new], view, exact=True)
        >>> note.tokens, note.pieces, note.absent
        (90, ('Ada asks for shoes.', 'Blue?'), ('Red shoes?',))
    """
    if not view.left_out_tokens:
        return None
    asked = newest_question(view.kept)
    newest = view.kept[-1:] if asked is None else view.kept[asked : asked + 1]
    (question,) = pieces_of(one.text for one in newest) or ("",)
    sent = "\n".join(one.text for one in view.messages)
    gone = pieces_of(one.text for one in history[: len(history) - len(view.kept)])
    return LeftOut(
        stage="memory",
        tokens=view.left_out_tokens,
        pieces=pieces_of([view.summary, question]),
        absent=tuple(piece for piece in gone if piece not in sent),
        source=f"{conversation.key}\n{question}",
        question=question,
        kind="measured" if exact else "modelled",
        why=view.why,
    )
