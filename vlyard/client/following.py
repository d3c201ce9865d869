"""Reading a stream of server-sent events to its end, through lost connections. Knows the wire, and no jobs."""

import codecs
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import httpx

from vlyard.client.patience import FIRST_PAUSE
from vlyard.client.problems import shown
from vlyard.errors import Unavailable
from vlyard.jobs.events import DONE

SILENCE = 45.0  # seconds: three of the API's heartbeats, after which a connection counts as lost
_log = logging.getLogger("vlyard.client")


@dataclass(frozen=True)
class Message:
    """One message of a stream, and the number with which the stream goes on after it."""

    seq: int
    data: str


def follow_stream(connect: Callable[[int], httpx.Response], after: int) -> Iterator[Message]:
    """Every message after a number, once and in order, until the stream says that it is done.

    `connect` opens the stream after a number, as often as the connection is lost, and raises when it gives up.
    """
    while True:
        reply = connect(after)
        try:
            for name, message in _messages(_lines(reply.iter_bytes())):
                if name == DONE:
                    return
                if message.seq > after:
                    after = message.seq
                    yield message
        except httpx.TransportError as error:
            _log.warning("%s broke off: %s; going on after %d", shown(reply.url), error or type(error).__name__, after)
        except httpx.HTTPError as error:
            raise Unavailable(f"{shown(reply.url)} cannot be read: {error}") from error
        finally:
            reply.close()
        time.sleep(FIRST_PAUSE)  # a server that ends streams early is not run over


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The whole lines of a stream as the standard ends them, section 9.2.5: by CR, LF or both.

    Unicode's other ends of lines, U+0085, U+2028 and U+2029, stand as they are in what a log or an error says.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    rest = ""
    for piece in chain(pieces, (b"",)):  # the empty one is the end: a last CR that no LF follows
        *whole, rest = (rest + decoder.decode(piece, final=not piece)).split("\n")
        yield from whole


def _messages(lines: Iterator[str]) -> Iterator[tuple[str, Message]]:
    """Each message with its name. One that was cut off is none: only an empty line ends a message."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "event" in fields:
                yield fields["event"], Message(int(fields.get("id", "0")), fields.get("data", ""))
            fields = {}
