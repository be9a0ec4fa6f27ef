"""Find the letter that a response chose, among words that look like letters.

Letters count only as capitals: raising prose to capitals would turn every article "a" into an answer. A capital "A"
that begins a sentence ("A photon is ...") and the pronoun "I" are words too.
"""

from __future__ import annotations

import re

from verl.rewards.boxed import last_boxed

_STANDALONE = re.compile(r"(?<!\w)(?<!\w[-'’])[A-J](?!\w)(?![-'’]\w)")
_WORD_FOLLOWS = re.compile(r"[ \t]+(?!(?:is|was|because|since)\b)[^\W\d_]")
_SENTENCE_BEGINS = re.compile(r"(?:^|\n|[.!?:;\"“”>])\s*\Z")
_ONE_LETTER = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf|rm|bf)\b|[\s{}()\[\]$*.:,])*([A-J])(?:[\s{}()\[\]$*.:,])*")


def standalone_letters(text: str, letters: str) -> list[re.Match[str]]:
    """All capitals of `letters` (a part of A to J) that stand alone and are neither article nor pronoun, in order."""
    return [match for match in _STANDALONE.finditer(text) if match[0] in letters and not _is_word(text, match)]


def last_letter(text: str, letters: str) -> str:
    """The last such letter, or ""."""
    found = standalone_letters(text, letters)
    return found[-1][0] if found else ""


def boxed_letter(text: str, letters: str) -> str:
    r"""The letter in the last `\boxed{}`, also as `\text{B}`, `(B)` or `B.`; "" when anything else is boxed."""
    match = _ONE_LETTER.fullmatch(last_boxed(text) or "")
    return match[1] if match and match[1] in letters else ""


def _is_word(text: str, letter: re.Match[str]) -> bool:
    """Whether the letter is the article A or the pronoun I: a word follows, other than one that follows an answer."""
    if letter[0] not in "AI" or not _WORD_FOLLOWS.match(text, letter.end()):
        return False
    return letter[0] == "I" or _SENTENCE_BEGINS.search(text, max(0, letter.start() - 20), letter.start()) is not None
