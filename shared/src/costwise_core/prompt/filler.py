"""Words in a prompt that say nothing, in English and German."""

import re
from typing import Final

from costwise_core.passages import Span
from costwise_core.prompt.worked import CODE, QUOTED, blanked

__all__ = ["fillers"]

# What is said, then what would do instead. Politeness that is one short word is left alone.
_PHRASES: Final = r"""
(?:please|kindly) (?:note|be aware|keep in mind|remember|bear in mind) that\b ->
it(?: is|'s) (?:very |extremely )?(?:important|worth|crucial) (?:to note|noting) that\b ->
it (?:should|must) be (?:noted|mentioned|pointed out) that\b ->
please (?:make (?:absolutely )?sure|be sure|ensure) (?:that you|to)\b ->
(?:what )?i(?: would|'d) (?:really )?like (?:for )?you to\b ->
i (?:want|need) you to\b ->
(?:could|would|can) you please\b ->
kindly\b ->
(?:please )?feel free to\b ->
(?:needless to say|it goes without saying(?: that)?),? ->
as (?:i |we )?(?:already |previously )?mentioned (?:above|before|earlier|previously),? ->
as you (?:may |might |probably |already )*know, ->
last but not least,? ->
take a deep breath(?: and)?\b ->
this is (?:very |extremely )?important (?:to|for) my career[.!]? ->
i(?: wi|')ll (?:give you a )?tip (?:you |of )?\$\d+[^.!\n]{0,40}[.!]? ->
(?:thank you|thanks)(?: very much| so much)? in advance[.!]? ->
in order to\b -> to
(?:due to|because of|in light of) the fact that\b -> because
(?:in spite of|despite) the fact that\b -> although
at (?:this|the present) (?:point in|moment in) time\b -> now
in the event that\b -> if
until such time as\b -> until
for the purposes? of\b -> for
ha(?:s|ve) the ability to\b -> can
bitte beachten?(?: sie| du)?,? dass\b ->
es ist wichtig,? (?:zu (?:beachten|erwähnen)|darauf hinzuweisen),? dass\b ->
ich möchte,? dass (?:du|sie)\b ->
aufgrund der tatsache,? dass\b -> weil
zum jetzigen zeitpunkt\b -> jetzt
vielen dank im voraus[.!]? ->
"""
_FILLERS: Final = tuple(
    (re.compile(rf"\b(?:{said.strip()})", re.IGNORECASE), instead.strip())
    for said, instead in (line.split("->") for line in _PHRASES.strip().splitlines())
)


def fillers(text: str) -> list[tuple[Span, str]]:
    """Return where words say nothing, and the shorter words that would do instead.

    Example:
        >>> fillers("In order to help, please note that refunds take a week.")
        [((0, 11), 'to'), ((18, 34), '')]
    """
    bare = blanked(text, CODE, QUOTED)
    found: list[tuple[Span, str]] = []
    taken = bytearray(len(bare))
    for pattern, instead in _FILLERS:
        for match in pattern.finditer(bare):
            start, end = match.span()
            if not any(taken[start:end]):
                taken[start:end] = b"1" * (end - start)
                found.append(((start, end), instead))
    return sorted(found)
