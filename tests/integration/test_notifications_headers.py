"""Whatever a text holds, it makes no header of a mail, and none of its headers says anything else."""

from __future__ import annotations

from email import message_from_bytes, policy

from hypothesis import example, given
from hypothesis import strategies as st

from services.notify_mail import compose
from services.notify_message import Message, header_line
from tests.support.nights import NOW

# Encoded texts, which a mail program decodes, and whatever may end a line or fold it.
TRICKY = st.from_regex(
    r"(=\?|utf-8|\?[qb]\?|=0D=0A|DQo=|Bcc: a@b\.c|[\s\x00-\x1f\x85\u2028\u202e=?_ñ漢,;<>]){0,40}", fullmatch=True
)


def composed(subject: str) -> bytes:
    """A mail as it goes to the server."""
    return compose(Message("key", subject, "text"), sender="a@example.org", to="b@example.org", now=NOW).as_bytes()


HEADERS = message_from_bytes(composed("plain")).keys()


@given(TRICKY | st.text(st.characters(codec="utf-8"), max_size=250))
@example("=?utf-8?q?x=0D=0ABcc:_everybody=40example.org?=")
def test_a_subject_is_one_header_and_says_what_it_says(subject: str) -> None:
    raw = composed(subject)
    mail = message_from_bytes(raw, policy=policy.default)
    assert mail.keys() == HEADERS
    assert mail["Subject"] == header_line(subject)
    assert max(map(len, raw.splitlines())) <= 998
