"""The events that ComfyUI sends over its websocket, read with the standard library.

Source: RFC 6455; ComfyUI server.py, websocket_handler.
"""

import base64
import hashlib
import json
import os
import socket
import ssl
import struct
from typing import Any
from urllib.parse import urlsplit

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80
MASKED = 0x80
SHORT_LENGTH, LONG_LENGTH = 126, 127
HANDSHAKE_LIMIT = 65536


class EventStream:
    """One client's events. Raises OSError when ComfyUI cannot be reached or ends the connection."""

    def __init__(self, url: str, client_id: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = socket.create_connection((parts.hostname or "127.0.0.1", port), timeout_s)
        if parts.scheme == "https":
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
        self._connection = connection
        self._received = b""
        self._message = b""
        try:
            self._shake_hands(parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/ws?clientId={client_id}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event that is not an image, as `{"type": …, "data": …}`; None if there is none for `timeout_s`."""
        self._connection.settimeout(timeout_s)
        try:
            while True:
                kind, payload = self._next_message()
                if kind == TEXT:
                    return json.loads(payload)
        except TimeoutError:  # what has arrived of a message stays in _received and _message
            return None

    def _next_message(self) -> tuple[int, bytes]:
        while True:
            first, payload = self._next_frame()
            kind = first & 0x0F
            if kind == CLOSE:
                raise ConnectionResetError("ComfyUI closed the connection")
            if kind == PING:
                self._send(PONG, payload)
            elif kind in (0x0, TEXT, BINARY):
                self._kind = kind or self._kind
                self._message += payload
                if first & FINAL:
                    message, self._message = self._message, b""
                    return self._kind, message

    def _next_frame(self) -> tuple[int, bytes]:
        """First byte and payload; takes nothing from the buffer until the whole frame is there."""
        self._fill(2)
        length, start = self._received[1] & 0x7F, 2
        if length >= SHORT_LENGTH:
            start = 4 if length == SHORT_LENGTH else 10
            self._fill(start)
            (length,) = struct.unpack(">H" if start == 4 else ">Q", self._received[2:start])
        self._fill(start + length)
        first, payload = self._received[0], self._received[start : start + length]
        self._received = self._received[start + length :]
        return first, payload

    def _fill(self, size: int) -> None:
        while len(self._received) < size:
            chunk = self._connection.recv(65536)
            if not chunk:
                raise ConnectionResetError("ComfyUI ended the connection")
            self._received += chunk

    def _send(self, kind: int, payload: bytes) -> None:
        """One masked frame of at most 125 bytes, which is all that a client's answers need."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._connection.sendall(bytes([FINAL | kind, MASKED | len(payload)]) + mask + masked)

    def _shake_hands(self, host: str, target: str) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13", "", ""]
        self._connection.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._received:
            if len(self._received) > HANDSHAKE_LIMIT:
                raise ConnectionError("the answer to the websocket request has no end")
            self._fill(len(self._received) + 1)
        header, _, self._received = self._received.partition(b"\r\n\r\n")
        expected = base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest())
        if b" 101 " not in header.splitlines()[0] + b" " or expected not in header:
            raise ConnectionError(f"no websocket at {host}{target}: {header.splitlines()[0].decode(errors='replace')}")
